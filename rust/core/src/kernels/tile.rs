//! A tile: the queries that a kernel compares together.

use super::instruction_set::{InstructionSet, TILE_VECTORS};
use super::simd::MAX_WIDTH;
use crate::pyramid::LevelGrid;
use std::cell::Cell;

/// The widest tile of any instruction set.
pub(crate) const MAX_TILE: usize = TILE_VECTORS * MAX_WIDTH;

/// In place of the fine cell of its query, in a lane that has none.
pub(crate) const NO_QUERY: u32 = u32::MAX;

/// For each query of a tile, the partial distance above which a pair is of no interest.
pub(crate) type Limits = [Cell<f32>; MAX_TILE];

/// A tile of queries, packed as `[level][channel][query]` and multiplied by -2.
#[derive(Default)]
pub(crate) struct QueryTile {
    pub(super) width: usize,
    pub(super) levels: Vec<Vec<f32>>,
}

impl QueryTile {
    /// Makes room for `width` queries; lanes that are not set are zero.
    pub(crate) fn reset(&mut self, grids: &[LevelGrid], width: usize) {
        self.width = width;
        self.levels.resize_with(grids.len(), Vec::new);
        for (level, grid) in self.levels.iter_mut().zip(grids) {
            level.clear();
            level.resize(grid.shape.channels * width, 0.0);
        }
    }

    /// Sets one level of one query.
    pub(crate) fn set(&mut self, level: usize, lane: usize, feature: &[f32]) {
        let channels = self.levels[level][lane..].iter_mut().step_by(self.width);
        for (to, value) in channels.zip(feature) {
            *to = -2.0 * value;
        }
    }

    /// The packed channels of one level.
    pub(super) fn level(&self, level: usize) -> &[f32] {
        &self.levels[level]
    }

    /// Panics unless every buffer has the size that the kernels rely on.
    pub(super) fn check(&self, grids: &[LevelGrid], set: InstructionSet) {
        let asked = set.tile();
        assert_eq!(self.width, asked, "packed for another instruction set");
        assert_eq!(self.levels.len(), grids.len());
        for (level, grid) in self.levels.iter().zip(grids) {
            assert_eq!(level.len(), grid.shape.channels * self.width);
        }
    }
}
