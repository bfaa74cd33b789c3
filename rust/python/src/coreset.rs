//! `knnspect._core.pick_rows` and `knnspect._core.concatenate`.

use crate::arrays::{Levels, check_projection};
use crate::errors::OrRaise;
use crate::gallery::{Gallery, instruction_set_from, threads_from, upsample_from};
use crate::interrupt;
use crate::results::Picks;
use knnspect_core::pyramid::{self, PyramidContext};
use knnspect_core::select::{PickOptions, pick};
use knnspect_core::{Cancel, Error};
use numpy::{
    PyArray, PyArray4, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArray,
};
use pyo3::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The callback is called this often at most.
const INTERVAL: Duration = Duration::from_millis(50);

/// The callback that is called with the number of rows picked so far, and what it has raised.
struct Progress {
    callback: Option<Py<PyAny>>,
    count: usize,
    last: Mutex<Instant>,
    raised: Mutex<Option<PyErr>>,
}

impl Progress {
    fn new(callback: Option<Py<PyAny>>, count: usize) -> Self {
        Self {
            callback,
            count,
            last: Mutex::new(Instant::now()),
            raised: Mutex::new(None),
        }
    }

    /// Calls back, unless that was done a moment ago.
    fn reach(&self, picked: usize) {
        let Some(callback) = &self.callback else {
            return;
        };
        let mut last = lock(&self.last);
        if picked < self.count && last.elapsed() < INTERVAL {
            return;
        }
        *last = Instant::now();
        if let Err(error) = Python::attach(|py| callback.call1(py, (picked,))) {
            *lock(&self.raised) = Some(error);
        }
    }

    fn has_raised(&self) -> bool {
        lock(&self.raised).is_some()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A greedy k-centre selection of `count` rows, of those that are `kept`. `progress` is called with the number of rows picked so far.
#[pyfunction]
// The arguments of the Python function.
#[allow(clippy::too_many_arguments)]
pub(crate) fn pick_rows<'py>(
    py: Python<'py>,
    gallery: &Gallery,
    count: usize,
    first: (u32, u32),
    kept: Option<PyReadonlyArray1<'py, bool>>,
    projection: Option<PyReadonlyArray2<'py, f32>>,
    threads: Option<usize>,
    instruction_set: Option<&str>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Picks> {
    let threads = threads_from(py, threads)?;
    let instruction_set = instruction_set_from(py, instruction_set)?;
    let gallery = gallery.read(knnspect_core::Gallery::clone);
    let context = gallery.pyramid_context().or_raise(py)?;
    let all = gallery.select(None).or_raise(py)?;
    let n_features = context.shape().n_features();
    check_projection(projection.as_ref(), n_features)?;
    let projection = projection.as_ref().map(|matrix| matrix.as_slice());
    let projection = projection.transpose()?;

    let kept = kept.as_ref().map(|kept| kept.as_slice());
    let kept = kept.transpose()?;

    let progress = Progress::new(progress, count);
    let picks = interrupt::run(py, |cancel| {
        // An error of the callback, which a signal's handler may have raised, ends the work too.
        let stop = || cancel.is_set() || progress.has_raised();
        let options = PickOptions {
            first,
            kept,
            projection,
            threads,
            instruction_set,
            progress: Some(&|picked| progress.reach(picked)),
            cancel: Cancel::when(&stop),
            ..PickOptions::new(count)
        };
        let picks = pick(&context, &all, &options);
        if progress.has_raised() {
            return Err(Error::Interrupted);
        }
        picks
    });
    if let Some(error) = lock(&progress.raised).take() {
        return Err(error);
    }
    let ids = gallery.ids().map(str::to_owned).collect();
    Picks::new(py, picks?, n_features, ids)
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
    let n_features = batch.shape().n_features();
    let shape = [batch.n_images(), finest.height, finest.width, n_features];
    let context = PyramidContext::new(batch.shape().clone(), upsample);
    let rows = interrupt::run(py, |cancel| pyramid::concatenate(&batch, &context, cancel))?;
    PyArray::from_vec(py, rows).reshape(shape)
}
