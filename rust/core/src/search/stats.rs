//! How much work a search took.

/// The work of a search, counted in pairs of a query cell and a gallery cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchStats {
    /// All pairs: query cells times gallery cells at the finest level; with a window, those within it.
    pub pairs: u64,
    /// What was done, in this order, and with how many pairs.
    ///
    /// - `"exhaustive"`: compared in full;
    /// - `"level 2"`, `"level 1"`, ... (pyramids, coarsest first): compared by the levels from this one
    ///   on; where features are not interpolated, a cell of the level counts once, not as all the
    ///   finest cells in it;
    /// - `"filter 1"`, `"filter 2"`, `"float32"`, `"float64"` (flat galleries: of one level, or of several of equal size): compared by leading
    ///   coordinates, by more of them, and in full in either precision.
    pub stages: Vec<(String, u64)>,
}

impl SearchStats {
    /// Those of a search that compares all pairs in full.
    pub(super) fn exhaustive(pairs: u64) -> Self {
        let stages = vec![("exhaustive".to_owned(), pairs)];
        Self { pairs, stages }
    }

    /// Adds pairs to a stage.
    pub(crate) fn count(&mut self, stage: &str, pairs: u64) {
        match self.stages.iter_mut().find(|(name, _)| name == stage) {
            Some((_, total)) => *total += pairs,
            None => self.stages.push((stage.to_owned(), pairs)),
        }
    }

    /// Adds those of another part of the search.
    pub(super) fn add(&mut self, other: &Self) {
        self.pairs += other.pairs;
        for (stage, pairs) in &other.stages {
            self.count(stage, *pairs);
        }
    }
}
