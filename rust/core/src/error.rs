//! The one error type of the crate; each variant becomes one Python exception.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with what was expected, what came and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An array or a pyramid has another shape than the one expected.
    #[error("{0}")]
    Shape(String),
    /// A parameter lies outside the values it may take.
    #[error("{0}")]
    Parameter(String),
    /// The features of an image cannot be used.
    #[error("{0}")]
    Image(String),
    /// A file is damaged, is not one of ours, or cannot be read or written.
    #[error("{path}: {reason}")]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Memory or threads ran out.
    #[error("{0}")]
    Resources(String),
    /// The work was cancelled by the caller.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn store(path: &Path, reason: impl Into<String>) -> Self {
        Self::Store {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }
}
