//! Feature pyramids: their shapes, their data, and how coarse levels are upsampled.

mod batch;
mod concatenate;
mod dtype;
mod level;
mod shape;
mod upsample;
mod window;

pub use batch::PyramidBatch;
pub use concatenate::concatenate;
pub(crate) use concatenate::{append_flat_rows, append_row, n_features, too_many};
pub use dtype::DType;
pub use level::LevelData;
pub(crate) use level::decode_into;
pub use shape::{LevelShape, PyramidShape};
pub(crate) use upsample::{LevelGrid, Tap, upsample_into};
pub use upsample::{PyramidContext, Upsample};
pub(crate) use window::Area;
pub use window::Window;
