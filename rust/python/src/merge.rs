//! Merging what the parts of a gallery found.

use crate::interrupt;
use crate::results::Rescored;
use knnspect_core::search::{self, FoundInPart};
use numpy::{PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

/// Squared distances, ranks and cells that were found in one part of a gallery, each `(n_cells, k)`.
type Lists<'py> = (
    PyReadonlyArray2<'py, f64>,
    PyReadonlyArray2<'py, u32>,
    PyReadonlyArray2<'py, u32>,
);

/// The `k` nearest of what was found in several parts of a gallery.
#[pyfunction]
pub(crate) fn merge_found<'py>(
    py: Python<'py>,
    parts: Vec<Lists<'py>>,
    k: usize,
) -> PyResult<Rescored> {
    let n_cells = parts.first().map_or(0, |part| part.0.shape()[0]);
    let lists = parts.iter().map(|(sq_distances, ranks, cells)| {
        Ok(FoundInPart {
            k: sq_distances.shape()[1],
            sq_distances: sq_distances.as_slice()?,
            ranks: ranks.as_slice()?,
            cells: cells.as_slice()?,
        })
    });
    let lists = lists.collect::<PyResult<Vec<_>>>()?;
    let found = interrupt::run(py, |_| search::merge(&lists, n_cells, k))?;
    Rescored::new(py, found, &[n_cells, k])
}
