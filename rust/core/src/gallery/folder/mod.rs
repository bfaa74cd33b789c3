//! A gallery in a folder: changed in place, at any time, by one process, and read by many.
//!
//! ```text
//! bottle.gallery/
//!   journal            what was added and removed (journal.rs)
//!   features-00000001  the features, image after image (segment.rs)
//!   lock               held by the process that changes it (lock.rs)
//! ```
//!
//! Features are only ever appended, and synced before the journal has them; the journal is only ever
//! appended to, or replaced as a whole by [`Folder::compact`]. So every moment leaves a gallery as it
//! was before or after a change, and who has opened one keeps what was there then, even when its files
//! have been deleted since. Removed images stay where they are until the folder is compacted.
//!
//! Opening reads the journal alone. Every image has a checksum there, which is compared when the image
//! is first used.

mod checksum;
mod journal;
mod lock;
mod read;
mod record;
mod replay;
mod segment;
mod writable;
mod writer;

pub(crate) use checksum::{Checksum, checksum, from_hex, hex};
pub use lock::Lock;
pub(crate) use lock::Owner;
pub(crate) use read::read;
pub(crate) use record::{RecordLayout, RecordPlace};
pub(crate) use replay::State;
pub(crate) use writable::Folder;
