//! NumPy arrays as the core sees them.

use crate::errors::{DTypeError, OrRaise, ShapeError, at_level};
use half::f16;
use knnspect_core::pyramid::{LevelData, PyramidBatch, PyramidShape};
use numpy::{
    PyArrayDyn, PyArrayMethods, PyReadonlyArray2, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;

/// The arrays of a pyramid batch, held while the core reads them.
pub(crate) struct Levels<'py> {
    arrays: Vec<Level<'py>>,
    shape: PyramidShape,
    n_images: usize,
}

enum Level<'py> {
    F32(PyReadonlyArrayDyn<'py, f32>),
    F16(PyReadonlyArrayDyn<'py, f16>),
}

impl<'py> Levels<'py> {
    /// Checks types, axes and sizes of one `(n_images, height, width, channels)` array per level.
    pub(crate) fn new(py: Python<'py>, levels: &[Bound<'py, PyUntypedArray>]) -> PyResult<Self> {
        let mut arrays = Vec::with_capacity(levels.len());
        let mut shapes = Vec::with_capacity(levels.len());
        let mut n_images = None;
        for (index, array) in levels.iter().enumerate() {
            let wrong_shape = |message: String| {
                let message = format!("level {index}{message}");
                at_level(py, ShapeError::new_err(message), index)
            };
            let &[images, height, width, channels] = array.shape() else {
                return Err(wrong_shape(format!(
                    ": expected (n_images, height, width, channels), got shape {:?}",
                    array.shape()
                )));
            };
            let first = *n_images.get_or_insert(images);
            if first != images {
                return Err(wrong_shape(format!(
                    " has {images} images, level 0 has {first}"
                )));
            }
            if !array.is_c_contiguous() {
                return Err(wrong_shape(": expected a C-contiguous array".into()));
            }
            shapes.push((height, width, channels));
            arrays.push(if let Ok(array) = array.cast::<PyArrayDyn<f32>>() {
                Level::F32(array.try_readonly()?)
            } else if let Ok(array) = array.cast::<PyArrayDyn<f16>>() {
                Level::F16(array.try_readonly()?)
            } else {
                let message = format!(
                    "level {index}: expected float32 or float16, got {}",
                    array.dtype()
                );
                return Err(at_level(py, DTypeError::new_err(message), index));
            });
        }
        let shape = PyramidShape::new(&shapes).or_raise(py)?;
        Ok(Self {
            arrays,
            shape,
            n_images: n_images.unwrap_or(0),
        })
    }

    /// The values, borrowed.
    pub(crate) fn batch(&self, py: Python<'_>) -> PyResult<PyramidBatch<'_>> {
        let mut levels = Vec::with_capacity(self.arrays.len());
        for array in &self.arrays {
            levels.push(match array {
                Level::F32(array) => LevelData::F32(array.as_slice()?),
                Level::F16(array) => LevelData::F16(array.as_slice()?),
            });
        }
        PyramidBatch::new(self.shape.clone(), self.n_images, levels).or_raise(py)
    }
}

/// Refuses a projection that is not for rows of so many features.
pub(crate) fn check_projection(
    projection: Option<&PyReadonlyArray2<'_, f32>>,
    n_features: usize,
) -> PyResult<()> {
    let Some(shape) = projection.map(|matrix| matrix.shape()) else {
        return Ok(());
    };
    if shape[0] == n_features {
        return Ok(());
    }
    let message =
        format!("projection: expected {n_features} rows, one per feature, got shape {shape:?}");
    Err(ShapeError::new_err(message))
}
