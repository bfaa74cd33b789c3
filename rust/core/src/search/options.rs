//! How to search.

use crate::cancel::Cancel;
use crate::kernels::InstructionSet;
use std::num::NonZero;

/// Which pairs of cells are looked at; the results are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matcher {
    /// Those that bounds leave, as long as that promises to be faster; else all.
    #[default]
    Auto,
    /// All.
    Exhaustive,
    /// Those that bounds leave, even where that is slower.
    Pruned,
}

impl Matcher {
    const ALL: [Self; 3] = [Self::Auto, Self::Exhaustive, Self::Pruned];

    /// The name by which it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exhaustive => "exhaustive",
            Self::Pruned => "pruned",
        }
    }

    /// Finds a matcher by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|matcher| matcher.name() == name)
    }
}

/// How to search.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Neighbours of each cell.
    pub k: usize,
    /// Number of threads; all that the process may use when `None`.
    pub threads: Option<NonZero<usize>>,
    /// The instruction set of the kernels; the best of this machine when `None`.
    pub instruction_set: Option<InstructionSet>,
    /// Which pairs are compared; the neighbours are the same.
    pub matcher: Matcher,
    /// Ends the search early.
    pub cancel: Cancel<'a>,
}

impl Options<'_> {
    /// `k` neighbours, everything else as it is best.
    #[must_use]
    pub const fn new(k: usize) -> Self {
        Self {
            k,
            threads: None,
            instruction_set: None,
            matcher: Matcher::Auto,
            cancel: Cancel::NEVER,
        }
    }
}
