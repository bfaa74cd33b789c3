//! Seeds: the fine cells of the coarse cells nearest to a patch's own, compared first, so that limits are
//! low from the start. With a window: the fine cells where the patch lies, in the images that are nearest
//! there.

use super::round::Round;
use crate::kernels::NO_QUERY;
use crate::kernels::cascade::{CascadeImage, CascadeScratch, CellDistances, Patch, distances};
use crate::pyramid::Area;
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
    let mut found = CellDistances::default();
    for patch in patches {
        if round.options.cancel.is_set() {
            return;
        }
        let Some(corner) = patch.main_corner() else {
            continue;
        };
        let tile = &mut tiles[patch.tile];
        found.cells.clear();
        found.sums.clear();
        for (image, cell) in nearest_coarse_cells(round, corner) {
            let fine_cells = match round.source.window {
                Some(_) => own_area(round, tile, patch),
                None => area_of(round, cell),
            };
            let place = (image, cell, &fine_cells);
            compare(round, tile, patch, place, scratch, &mut found);
        }
        set_seeds(round, tile, patch, &found);
    }
}

/// The fine cells in a cell of the coarsest level.
fn area_of(round: &Round<'_>, cell: usize) -> Area {
    let (finest, coarse) = (round.plan.grids[0].shape, round.plan.coarsest());
    let (tall, wide) = (finest.height / coarse.height, finest.width / coarse.width);
    let (row, column) = (cell / coarse.width, cell % coarse.width);
    Area {
        rows: row * tall..(row + 1) * tall,
        columns: column * wide..(column + 1) * wide,
    }
}

/// The fine cells that the queries of a patch lie in, and those between.
fn own_area(round: &Round<'_>, tile: &Tile, patch: &Patch) -> Area {
    let (width, lanes) = (round.plan.grids[0].shape.width, round.set.width());
    let cells = tile.cells[patch.vector * lanes..][..lanes].iter();
    let places = cells.filter(|&&cell| cell != NO_QUERY);
    let places = places.map(|&cell| (cell as usize / width, cell as usize % width));
    let (rows, columns): (Vec<usize>, Vec<usize>) = places.unzip();
    let range = |values: &[usize]| {
        let ends = (values.iter().min(), values.iter().max());
        ends.0.copied().unwrap_or(0)..ends.1.map_or(0, |&last| last + 1)
    };
    Area {
        rows: range(&rows),
        columns: range(&columns),
    }
}

/// The coarse cells that are nearest to a coarse cell of the query, at most one of each image: images of
/// the round and cells.
fn nearest_coarse_cells(round: &Round<'_>, corner: usize) -> Vec<(usize, usize)> {
    let (grids, k) = (round.source.grids, round.options.k);
    let n_fine = match round.source.window {
        Some(window) => window.fewest_cells().min(round.set.width()),
        None => grids[0].shape.cells() / round.plan.coarsest().cells(),
    };
    let n_seeds = N_SEEDS + (2 * k).div_ceil(n_fine);
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

/// Appends the largest that the partial distances between a patch and some fine cells may be, a vector for
/// each cell.
fn compare(
    round: &Round<'_>,
    tile: &Tile,
    patch: &mut Patch,
    (image, cell, fine_cells): (usize, usize, &Area),
    scratch: &mut CascadeScratch,
    found: &mut CellDistances,
) {
    let width = round.set.width();
    let coarse = &round.coarse_images[image];
    let errors = tile.errors(round.source.grids, &coarse.max_norms);
    let first = found.sums.len();
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
        (cell, fine_cells),
        scratch,
        found,
    );
    let errors = &errors[patch.vector * width..][..width];
    for sums in found.sums[first..].chunks_exact_mut(width) {
        for (sum, error) in sums.iter_mut().zip(errors) {
            *sum = (*sum + error).next_up();
        }
    }
}

/// Sets the seeds of a patch's queries: the k-th smallest distance to some cells is no smaller than that
/// of the k-th neighbour.
fn set_seeds(round: &Round<'_>, tile: &mut Tile, patch: &Patch, found: &CellDistances) {
    let (width, k) = (round.set.width(), round.options.k);
    let mut column = Vec::new();
    for lane in 0..width {
        let at = patch.vector * width + lane;
        let query = tile.cells[at];
        column.clear();
        let values = found.sums.iter().skip(lane).step_by(width);
        let values = values.map(|sum| if sum.is_nan() { f32::INFINITY } else { *sum });
        if round.source.window.is_none() {
            column.extend(values);
        } else if query != NO_QUERY {
            let pairs = values.zip(&found.cells);
            let within = pairs.filter(|(_, cell)| round.source.is_within(query, **cell));
            column.extend(within.map(|(sum, _)| sum));
        }
        if column.len() >= k {
            let (_, kth, _) = column.select_nth_unstable_by(k - 1, f32::total_cmp);
            tile.seed(at, *kth);
        }
    }
}
