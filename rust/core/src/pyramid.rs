//! Feature pyramids: their shapes, their data, and how coarse levels are upsampled.

use crate::codes::Codes;
use crate::error::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Element type of stored features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats; distances are exact for the decoded values.
    F16,
    /// One byte per value, with a scale and an offset for each channel of each level of an image
    /// ([`Codes`]); distances are exact for the decoded values.
    I8,
}

impl DType {
    /// The name by which it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::I8 => "int8",
        }
    }

    /// Finds a type by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::I8]
            .into_iter()
            .find(|dtype| dtype.name() == name)
    }

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

/// How a coarse level is brought to the resolution of the finest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsample {
    /// Bilinear interpolation with half-pixel centres (`align_corners=False`).
    Bilinear,
    /// Each coarse cell is repeated (nearest-neighbour upsampling).
    Block,
}

impl Upsample {
    /// The name by which it is asked for, and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bilinear => "bilinear",
            Self::Block => "block",
        }
    }

    /// Finds a way of upsampling by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Bilinear, Self::Block]
            .into_iter()
            .find(|upsample| upsample.name() == name)
    }
}

/// Height, width and channels of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelShape {
    /// Rows of cells.
    pub height: usize,
    /// Columns of cells.
    pub width: usize,
    /// Values of each cell.
    pub channels: usize,
}

impl LevelShape {
    /// Number of cells.
    #[must_use]
    pub const fn cells(&self) -> usize {
        self.height * self.width
    }

    /// Number of values.
    #[must_use]
    pub const fn values(&self) -> usize {
        self.cells() * self.channels
    }
}

/// The shapes of all levels of a pyramid, finest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PyramidShape {
    levels: Vec<LevelShape>,
}

impl PyramidShape {
    /// Checks `(height, width, channels)` of each level, finest first.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no level, a level is empty, the height or width of a level
    /// does not divide that of the finer one, or the sizes are too large to be addressed.
    pub fn new(levels: &[(usize, usize, usize)]) -> Result<Self> {
        if levels.is_empty() {
            return Err(Error::Shape(
                "a feature pyramid needs at least one level, got none".into(),
            ));
        }
        let mut checked: Vec<LevelShape> = Vec::with_capacity(levels.len());
        for (index, &(height, width, channels)) in levels.iter().enumerate() {
            if height == 0 || width == 0 || channels == 0 {
                return Err(Error::Shape(format!(
                    "level {index}: height, width and channels must be at least 1, got {height} x {width} x {channels}"
                )));
            }
            let fits = height
                .checked_mul(width)
                .filter(|&cells| u32::try_from(cells).is_ok())
                .and_then(|cells| cells.checked_mul(channels))
                .is_some_and(|values| values <= isize::MAX as usize / 8);
            if !fits {
                return Err(Error::Shape(format!(
                    "level {index}: {height} x {width} x {channels} is too large"
                )));
            }
            if let Some(finer) = checked.last()
                && (finer.height % height != 0 || finer.width % width != 0)
            {
                return Err(Error::Shape(format!(
                    "level {index} is {height} x {width}: its height and width must divide those of the finer level, {} x {}",
                    finer.height, finer.width
                )));
            }
            checked.push(LevelShape {
                height,
                width,
                channels,
            });
        }
        let total = checked
            .iter()
            .try_fold(0_usize, |total, level| total.checked_add(level.values()));
        if total.is_none_or(|total| total > isize::MAX as usize / 8) {
            return Err(Error::Shape("the levels are too large together".into()));
        }
        Ok(Self { levels: checked })
    }

    /// The levels, finest first.
    #[must_use]
    pub fn levels(&self) -> &[LevelShape] {
        &self.levels
    }

    /// The finest level.
    #[must_use]
    pub fn finest(&self) -> LevelShape {
        self.levels[0]
    }

    /// Number of values of one image, over all levels.
    #[must_use]
    pub fn values(&self) -> usize {
        self.levels.iter().map(LevelShape::values).sum()
    }

    /// `56x56x24 + 28x28x40`, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let levels: Vec<String> = self
            .levels
            .iter()
            .map(|l| format!("{}x{}x{}", l.height, l.width, l.channels))
            .collect();
        levels.join(" + ")
    }
}

/// Values of one level, of one or of many images, row-major (image, row, column, channel).
#[derive(Clone, Copy, Debug)]
pub enum LevelData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
    /// Codes of one byte, of one image: what a gallery holds, never a batch.
    I8(Codes<'a>),
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
            Self::I8(codes) => LevelData::I8(Codes {
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

/// The pyramids of a batch of images, borrowed: one [`LevelData`] of all images per level.
#[derive(Clone, Debug)]
pub struct PyramidBatch<'a> {
    shape: PyramidShape,
    n_images: usize,
    levels: Vec<LevelData<'a>>,
}

impl<'a> PyramidBatch<'a> {
    /// Checks that each level holds `n_images` times the values of its shape, as floats.
    ///
    /// # Errors
    /// [`Error::Shape`] when it does not; [`Error::Parameter`] for codes, which belong to one image
    /// of a gallery: decode them ([`LevelData::decode_into`]).
    pub fn new(shape: PyramidShape, n_images: usize, levels: Vec<LevelData<'a>>) -> Result<Self> {
        if levels.len() != shape.levels.len() {
            return Err(Error::Shape(format!(
                "expected the values of {} levels, got {}",
                shape.levels.len(),
                levels.len()
            )));
        }
        for (index, (data, level)) in levels.iter().zip(&shape.levels).enumerate() {
            if matches!(data, LevelData::I8(_)) {
                return Err(Error::Parameter(format!(
                    "level {index}: expected float32 or float16, got int8"
                )));
            }
            if Some(data.len()) != n_images.checked_mul(level.values()) {
                return Err(Error::Shape(format!(
                    "level {index}: {n_images} images of {}x{}x{} values were expected, got {} values",
                    level.height,
                    level.width,
                    level.channels,
                    data.len()
                )));
            }
        }
        Ok(Self {
            shape,
            n_images,
            levels,
        })
    }

    /// The shape of each image.
    #[must_use]
    pub const fn shape(&self) -> &PyramidShape {
        &self.shape
    }

    /// Number of images.
    #[must_use]
    pub const fn n_images(&self) -> usize {
        self.n_images
    }

    /// The values of one level of one image.
    ///
    /// # Panics
    /// When there is no such image or level.
    #[must_use]
    pub fn level(&self, image: usize, level: usize) -> LevelData<'a> {
        let values = self.shape.levels[level].values();
        self.levels[level].slice(image * values, values)
    }

    /// All levels of one image.
    #[must_use]
    pub fn image(&self, image: usize) -> Vec<LevelData<'a>> {
        (0..self.levels.len())
            .map(|level| self.level(image, level))
            .collect()
    }

    /// Fails on the first image that holds a NaN or an infinity.
    ///
    /// # Errors
    /// [`Error::Image`] with the name that `name` gives the image, and the level.
    pub fn check_finite(&self, name: impl Fn(usize) -> String) -> Result<()> {
        for image in 0..self.n_images {
            for level in 0..self.levels.len() {
                if !self.level(image, level).all_finite() {
                    return Err(Error::Image(format!(
                        "{}, level {level}: features must be finite, got NaN or infinity",
                        name(image)
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The two coarse rows (or columns) that a fine one is interpolated from; the weight of `first` is
/// `1 - second_weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tap {
    pub first: usize,
    pub second: usize,
    pub second_weight: f64,
}

impl Tap {
    /// One tap for each of `fine` positions over `coarse` ones; `coarse` divides `fine`.
    pub(crate) fn table(upsample: Upsample, fine: usize, coarse: usize) -> Vec<Self> {
        let ratio = fine / coarse;
        (0..fine)
            .map(|position| match upsample {
                Upsample::Block => Self {
                    first: position / ratio,
                    second: position / ratio,
                    second_weight: 0.0,
                },
                Upsample::Bilinear => {
                    // Half-pixel centres; positions outside the outermost centres take the edge.
                    // In whole numbers, so that equal places have equal weights at every ratio.
                    let halves = (2 * position + 1)
                        .saturating_sub(ratio)
                        .min(2 * ratio * (coarse - 1));
                    let first = halves / (2 * ratio);
                    let second_weight = (halves % (2 * ratio)) as f64 / (2 * ratio) as f64;
                    let second = if second_weight > 0.0 {
                        first + 1
                    } else {
                        first
                    };
                    Self {
                        first,
                        second,
                        second_weight,
                    }
                }
            })
            .collect()
    }
}

/// One level as the matcher sees it: its shape, and where each fine row and column comes from.
#[derive(Clone, Debug)]
pub(crate) struct LevelGrid {
    pub shape: LevelShape,
    pub rows: Vec<Tap>,
    pub columns: Vec<Tap>,
}

impl LevelGrid {
    /// The four cells under a fine position; fewer different ones where a weight is 0.
    pub(crate) fn corners(&self, row: usize, column: usize) -> [usize; 4] {
        let (r, c) = (self.rows[row], self.columns[column]);
        let (first, second) = (r.first * self.shape.width, r.second * self.shape.width);
        [
            first + c.first,
            first + c.second,
            second + c.first,
            second + c.second,
        ]
    }

    /// Their weights, which sum to 1.
    pub(crate) fn corner_weights(&self, row: usize, column: usize) -> [f64; 4] {
        let (down, across) = (
            self.rows[row].second_weight,
            self.columns[column].second_weight,
        );
        [
            (1.0 - down) * (1.0 - across),
            (1.0 - down) * across,
            down * (1.0 - across),
            down * across,
        ]
    }

    /// The feature at a fine position, in float32, from the values of this level.
    pub(crate) fn interpolate_into(
        &self,
        values: &[f32],
        row: usize,
        column: usize,
        feature: &mut Vec<f32>,
    ) {
        let channels = self.shape.channels;
        let [a, b, c, d] = self
            .corners(row, column)
            .map(|at| &values[at * channels..][..channels]);
        let (down, across) = (
            self.rows[row].second_weight as f32,
            self.columns[column].second_weight as f32,
        );
        feature.clear();
        if down == 0.0 && across == 0.0 {
            feature.extend_from_slice(a);
            return;
        }
        feature.extend(
            a.iter()
                .zip(b)
                .zip(c.iter().zip(d))
                .map(|((a, b), (c, d))| {
                    let (top, bottom) = (a + across * (b - a), c + across * (d - c));
                    top + down * (bottom - top)
                }),
        );
    }
}

/// A pyramid shape together with the way its levels are upsampled: what a search needs to know
/// about every image.
#[derive(Clone, Debug)]
pub struct PyramidContext {
    shape: PyramidShape,
    pub(crate) grids: Vec<LevelGrid>,
}

impl PyramidContext {
    /// Tabulates the interpolation of each level.
    #[must_use]
    pub fn new(shape: PyramidShape, upsample: Upsample) -> Self {
        let finest = shape.finest();
        let grids = shape
            .levels
            .iter()
            .map(|&level| LevelGrid {
                shape: level,
                rows: Tap::table(upsample, finest.height, level.height),
                columns: Tap::table(upsample, finest.width, level.width),
            })
            .collect();
        Self { shape, grids }
    }

    /// The shape of each image.
    #[must_use]
    pub const fn shape(&self) -> &PyramidShape {
        &self.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_nest() {
        assert!(PyramidShape::new(&[(8, 4, 3), (4, 2, 5), (1, 1, 7)]).is_ok());
        let message = PyramidShape::new(&[(8, 4, 3), (3, 2, 5)])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("level 1 is 3 x 2") && message.contains("8 x 4"),
            "{message}"
        );
        assert!(PyramidShape::new(&[]).is_err());
        assert!(PyramidShape::new(&[(1, 0, 1)]).is_err());
        assert!(PyramidShape::new(&[(usize::MAX, 2, 1)]).is_err());
    }

    #[test]
    fn bilinear_taps_have_half_pixel_centres() {
        let taps = Tap::table(Upsample::Bilinear, 4, 2);
        let at: Vec<f64> = taps
            .iter()
            .map(|t| t.first as f64 + t.second_weight)
            .collect();
        assert_eq!(at, [0.0, 0.25, 0.75, 1.0]);
        assert_eq!(taps[3].second, 1);
        assert_eq!(
            Tap::table(Upsample::Bilinear, 3, 1),
            vec![
                Tap {
                    first: 0,
                    second: 0,
                    second_weight: 0.0
                };
                3
            ]
        );
    }

    #[test]
    fn block_taps_repeat() {
        let firsts: Vec<usize> = Tap::table(Upsample::Block, 6, 2)
            .iter()
            .map(|t| t.first)
            .collect();
        assert_eq!(firsts, [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn whole_cells_are_decoded_whatever_they_are_kept_as() {
        let values: Vec<f32> = (0..200).map(|v| v as f32 - 100.0).collect();
        let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        let codes: Vec<i8> = values.iter().map(|&v| v as i8).collect();
        let codes = Codes {
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

    #[test]
    fn a_batch_holds_no_codes() {
        let shape = PyramidShape::new(&[(1, 1, 1), (1, 1, 1)]).unwrap();
        let codes = Codes {
            codes: &[0],
            offsets: &[1.0],
            scales: &[0.0],
        };
        let levels = vec![LevelData::F32(&[1.0]), LevelData::I8(codes)];
        let message = PyramidBatch::new(shape, 1, levels).unwrap_err().to_string();
        assert_eq!(message, "level 1: expected float32 or float16, got int8");
    }

    #[test]
    fn non_finite_features_are_named() {
        let shape = PyramidShape::new(&[(1, 1, 2)]).unwrap();
        let values = [0.0, 1.0, f32::NAN, 0.0];
        let batch = PyramidBatch::new(shape, 2, vec![LevelData::F32(&values)]).unwrap();
        let message = batch
            .check_finite(|i| format!("image {i}"))
            .unwrap_err()
            .to_string();
        assert!(message.starts_with("image 1, level 0"), "{message}");
    }
}
