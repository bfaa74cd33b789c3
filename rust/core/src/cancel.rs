//! Ending long work from outside.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that long work looks at now and then; it stops soon after the flag is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cancel<'a>(Option<&'a AtomicBool>);

impl<'a> Cancel<'a> {
    /// Work that runs to its end.
    pub const NEVER: Self = Self(None);

    /// Work that ends when `flag` becomes true.
    #[must_use]
    pub const fn when(flag: &'a AtomicBool) -> Self {
        Self(Some(flag))
    }

    /// Whether the work is to stop.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Stops the work that is to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the flag is set.
    pub fn check(self) -> Result<()> {
        if self.is_set() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}
