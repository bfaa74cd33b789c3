//! The one error type of the crate; each variant becomes one Python exception.

use std::fmt;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with what was expected, what came and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An array or a pyramid has another shape than the one expected.
    #[error("{0}")]
    Shape(Report),
    /// A parameter lies outside the values it may take.
    #[error("{0}")]
    Parameter(Report),
    /// The features of an image cannot be used.
    #[error("{0}")]
    Image(Report),
    /// A file is damaged, is not one of ours, or cannot be read or written.
    #[error("{0}")]
    Store(Report),
    /// Memory or threads ran out.
    #[error("{0}")]
    Resources(String),
    /// The work was cancelled by the caller.
    #[error("interrupted")]
    Interrupted,
}

/// What is wrong in words, and for programs, where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The whole sentence; it names what the fields hold, too.
    pub message: String,
    /// The file or the folder.
    pub path: Option<PathBuf>,
    /// The id of the image.
    pub image: Option<String>,
    /// The level, the finest being 0.
    pub level: Option<usize>,
    /// The parameter.
    pub parameter: Option<&'static str>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Report {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }
}

impl Error {
    pub(crate) fn shape(message: impl Into<String>) -> Self {
        Self::Shape(Report::new(message))
    }

    pub(crate) fn parameter(parameter: &'static str, message: impl Into<String>) -> Self {
        Self::Parameter(Report {
            parameter: Some(parameter),
            ..Report::new(message)
        })
    }

    pub(crate) fn image(message: impl Into<String>) -> Self {
        Self::Image(Report::new(message))
    }

    pub(crate) fn store(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Store(Report {
            path: Some(path.to_owned()),
            ..Report::new(format!("{}: {reason}", path.display()))
        })
    }

    /// Where it happened and to what, unless memory ran out or the work was cancelled.
    #[must_use]
    pub const fn report(&self) -> Option<&Report> {
        match self {
            Self::Shape(report)
            | Self::Parameter(report)
            | Self::Image(report)
            | Self::Store(report) => Some(report),
            Self::Resources(_) | Self::Interrupted => None,
        }
    }

    /// The error with its report changed.
    fn map(mut self, change: impl FnOnce(&mut Report)) -> Self {
        match &mut self {
            Self::Shape(report)
            | Self::Parameter(report)
            | Self::Image(report)
            | Self::Store(report) => change(report),
            Self::Resources(_) | Self::Interrupted => {}
        }
        self
    }

    /// The error, which is about this image; the message says so already.
    pub(crate) fn of_image(self, id: impl Into<String>) -> Self {
        self.map(|report| report.image = Some(id.into()))
    }

    /// The error, which is about this level; the message says so already.
    pub(crate) fn at_level(self, level: usize) -> Self {
        self.map(|report| report.level = Some(level))
    }

    /// The error, which is about the gallery at this path, said in front unless it is said already.
    pub(crate) fn in_gallery(self, path: &Path) -> Self {
        self.map(|report| {
            if report.path.is_none() {
                report.message = format!("{}: {}", path.display(), report.message);
                report.path = Some(path.to_owned());
            }
        })
    }
}
