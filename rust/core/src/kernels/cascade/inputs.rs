//! What all steps of the cascade are given, and what they count.

use super::coarse::CoarseImage;
use crate::kernels::prepare::CentredImage;
use crate::kernels::tile::{Limits, QueryTile};

/// The gallery image that is being gone through.
pub(crate) struct CascadeImage<'a> {
    pub centred_image: CentredImage<'a>,
    pub coarse: &'a CoarseImage,
    /// Of the products in [`CoarseImage`].
    pub stride: usize,
}

/// A tile of queries and their limits.
#[derive(Clone, Copy)]
pub(crate) struct TileQueries<'a> {
    pub queries: &'a QueryTile,
    pub limits: &'a Limits,
}

/// Receives every pair whose partial distance is not above the limit of its query, for each query in
/// ascending order of cells.
pub(crate) trait PatchHits {
    fn hit(&mut self, tile: usize, lane: usize, cell: usize, s: f32);
}

/// The work that was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct LevelCounts {
    /// Pairs of which the sum from this level on was computed (on the grid on which it is summed up).
    pub pairs: Vec<u64>,
    /// Vectors of such pairs.
    pub vectors: Vec<u64>,
    /// Vectors of inner products taken on this level.
    pub products: Vec<u64>,
}

impl LevelCounts {
    pub(crate) fn new(n_levels: usize) -> Self {
        Self {
            pairs: vec![0; n_levels],
            vectors: vec![0; n_levels],
            products: vec![0; n_levels],
        }
    }
}
