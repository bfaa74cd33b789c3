//! Each error of the core as the Python exception of the same meaning.

use knnspect_core::Error;
use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Turns an error of the core into an exception of `knnspect.errors`.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let name = match error {
        Error::Shape(_) => "ShapeError",
        Error::Parameter(_) => "ParameterError",
        Error::Image(_) => "ImageError",
        Error::Store { .. } => "StoreError",
        Error::Resources(message) => return PyMemoryError::new_err(message.clone()),
        Error::Interrupted => return PyKeyboardInterrupt::new_err(()),
    };
    named(py, name, error.to_string())
}

/// An exception of `knnspect.errors` by its name.
pub(crate) fn named(py: Python<'_>, name: &str, message: String) -> PyErr {
    let class = py
        .import("knnspect.errors")
        .and_then(|module| module.getattr(name))
        .and_then(|class| Ok(class.cast_into::<PyType>()?));
    match class {
        Ok(class) => PyErr::from_type(class, message),
        Err(error) => error,
    }
}
