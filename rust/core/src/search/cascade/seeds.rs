//! Seeds: the fine cells of the coarse cells nearest to a patch's own, compared first, so that limits are
//! low from the start.

use super::round::Round;
use crate::kernels::cascade::{CascadeImage, CascadeScratch, Patch, distances};
use crate::search::tile::Tile;

/// Coarse cells that a patch is compared with, besides those that hold `2 k` fine ones.
const N_SEEDS: usize = 2;

/// Lowers the limits of all queries before anything is searched; the patches lie in the tiles.
pub(super) fn seed(
    round: &Round<'_>,
    tiles: &mut [Tile],
    patches: &mut [Patch],
    scratch: &mut CascadeScratch,
) {
    let mut sums = Vec::new();
    for patch in patches {
        if round.options.cancel.is_set() {
            return;
        }
        let Some(corner) = patch.main_corner() else {
            continue;
        };
        let tile = &mut tiles[patch.tile];
        sums.clear();
        for (image, cell) in nearest_coarse_cells(round, corner) {
            compare(round, tile, patch, (image, cell), scratch, &mut sums);
        }
        set_seeds(round, tile, patch, &sums);
    }
}

/// The coarse cells that are nearest to a coarse cell of the query, at most one of each image: images of
/// the round and cells.
fn nearest_coarse_cells(round: &Round<'_>, corner: usize) -> Vec<(usize, usize)> {
    let (grids, k) = (round.source.grids, round.options.k);
    let (finest, coarse) = (grids[0].shape, grids[grids.len() - 1].shape);
    let (tall, wide) = (finest.height / coarse.height, finest.width / coarse.width);
    let n_seeds = N_SEEDS + (2 * k).div_ceil(tall * wide);
    let images = round.coarse_images.iter().enumerate();
    let nearest = images.map(|(image, coarse)| {
        let (distance, cell) = coarse.nearest[corner];
        (distance, image, cell as usize)
    });
    let mut nearest: Vec<(f32, usize, usize)> = nearest.collect();
    if nearest.len() > n_seeds {
        nearest.select_nth_unstable_by(n_seeds, |x, y| x.0.total_cmp(&y.0));
        nearest.truncate(n_seeds);
    }
    let places = nearest.into_iter();
    places.map(|(_, image, cell)| (image, cell)).collect()
}

/// Appends the largest that the partial distances between a patch and the fine cells of a coarse cell may
/// be, a vector for each cell.
fn compare(
    round: &Round<'_>,
    tile: &Tile,
    patch: &mut Patch,
    (image, cell): (usize, usize),
    scratch: &mut CascadeScratch,
    sums: &mut Vec<f32>,
) {
    let width = round.set.width();
    let coarse = &round.coarse_images[image];
    let errors = tile.errors(round.source.grids, &coarse.max_norms);
    let first = sums.len();
    let levels = round.images[image].1.levels();
    let image = CascadeImage {
        centred_image: round.source.centred.centred_image(&levels),
        coarse,
        stride: round.stride,
    };
    patch.start(round.set, &errors);
    let (set, plan) = (round.set, round.plan);
    distances(
        set,
        plan,
        &image,
        (&tile.packed, patch),
        cell,
        scratch,
        sums,
    );
    let errors = &errors[patch.vector * width..][..width];
    for sums in sums[first..].chunks_exact_mut(width) {
        for (sum, error) in sums.iter_mut().zip(errors) {
            *sum = (*sum + error).next_up();
        }
    }
}

/// Sets the seeds of a patch's queries: the k-th smallest distance to some cells is no smaller than that
/// of the k-th neighbour.
fn set_seeds(round: &Round<'_>, tile: &mut Tile, patch: &Patch, sums: &[f32]) {
    let (width, k) = (round.set.width(), round.options.k);
    if sums.len() / width < k {
        return;
    }
    let mut column = Vec::new();
    for lane in 0..width {
        column.clear();
        let values = sums.iter().skip(lane).step_by(width);
        column.extend(values.map(|sum| if sum.is_nan() { f32::INFINITY } else { *sum }));
        let (_, kth, _) = column.select_nth_unstable_by(k - 1, f32::total_cmp);
        tile.seed(patch.vector * width + lane, *kth);
    }
}
