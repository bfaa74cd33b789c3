//! What a search found.

use super::stats::SearchStats;
use crate::error::{Error, Result};

/// The neighbours of all cells of all queries, nearest first: each array is
/// `(query image, cell, k)`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbors {
    /// Squared L2 distances.
    pub sq_distances: Vec<f32>,
    /// The same in float64, before they were rounded; empty unless they were asked for.
    pub exact: Vec<f64>,
    /// Place of the image's id among the sorted ids of the gallery.
    pub ranks: Vec<u32>,
    /// Cell of that image at the finest level, `row * width + column`.
    pub cells: Vec<u32>,
    /// What the search took.
    pub stats: SearchStats,
}

impl Neighbors {
    /// Room for the neighbours of all cells of `n_images` images.
    pub(super) fn new(n_images: usize, cells: usize, k: usize, exact: bool) -> Result<Self> {
        let found = n_images.checked_mul(cells).and_then(|n| n.checked_mul(k));
        Ok(Self {
            sq_distances: zeros(found)?,
            exact: zeros(if exact { found } else { Some(0) })?,
            ranks: zeros(found)?,
            cells: zeros(found)?,
            stats: SearchStats::default(),
        })
    }
}

/// A vector of zeros, or an error where the memory for it is not to be had.
fn zeros<T: Clone + Default>(len: Option<usize>) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    match len {
        Some(len) if zeros.try_reserve_exact(len).is_ok() => {
            zeros.resize(len, T::default());
            Ok(zeros)
        }
        _ => Err(Error::Resources(
            "not enough memory for the neighbours: search fewer images at a time, or a smaller k"
                .into(),
        )),
    }
}
