//! What the cascade costs, and what comparing everything would: whether to go on.
//!
//! Counted in operations on vectors, roughly. The numbers are those with which the cascade was not much
//! slower than the better of the two ways, on real features and on random ones.
//! `cargo bench -p knnspect-core -- pruned` and `-- exhaustive` (benches/rust/matching.rs) time both
//! ways, and `benches/python/{matching,growth}.py` whole searches.

use crate::kernels::cascade::LevelCounts;
use crate::pyramid::LevelGrid;

/// For each patch and each cell of the coarsest level: its products read and interpolated, blocks
/// bounded.
const COARSE_CELL: u64 = 20;

/// For each vector of pairs that the coarsest level's sum was taken of.
const COARSE_SUM: u64 = 5;

/// The same on a finer level, where products are gathered from around the pair.
const FINER_SUM: u64 = 20;

/// For each cell of a finer level, besides a multiplication for each channel: the cell is centred, four
/// channels at a time,
const CHANNELS_CENTRED_AT_ONCE: u64 = 4;
/// and products are begun and stored.
const PRODUCT: u64 = 4;

/// For each fine cell and each coarse level, the exhaustive matcher blends two products.
const BLEND: usize = 2;

/// Whether an image took fewer operations than the exhaustive matcher needs; `n_cells` are those of each
/// level that patches are compared with, summed over the patches.
pub(super) fn is_worth_it(grids: &[LevelGrid], n_cells: &[usize], counts: &LevelCounts) -> bool {
    let finest = n_cells[0] * grids[0].shape.channels;
    let coarse = grids.iter().zip(n_cells).skip(1);
    let exhaustive: usize = coarse
        .map(|(grid, n)| n * grid.shape.channels + BLEND * n_cells[0])
        .sum::<usize>()
        + finest;
    let mut cascade = COARSE_CELL * n_cells[n_cells.len() - 1] as u64;
    for (level, grid) in grids.iter().enumerate() {
        let channels = grid.shape.channels as u64;
        let is_coarsest = level + 1 == grids.len();
        cascade +=
            counts.products[level] * (channels + channels / CHANNELS_CENTRED_AT_ONCE + PRODUCT);
        cascade += counts.vectors[level] * if is_coarsest { COARSE_SUM } else { FINER_SUM };
    }
    cascade <= exhaustive as u64
}
