//! Long work outside the GIL, ended by Ctrl-C.

use crate::errors::OrRaise;
use knnspect_core::{Cancel, Result};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Python may run its signal handlers this often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs `work` with the GIL released. When it asks whether to stop, Python may run its signal handlers;
/// once one has raised, the answer is yes, and the exception is raised when `work` has returned.
///
/// The work is done by the calling thread itself, as signals can be handled by no other than Python's
/// main thread, and a thread that was started for it would share a core with its own helpers
/// for longer than most searches take.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(Cancel<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let caller = thread::current().id();
    let stopped = AtomicBool::new(false);
    let last = Mutex::new(Instant::now());
    let raised = Mutex::new(None);
    let stop = || {
        if thread::current().id() == caller && !stopped.load(Ordering::Relaxed) {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= INTERVAL {
                // The method itself lacks the lifetimes that `attach` asks for.
                #[allow(clippy::redundant_closure_for_method_calls)]
                if let Err(error) = Python::attach(|py| py.check_signals()) {
                    *raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    stopped.store(true, Ordering::Relaxed);
                }
                *last = Instant::now();
            }
        }
        stopped.load(Ordering::Relaxed)
    };
    let result = py.detach(|| work(Cancel::when(&stop)));
    match raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => result.or_raise(py),
    }
}
