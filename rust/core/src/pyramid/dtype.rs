//! How features are stored.

use super::shape::PyramidShape;
use crate::names::named;

/// Element type of stored features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats; distances are exact for the decoded values.
    F16,
    /// One byte per value, with a scale and an offset for each channel of each level of an image
    /// ([`QuantizedLevel`](crate::quantize::QuantizedLevel)); distances are exact for the decoded values.
    I8,
}

named!(DType, "dtype", { F32 => "float32", F16 => "float16", I8 => "int8" });

impl DType {
    /// Bytes of the features of one image.
    #[must_use]
    pub fn image_bytes(self, shape: &PyramidShape) -> usize {
        match self {
            Self::F32 => 4 * shape.values(),
            Self::F16 => 2 * shape.values(),
            Self::I8 => {
                let channels: usize = shape.levels.iter().map(|level| level.channels).sum();
                shape.values() + 2 * size_of::<f32>() * channels
            }
        }
    }
}
