//! How an image is kept in a folder: one record of bytes, with a checksum.

use crate::pyramid::{DType, PyramidShape};
use half::f16;
use std::ops::Range;

/// Where in a folder an image is: which record of which segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordPlace {
    pub segment: u32,
    pub record: usize,
}

/// Where the features of one image stand among the bytes of its record in a folder: level by level,
/// each part at a multiple of [`ALIGNMENT`], zeros between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordLayout {
    pub dtype: DType,
    /// For each level the bytes of its values, and for int8 those of its offsets and scales.
    pub levels: Vec<Vec<Range<usize>>>,
    /// Bytes of a record.
    pub stride: usize,
}

/// Wide enough for every instruction set.
const ALIGNMENT: usize = 64;

impl RecordLayout {
    pub(crate) fn new(shape: &PyramidShape, dtype: DType) -> Self {
        let mut stride = 0;
        let mut place = |n_bytes: usize| {
            let start = stride;
            stride = (start + n_bytes).next_multiple_of(ALIGNMENT);
            start..start + n_bytes
        };
        let levels = shape
            .levels()
            .iter()
            .map(|level| {
                let affine = level.channels * size_of::<f32>();
                match dtype {
                    DType::F32 => vec![place(level.values() * size_of::<f32>())],
                    DType::F16 => vec![place(level.values() * size_of::<f16>())],
                    DType::I8 => vec![place(level.values()), place(affine), place(affine)],
                }
            })
            .collect();
        Self {
            dtype,
            levels,
            stride,
        }
    }
}
