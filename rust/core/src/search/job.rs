//! A part of a search: some cells of one query image.

use crate::bounds::CentredQuery;
use crate::gallery::Selection;
use crate::pyramid::LevelData;
use std::sync::OnceLock;

/// A run of cells of one query image, and where their neighbours go.
pub(super) struct Job<'a> {
    pub levels: Vec<LevelData<'a>>,
    pub centred: &'a OnceLock<CentredQuery>,
    pub selection: &'a Selection,
    pub first_cell: usize,
    pub sq_distances: &'a mut [f32],
    pub ranks: &'a mut [u32],
    pub cells: &'a mut [u32],
}
