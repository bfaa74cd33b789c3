//! The pyramids of a batch of images.

use super::level::LevelData;
use super::shape::PyramidShape;
use crate::error::{Error, Result};

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
            return Err(Error::shape(format!(
                "expected the values of {} levels, got {}",
                shape.levels.len(),
                levels.len()
            )));
        }
        for (index, (data, level)) in levels.iter().zip(&shape.levels).enumerate() {
            if matches!(data, LevelData::I8(_)) {
                let message = format!("level {index}: expected float32 or float16, got int8");
                return Err(Error::parameter("levels", message).at_level(index));
            }
            if Some(data.len()) != n_images.checked_mul(level.values()) {
                return Err(Error::shape(format!(
                    "level {index}: {n_images} images of {}x{}x{} values were expected, got {} values",
                    level.height,
                    level.width,
                    level.channels,
                    data.len()
                )).at_level(index));
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
    /// [`Error::Image`] with the id of the image, or where there are none its number as a query, and the
    /// level.
    pub fn check_finite(&self, ids: Option<&[String]>) -> Result<()> {
        for image in 0..self.n_images {
            for level in 0..self.levels.len() {
                if !self.level(image, level).all_finite() {
                    let (name, id) = match ids {
                        Some(ids) => (format!("image {:?}", ids[image]), ids[image].clone()),
                        None => (format!("query image {image}"), image.to_string()),
                    };
                    let message = format!(
                        "{name}, level {level}: features must be finite, got NaN or infinity"
                    );
                    return Err(Error::image(message).of_image(id).at_level(level));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::QuantizedLevel;

    #[test]
    fn a_batch_holds_no_codes() {
        let shape = PyramidShape::new(&[(1, 1, 1), (1, 1, 1)]).unwrap();
        let codes = QuantizedLevel {
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
        let error = batch.check_finite(None).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("query image 1, level 0"), "{message}");
        let report = error.report().unwrap();
        assert_eq!(
            (report.image.as_deref(), report.level),
            (Some("1"), Some(0))
        );
    }
}
