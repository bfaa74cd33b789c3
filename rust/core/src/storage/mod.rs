//! Files: checksummed tensors, replaced atomically, memory-mapped, and regular ones only.

pub(crate) mod atomic;
mod buffer;
mod mapping;
pub(crate) mod opening;
mod tensors;

pub use atomic::replace_file;
pub(crate) use buffer::{Buffer, to_bytes};
pub(crate) use mapping::Mapping;
pub use opening::{Links, read_file};
pub use tensors::{Dtype, Store, StoredTensor, Tensor, write};
