//! How to search.

use crate::cancel::Cancel;
use crate::kernels::InstructionSet;
use crate::names::named;
use crate::pyramid::Window;
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

named!(Matcher, "matcher", { Auto => "auto", Exhaustive => "exhaustive", Pruned => "pruned" });

/// How to search.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Neighbours of each cell.
    pub k: usize,
    /// Where the neighbours of a cell may lie: anywhere when `None`.
    pub window: Option<&'a Window>,
    /// Number of threads; all that the process may use when `None`.
    pub threads: Option<NonZero<usize>>,
    /// The instruction set of the kernels; the best of this machine when `None`.
    pub instruction_set: Option<InstructionSet>,
    /// Which pairs are compared; the neighbours are the same.
    pub matcher: Matcher,
    /// Keep the distances in float64, too.
    pub exact: bool,
    /// Ends the search early.
    pub cancel: Cancel<'a>,
}

impl Options<'_> {
    /// `k` neighbours, everything else as it is best.
    #[must_use]
    pub const fn new(k: usize) -> Self {
        Self {
            k,
            window: None,
            threads: None,
            instruction_set: None,
            matcher: Matcher::Auto,
            exact: false,
            cancel: Cancel::NEVER,
        }
    }
}
