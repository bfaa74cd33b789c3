//! What searches and selections return: frozen objects whose fields are NumPy arrays.

use knnspect_core::search;
use numpy::{PyArray, PyArray1, PyArray2, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;

/// What a search or a selection did.
#[pyclass(frozen, get_all, module = "knnspect._core")]
pub(crate) struct SearchStats {
    /// All pairs.
    pairs: u64,
    /// The stages in their order, and the pairs that each compared.
    stages: Vec<(String, u64)>,
}

impl From<search::SearchStats> for SearchStats {
    fn from(stats: search::SearchStats) -> Self {
        let search::SearchStats { pairs, stages } = stats;
        Self { pairs, stages }
    }
}

/// What a search found.
#[pyclass(frozen, get_all, module = "knnspect._core")]
pub(crate) struct Neighbors {
    sq_distances: Py<PyArrayDyn<f32>>,
    ranks: Py<PyArrayDyn<u32>>,
    cells: Py<PyArrayDyn<u32>>,
    stats: Py<SearchStats>,
}

impl Neighbors {
    /// As arrays of a shape.
    pub(crate) fn new(py: Python<'_>, found: search::Neighbors, shape: &[usize]) -> PyResult<Self> {
        Ok(Self {
            sq_distances: array(py, found.sq_distances, shape)?,
            ranks: array(py, found.ranks, shape)?,
            cells: array(py, found.cells, shape)?,
            stats: Py::new(py, SearchStats::from(found.stats))?,
        })
    }
}

/// The nearest of some candidates.
#[pyclass(frozen, get_all, module = "knnspect._core")]
pub(crate) struct Rescored {
    sq_distances: Py<PyArrayDyn<f64>>,
    ranks: Py<PyArrayDyn<u32>>,
    cells: Py<PyArrayDyn<u32>>,
}

impl Rescored {
    /// As arrays of a shape.
    pub(crate) fn new(py: Python<'_>, found: search::Rescored, shape: &[usize]) -> PyResult<Self> {
        Ok(Self {
            sq_distances: array(py, found.sq_distances, shape)?,
            ranks: array(py, found.ranks, shape)?,
            cells: array(py, found.cells, shape)?,
        })
    }
}

/// The rows of a coreset, in the order in which they were picked.
#[pyclass(frozen, get_all, module = "knnspect._core")]
pub(crate) struct Picks {
    ranks: Py<PyArray1<u32>>,
    cells: Py<PyArray1<u32>>,
    rows: Py<PyArray2<f32>>,
    sq_radius: f64,
    ids: Vec<String>,
    stats: Py<SearchStats>,
}

impl Picks {
    /// Rows of `n_features` values, of images with these ids.
    pub(crate) fn new(
        py: Python<'_>,
        picks: knnspect_core::select::Picks,
        n_features: usize,
        ids: Vec<String>,
    ) -> PyResult<Self> {
        let shape = [picks.ranks.len(), n_features];
        Ok(Self {
            ranks: PyArray::from_vec(py, picks.ranks).unbind(),
            cells: PyArray::from_vec(py, picks.cells).unbind(),
            rows: PyArray::from_vec(py, picks.rows).reshape(shape)?.unbind(),
            sq_radius: picks.sq_radius,
            ids,
            stats: Py::new(py, SearchStats::from(picks.stats))?,
        })
    }
}

fn array<T: numpy::Element>(
    py: Python<'_>,
    values: Vec<T>,
    shape: &[usize],
) -> PyResult<Py<PyArrayDyn<T>>> {
    Ok(PyArray::from_vec(py, values).reshape(shape)?.unbind())
}
