//! Each error of the core as the Python exception of the same meaning, with what it is about in fields.

use knnspect_core::{Error, Report};
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError};
use pyo3::import_exception;
use pyo3::prelude::*;

import_exception!(knnspect.errors, DTypeError);
import_exception!(knnspect.errors, ImageError);
import_exception!(knnspect.errors, ParameterError);
import_exception!(knnspect.errors, ShapeError);
import_exception!(knnspect.errors, StoreError);

/// A result of the core, to be raised where it is an error.
pub(crate) trait OrRaise<T> {
    /// # Errors
    /// The Python exception of the same meaning.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for Result<T, Error> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| {
            let report = error.report().cloned().unwrap_or_default();
            let message = error.to_string();
            let raised = match error {
                Error::Shape(_) => ShapeError::new_err(message),
                Error::Parameter(_) => ParameterError::new_err(message),
                Error::Image(_) => ImageError::new_err(message),
                Error::Store(_) => StoreError::new_err(message),
                Error::Resources(_) => PyMemoryError::new_err(message),
                Error::Interrupted => PyKeyboardInterrupt::new_err(()),
            };
            with_fields(py, raised, report)
        })
    }
}

/// An argument that lies outside the values it may take.
pub(crate) fn parameter_error(py: Python<'_>, parameter: &'static str, message: String) -> PyErr {
    let report = Report {
        parameter: Some(parameter),
        ..Report::default()
    };
    with_fields(py, ParameterError::new_err(message), report)
}

/// An error about one level.
pub(crate) fn at_level(py: Python<'_>, raised: PyErr, level: usize) -> PyErr {
    let report = Report {
        level: Some(level),
        ..Report::default()
    };
    with_fields(py, raised, report)
}

/// The exception with the fields of `knnspect.errors.KnnspectError` set that are known.
fn with_fields(py: Python<'_>, raised: PyErr, report: Report) -> PyErr {
    let value = raised.value(py);
    let set = || -> PyResult<()> {
        if let Some(path) = report.path {
            value.setattr("path", path)?;
        }
        if let Some(image) = report.image {
            value.setattr("image", image)?;
        }
        if let Some(level) = report.level {
            value.setattr("level", level)?;
        }
        if let Some(parameter) = report.parameter {
            value.setattr("parameter", parameter)?;
        }
        Ok(())
    };
    match set() {
        Ok(()) => raised,
        Err(error) => error,
    }
}
