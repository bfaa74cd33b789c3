//! Windows, as Python gives them and gets them.

use crate::errors::OrRaise;
use knnspect_core::pyramid::{PyramidShape, Window};
use pyo3::prelude::*;

/// The radius of a window on each level, finest first; `None` is any distance.
pub(crate) type Radii = Vec<Option<usize>>;

/// The first row (or column) that is compared with each, and the one after the last.
pub(crate) type Bounds = Vec<(usize, usize)>;

/// For each row, and for each column, of the finest level, those that are compared with it.
pub(crate) fn bounds_of(window: &Window) -> (Bounds, Bounds) {
    let of = |ranges: &[std::ops::Range<usize>]| ranges.iter().map(|r| (r.start, r.end)).collect();
    (of(window.rows()), of(window.columns()))
}

/// The bounds of a window on levels of some shapes, unless everything is within it.
#[pyfunction]
pub(crate) fn window_bounds(
    py: Python<'_>,
    shapes: Vec<(usize, usize, usize)>,
    radii: Radii,
) -> PyResult<Option<(Bounds, Bounds)>> {
    let shape = PyramidShape::new(&shapes).or_raise(py)?;
    let window = Window::new(&shape, &radii).or_raise(py)?;
    Ok(window.as_ref().map(bounds_of))
}
