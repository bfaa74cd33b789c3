//! Long work outside the GIL, ended by Ctrl-C.

use crate::errors::to_py;
use knnspect_core::{Cancel, Error, Result};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Runs `work` in a thread of its own with the GIL released. Every tenth of a second Python may run
/// its signal handlers; when one raises, `work` is told by the flag it was given, and the exception
/// is raised once it has returned.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(Cancel<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let flag = AtomicBool::new(false);
    let mut raised = None;
    let result = py.detach(|| {
        thread::scope(|scope| {
            let (sender, receiver) = channel::<()>();
            let cancel = Cancel::when(&flag);
            let worker = move || {
                let _alive_until_done = sender;
                work(cancel)
            };
            let handle = match thread::Builder::new().spawn_scoped(scope, worker) {
                Ok(handle) => handle,
                Err(error) => {
                    return Ok(Err(Error::Resources(format!(
                        "no thread can be started: {error}"
                    ))));
                }
            };
            while let Err(RecvTimeoutError::Timeout) =
                receiver.recv_timeout(Duration::from_millis(100))
            {
                // The method itself lacks the lifetimes that `attach` asks for.
                #[allow(clippy::redundant_closure_for_method_calls)]
                if let Err(error) = Python::attach(|py| py.check_signals()) {
                    flag.store(true, Ordering::Relaxed);
                    raised = Some(error);
                    break;
                }
            }
            handle.join()
        })
    });
    match result {
        Ok(result) => match raised {
            Some(raised) => Err(raised),
            None => result.map_err(|error| to_py(py, &error)),
        },
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
