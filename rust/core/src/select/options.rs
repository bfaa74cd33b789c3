//! What is asked of a selection, and what it answers.

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::kernels::InstructionSet;
use crate::search::SearchStats;
use std::num::NonZero;

/// How to pick.
#[derive(Clone)]
pub struct PickOptions<'a> {
    /// How many rows.
    pub count: usize,
    /// The rank of the image and the cell of the first.
    pub first: (u32, u32),
    /// Whether each row, image by image and cell by cell, may be picked; all when `None`. Rows that may
    /// not are not covered either: they are as if they were not there.
    pub kept: Option<&'a [bool]>,
    /// Distances are those between rows times this matrix, `(n_features, n)` and row-major.
    pub projection: Option<&'a [f32]>,
    /// Number of threads; all that the process may use when `None`.
    pub threads: Option<NonZero<usize>>,
    /// The instruction set of the kernels; the best of this machine when `None`.
    pub instruction_set: Option<InstructionSet>,
    /// Rows that are brought up to date together; what is picked does not depend on it.
    pub round: Option<NonZero<usize>>,
    /// Called now and then, by the calling thread, with how many were picked.
    pub progress: Option<&'a dyn Fn(usize)>,
    /// Ends the work early.
    pub cancel: Cancel<'a>,
}

impl PickOptions<'_> {
    /// `count` rows beginning with the first cell of the first image, everything else as it is best.
    #[must_use]
    pub const fn new(count: usize) -> Self {
        Self {
            count,
            first: (0, 0),
            kept: None,
            projection: None,
            threads: None,
            instruction_set: None,
            round: None,
            progress: None,
            cancel: Cancel::NEVER,
        }
    }
}

/// Rows that were picked.
#[derive(Clone, Debug, PartialEq)]
pub struct Picks {
    /// The rank of each one's image, in the order in which they were picked.
    pub ranks: Vec<u32>,
    /// Its cell at the finest level.
    pub cells: Vec<u32>,
    /// Its features, not projected: `(n_picks, n_features)`, row-major.
    pub rows: Vec<f32>,
    /// Squared distance, projected where distances are, of the farthest row from its nearest pick.
    pub sq_radius: f64,
    /// What it took; all pairs are those of rows and picks.
    pub stats: SearchStats,
}

pub(super) fn check_kept(kept: Option<&[bool]>, n_rows: usize) -> Result<()> {
    match kept {
        Some(kept) if kept.len() != n_rows => Err(Error::parameter(
            "kept",
            format!(
                "kept: expected one value for each of {n_rows} rows, got {}",
                kept.len()
            ),
        )),
        _ => Ok(()),
    }
}

pub(super) fn check_projection(projection: Option<&[f32]>, n_features: usize) -> Result<()> {
    match projection {
        Some(matrix) if matrix.is_empty() || !matrix.len().is_multiple_of(n_features) => {
            Err(Error::parameter(
                "projection",
                format!(
                    "projection: expected some values for each of {n_features} features, got {}",
                    matrix.len()
                ),
            ))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_values(values: &[f32], n_values: usize) -> Result<()> {
    if values.len().is_multiple_of(n_values) {
        return Ok(());
    }
    let message = format!(
        "values: expected {n_values} of each row, got {}",
        values.len()
    );
    Err(Error::parameter("values", message))
}
