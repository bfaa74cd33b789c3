//! Ending long work from outside.

use crate::error::{Error, Result};
use std::fmt;

/// A question that long work asks now and then: is it to stop? It does soon after the answer is yes.
#[derive(Clone, Copy, Default)]
pub struct Cancel<'a>(Option<&'a (dyn Fn() -> bool + Sync)>);

impl<'a> Cancel<'a> {
    /// Work that runs to its end.
    pub const NEVER: Self = Self(None);

    /// Work that ends when `stop` says so. It is asked often, by every thread that works, above all by
    /// the one that began the work; once it has said yes it must not say no again.
    #[must_use]
    pub const fn when(stop: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self(Some(stop))
    }

    /// Whether the work is to stop.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0.is_some_and(|stop| stop())
    }

    /// Stops the work that is to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it is.
    pub fn check(self) -> Result<()> {
        if self.is_set() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Cancel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Cancel::when(..)"
        } else {
            "Cancel::NEVER"
        })
    }
}
