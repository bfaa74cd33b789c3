//! How much work a search took.

use crate::kernels::cascade::Counts;

/// The work of a search, counted in pairs of a query cell and a gallery cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// All pairs: query cells times gallery cells at the finest level.
    pub pairs: u64,
    /// Pairs that were compared in full, one by one, by the exhaustive matcher.
    pub scanned: u64,
    /// For each level, finest first, pairs of which the distance from this level on was looked at; on
    /// levels whose cells stand for many fine cells, pairs of a query cell and such a cell.
    pub levels: Vec<u64>,
}

impl Work {
    pub(super) fn new(n_levels: usize) -> Self {
        Self {
            pairs: 0,
            scanned: 0,
            levels: vec![0; n_levels],
        }
    }

    pub(super) fn count(&mut self, counts: &Counts) {
        for (total, pairs) in self.levels.iter_mut().zip(&counts.pairs) {
            *total += pairs;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.scanned += other.scanned;
        self.levels
            .resize(self.levels.len().max(other.levels.len()), 0);
        for (total, pairs) in self.levels.iter_mut().zip(&other.levels) {
            *total += pairs;
        }
    }
}
