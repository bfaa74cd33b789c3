//! The values of one level.

use crate::quantize::QuantizedLevel;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ops::Range;

/// Values of one level, of one or of many images, row-major (image, row, column, channel).
#[derive(Clone, Copy, Debug)]
pub enum LevelData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// Codes of one byte, of one image: what a gallery holds, never a batch.
    I8(QuantizedLevel<'a>),
}

impl<'a> LevelData<'a> {
    /// Number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::I8(codes) => codes.codes.len(),
        }
    }

    /// Whether there are no values.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values `start..start + len`; of codes, those of whole cells.
    ///
    /// # Panics
    /// When the range is out of bounds.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> LevelData<'a> {
        match *self {
            Self::F32(values) => LevelData::F32(&values[start..start + len]),
            Self::F16(values) => LevelData::F16(&values[start..start + len]),
            Self::I8(codes) => LevelData::I8(QuantizedLevel {
                codes: &codes.codes[start..start + len],
                ..codes
            }),
        }
    }

    /// Writes all values to `out`; of codes, those of whole cells.
    ///
    /// # Panics
    /// When `out` has not their number.
    #[inline]
    pub fn decode_into(&self, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "room for all values");
        match self {
            Self::F32(values) => out.copy_from_slice(values),
            Self::F16(values) => values.convert_to_f32_slice(out),
            Self::I8(codes) => {
                let cells = out.chunks_exact_mut(codes.offsets.len());
                for (cell, out) in cells.enumerate() {
                    for (out, value) in out.iter_mut().zip(codes.cell(cell)) {
                        *out = value;
                    }
                }
            }
        }
    }

    /// Appends the values of one cell, of `channels` values, to `feature`.
    ///
    /// # Panics
    /// When there is no such cell.
    #[inline]
    pub(crate) fn append_cell(&self, channels: usize, cell: usize, feature: &mut Vec<f64>) {
        let range = cell * channels..(cell + 1) * channels;
        match self {
            Self::F32(values) => feature.extend(values[range].iter().map(|&v| f64::from(v))),
            Self::F16(values) => feature.extend(values[range].iter().map(|v| v.to_f64())),
            Self::I8(codes) => feature.extend(codes.cell(cell).map(f64::from)),
        }
    }

    /// Whether two cells, each of `channels` values, have the same values; of codes with a scale of
    /// 0, whether they have the same codes.
    pub(crate) fn same_cells(&self, channels: usize, cell: usize, other: usize) -> bool {
        fn same<T: PartialEq>(values: &[T], channels: usize, cell: usize, other: usize) -> bool {
            values[cell * channels..][..channels] == values[other * channels..][..channels]
        }
        match self {
            Self::F32(values) => same(values, channels, cell, other),
            Self::F16(values) => same(values, channels, cell, other),
            Self::I8(codes) => same(codes.codes, channels, cell, other),
        }
    }

    /// Whether all values are finite; of codes, whether all values that codes can give are.
    pub(crate) fn all_finite(&self) -> bool {
        match self {
            Self::F32(values) => all(values, |v| v.is_finite()),
            Self::F16(values) => all(values, |v| v.is_finite()),
            Self::I8(codes) => codes.are_finite(),
        }
    }
}

/// As `Iterator::all`, but without a branch for each value.
fn all<T>(values: &[T], is_so: impl Fn(&T) -> bool) -> bool {
    let mut parts = values.chunks(1024);
    parts.all(|part| {
        part.iter()
            .fold(true, |so_far, value| so_far & is_so(value))
    })
}

/// Appends some values of a level, of whole cells, as float32, which they are without loss.
pub(crate) fn decode_into(level: &LevelData<'_>, range: Range<usize>, values: &mut Vec<f32>) {
    let start = values.len();
    values.resize(start + range.len(), 0.0);
    level
        .slice(range.start, range.len())
        .decode_into(&mut values[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_cells_are_decoded_whatever_they_are_kept_as() {
        let values: Vec<f32> = (0..200).map(|v| v as f32 - 100.0).collect();
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        let codes: Vec<i8> = values.iter().map(|&v| v as i8).collect();
        let codes = QuantizedLevel {
            codes: &codes,
            offsets: &[0.0; 100],
            scales: &[1.0; 100],
        };
        for level in [
            LevelData::F32(&values),
            LevelData::F16(&halves),
            LevelData::I8(codes),
        ] {
            let mut all = [0.0_f32; 200];
            level.decode_into(&mut all);
            assert_eq!(all[..], values);
            let mut feature = vec![7.0];
            level.append_cell(100, 1, &mut feature);
            assert_eq!((feature[0], feature[1], feature[100]), (7.0, 0.0, 99.0));
            assert_eq!(feature.len(), 101);
            let mut cell = [0.0_f32; 100];
            level.slice(100, 100).decode_into(&mut cell);
            assert_eq!(cell, values[100..], "{level:?}");
        }
    }
}
