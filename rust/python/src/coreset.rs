//! `knnspect._core.pick_rows` and `knnspect._core.concatenate`.

use crate::arrays::Levels;
use crate::errors::{named, to_py};
use crate::gallery::{Gallery, Work, threads_from, upsample_from};
use crate::interrupt;
use knnspect_core::pyramid::{self, PyramidContext};
use knnspect_core::select::{PickOptions, pick};
use knnspect_core::{Cancel, Error, InstructionSet};
use numpy::{
    PyArray, PyArray1, PyArray2, PyArray4, PyArrayMethods, PyReadonlyArray2, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Progress is told this often at most.
const INTERVAL: Duration = Duration::from_millis(50);

type Picks<'py> = (
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray2<f32>>,
    f64,
    Vec<String>,
    Work,
);

/// `(image_index, cells, rows, sq_radius, ids, work)` of a greedy k-centre selection, in the order of
/// picking; `image_index` points into `ids`, the sorted ids of the gallery. `progress` is called with
/// the number of rows picked so far.
#[pyfunction]
// The arguments of the Python function.
#[allow(clippy::too_many_arguments)]
pub(crate) fn pick_rows<'py>(
    py: Python<'py>,
    gallery: &Gallery,
    count: usize,
    first: (u32, u32),
    projection: Option<PyReadonlyArray2<'py, f32>>,
    threads: Option<usize>,
    instruction_set: Option<&str>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Picks<'py>> {
    let raise = |error| to_py(py, &error);
    let threads = threads_from(py, threads)?;
    let instruction_set = instruction_set
        .map(InstructionSet::available_by_name)
        .transpose()
        .map_err(raise)?;
    let gallery = gallery.read(knnspect_core::Gallery::clone);
    let context = gallery.pyramid_context().map_err(raise)?;
    let all = gallery.select(None).map_err(raise)?;
    let n_features: usize = context.shape().levels().iter().map(|l| l.channels).sum();
    if let Some(matrix) = &projection
        && matrix.shape()[0] != n_features
    {
        let message = format!(
            "projection: expected {n_features} rows, one per feature, got shape {:?}",
            matrix.shape()
        );
        return Err(named(py, "ShapeError", message));
    }
    let projection = projection.as_ref().map(|matrix| matrix.as_slice());
    let projection = projection.transpose()?;

    let last = Mutex::new(Instant::now());
    let raised = Mutex::new(None);
    let tell = |picked: usize| {
        let Some(progress) = &progress else { return };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if picked < count && last.elapsed() < INTERVAL {
            return;
        }
        *last = Instant::now();
        if let Err(error) = Python::attach(|py| progress.call1(py, (picked,))) {
            *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    };
    let picks = interrupt::run(py, |cancel| {
        // An error of the callback, which a signal's handler may have raised, ends the work too.
        let has_raised = || {
            raised
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some()
        };
        let stop = || cancel.is_set() || has_raised();
        let options = PickOptions {
            first,
            projection,
            threads,
            instruction_set,
            progress: Some(&tell),
            cancel: Cancel::when(&stop),
            ..PickOptions::new(count)
        };
        let picks = pick(&context, &all, &options);
        if has_raised() {
            return Err(Error::Interrupted);
        }
        picks
    });
    if let Some(error) = raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let picks = picks?;
    let shape = [picks.ranks.len(), n_features];
    Ok((
        PyArray::from_vec(py, picks.ranks),
        PyArray::from_vec(py, picks.cells),
        PyArray::from_vec(py, picks.rows).reshape(shape)?,
        picks.sq_radius,
        gallery.ids().map(str::to_owned).collect(),
        (picks.stats.pairs, picks.stats.stages),
    ))
}

/// Upsampled, concatenated features, `(n_images, height, width, n_features)`: blended in float64 and
/// rounded once.
#[pyfunction]
pub(crate) fn concatenate<'py>(
    py: Python<'py>,
    levels: Vec<Bound<'py, PyUntypedArray>>,
    upsample: &str,
) -> PyResult<Bound<'py, PyArray4<f32>>> {
    let upsample = upsample_from(py, upsample)?;
    let levels = Levels::new(py, &levels)?;
    let batch = levels.batch(py)?;
    let finest = batch.shape().finest();
    let n_features: usize = batch.shape().levels().iter().map(|l| l.channels).sum();
    let shape = [batch.n_images(), finest.height, finest.width, n_features];
    let context = PyramidContext::new(batch.shape().clone(), upsample);
    let rows = interrupt::run(py, |cancel| pyramid::concatenate(&batch, &context, cancel))?;
    PyArray::from_vec(py, rows).reshape(shape)
}
