//! A gallery image, prepared: everything that the cascade needs to know of it before it looks at any
//! pair, above all the inner products of the coarsest level, each taken once for all the fine
//! cells above it.

use super::leading::{LeadingCoordinates, LeadingDirections, ProjectionScratch, project_levels};
use super::plan::CascadePlan;
use crate::kernels::instruction_set::InstructionSet;
use crate::kernels::prepare::{CentredImage, NormScratch, add_sq_norms, centre_into, dot};
use crate::kernels::product::strip;
use crate::kernels::simd::{Kernel, Lanes, MAX_WIDTH, run_kernel};
use crate::pyramid::{LevelGrid, Tap, Window};
use std::ops::Range;

/// Rows of the finest level that the queries of a patch lie in, at most.
pub(crate) const PATCH_ROWS: usize = 4;

/// What is known of one gallery image, compared with one query image by the coarsest level.
#[derive(Default)]
pub(crate) struct CoarseImage {
    /// `-2 <f, g>` of the coarsest level: `[vector of query cells][gallery cell][query cell]`. With a
    /// window, those of cells that are not compared are anything.
    pub products: Vec<f32>,
    /// Squared norms of the cells of the coarsest level.
    pub coarse_sq_norms: Vec<f32>,
    /// Squared norms of the interpolated features of each level, on the finest grid; empty when the
    /// levels are nested.
    pub sq_norms: Vec<Vec<f32>>,
    /// Leading coordinates of the levels but the coarsest; empty when the levels are nested.
    pub leading: LeadingCoordinates,
    /// Of the fine cells between the same coarse cells, `[band][segment]`, how far at most the squared
    /// norm of the coarsest level lies below the interpolated squared norms around it.
    pub spreads: Vec<f32>,
    /// The smallest squared norm of the coarsest level among these cells.
    pub least_sq_norms: Vec<f32>,
    /// A norm that no cell of each level exceeds.
    pub max_norms: Vec<f32>,
    /// For each query cell of the coarsest level, the nearest gallery cell and its partial distance; with
    /// a window, those of the same place.
    pub nearest: Vec<(f32, u32)>,
}

/// What the comparisons of all gallery images need of a query image.
pub(crate) struct CoarseQuery {
    /// Cells of the coarsest level, rounded up to whole vectors.
    pub stride: usize,
    /// The coarsest level as `[channel][cell]`, multiplied by -2.
    packed: Vec<f32>,
    /// With a window, for each vector of cells the gallery cells that they are compared with: whole rows.
    near: Option<Vec<Range<usize>>>,
    /// Those of leading coordinates; none when levels are nested.
    directions: Option<LeadingDirections>,
}

impl CoarseQuery {
    /// Packs the coarsest of the centred levels; `directions` are those of the others, unless levels are
    /// nested. Patches of queries span at most `PATCH_ROWS` rows.
    pub(crate) fn new(
        set: InstructionSet,
        plan: &CascadePlan<'_>,
        centred: &[Vec<f32>],
        directions: Option<LeadingDirections>,
        window: Option<&Window>,
    ) -> Self {
        let coarsest = plan.grids.len() - 1;
        let (grid, values) = (&plan.grids[coarsest], &centred[coarsest]);
        let channels = grid.shape.channels;
        let stride = grid.shape.cells().next_multiple_of(set.width());
        let mut packed = vec![0.0; channels * stride];
        for (cell, feature) in values.chunks_exact(channels).enumerate() {
            for (channel, value) in feature.iter().enumerate() {
                packed[channel * stride + cell] = -2.0 * value;
            }
        }
        Self {
            stride,
            packed,
            near: window.map(|window| near_cells(grid, window, stride, set.width())),
            directions,
        }
    }

    /// Leading coordinates of the query image itself, if any are used; no cell of a level exceeds its
    /// `max_norm`.
    pub(crate) fn leading(
        &self,
        set: InstructionSet,
        grids: &[LevelGrid],
        image: CentredImage<'_>,
        max_norms: &[f32],
    ) -> Option<LeadingCoordinates> {
        let directions = self.directions.as_ref()?;
        Some(LeadingCoordinates::of(
            set, grids, image, directions, max_norms,
        ))
    }
}

/// For each vector of cells of the coarsest level of the query, whole rows of gallery cells: all that is
/// needed for the fine cells that any of them has a share in, and for those in the same patch.
fn near_cells(grid: &LevelGrid, window: &Window, stride: usize, lanes: usize) -> Vec<Range<usize>> {
    let (width, height, fine) = (grid.shape.width, grid.shape.height, grid.rows.len());
    let near_row = |row: usize| {
        let has_share = |tap: &Tap| tap.first == row || tap.second == row;
        let first = grid.rows.iter().position(has_share).unwrap_or(0);
        let last = grid.rows.iter().rposition(has_share).unwrap_or(fine - 1);
        let first = first.saturating_sub(PATCH_ROWS - 1);
        let last = (last + PATCH_ROWS - 1).min(fine - 1);
        let (from, to) = (window.rows()[first].start, window.rows()[last].end - 1);
        grid.rows[from].first..grid.rows[to].second + 1
    };
    let rows: Vec<Range<usize>> = (0..height).map(near_row).collect();
    let vectors = (0..stride).step_by(lanes);
    let near = vectors.map(|first| {
        let [first, last] = [first, first + lanes - 1].map(|cell| (cell / width).min(height - 1));
        rows[first].start * width..rows[last].end * width
    });
    near.collect()
}

/// Working memory of [`compare_coarse`].
#[derive(Default)]
pub(crate) struct CoarseScratch {
    centred: Vec<f32>,
    norms: NormScratch,
    leading: ProjectionScratch,
    row: Vec<f32>,
}

/// Compares one gallery image with all of the query image by the coarsest level; no cell of a level exceeds its `max_norm`.
pub(crate) fn compare_coarse(
    set: InstructionSet,
    plan: &CascadePlan<'_>,
    image: CentredImage<'_>,
    query: &CoarseQuery,
    max_norms: Vec<f32>,
    scratch: &mut CoarseScratch,
    coarse: &mut CoarseImage,
) {
    let coarsest = plan.grids[plan.grids.len() - 1].shape;
    assert_eq!(query.packed.len(), coarsest.channels * query.stride);
    assert!(query.stride.is_multiple_of(set.width()) && query.stride >= coarsest.cells());
    image.check(plan.grids);
    if let Some(directions) = &query.directions {
        directions.check(plan.grids, set);
    }
    coarse.max_norms = max_norms;
    let kernel = CompareCoarse {
        plan,
        image,
        query,
        scratch,
        coarse,
    };
    // SAFETY: all sizes were checked.
    unsafe { run_kernel(set, kernel) }
}

/// See [`compare_coarse`]; it relies on the sizes that are checked there.
struct CompareCoarse<'a> {
    plan: &'a CascadePlan<'a>,
    image: CentredImage<'a>,
    query: &'a CoarseQuery,
    scratch: &'a mut CoarseScratch,
    coarse: &'a mut CoarseImage,
}

impl Kernel for CompareCoarse<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            plan,
            image,
            query,
            scratch,
            coarse,
        } = self;
        let grids = plan.grids;
        let coarsest = grids.len() - 1;
        let grid = &grids[coarsest];
        let centred = &mut scratch.centred;
        centred.resize(grid.shape.values(), 0.0);
        let mean = &image.means[coarsest];
        centre_into(image.levels[coarsest], mean, image.scale, centred);
        coarse.coarse_sq_norms.clear();
        for cell in centred.chunks_exact(grid.shape.channels) {
            coarse.coarse_sq_norms.push(dot(cell, cell));
        }
        let len = grid.shape.cells() * query.stride;
        if query.near.is_some() {
            coarse.products.resize(len, 0.0); // not all of it is written
        } else {
            coarse.products.clear();
            coarse.products.reserve_exact(len);
        }
        // SAFETY: the query holds `channels` rows of `stride`, whole vectors; there is room for one such
        // row for each cell, and all of it is written now, or was before.
        unsafe {
            let (channels, to) = (grid.shape.channels, coarse.products.as_mut_ptr());
            products::<L, CELLS>(query, channels, centred, to);
            coarse.products.set_len(len);
        }
        if let Some(directions) = &query.directions {
            coarse.sq_norms.resize_with(grids.len(), Vec::new);
            let (finer, sq_norms) = coarse.sq_norms.split_at_mut(coarsest);
            let sq_norms = &mut sq_norms[0];
            sq_norms.clear();
            sq_norms.resize(grids[0].shape.cells(), 0.0);
            add_sq_norms(grid, centred, sq_norms, &mut scratch.norms);
            // SAFETY: the instruction set is there; sizes were checked.
            unsafe {
                project_levels::<L, CELLS>(
                    grids,
                    &image,
                    directions,
                    &coarse.max_norms,
                    &mut scratch.leading,
                    finer,
                    &mut coarse.leading,
                );
            }
            bound_blocks(plan, coarse, &mut scratch.row);
        }
        match query.near {
            Some(_) => take_same_places::<L>(coarse),
            None => find_nearest::<L>(coarse),
        }
    }
}

/// Inner products of all coarse query cells with all cells of `features`, or those that are near, laid out as
/// in [`CoarseImage`].
#[inline(always)]
unsafe fn products<L: Lanes, const CELLS: usize>(
    queries: &CoarseQuery,
    channels: usize,
    features: &[f32],
    out: *mut f32,
) {
    let n_cells = features.len() / channels;
    let mut first = 0;
    // Three vectors of queries at a time, as registers allow, then what is left. A strip of queries
    // stays in the first-level cache while all cells pass by.
    while first < queries.stride {
        let left = (queries.stride - first) / L::WIDTH;
        let cells = match &queries.near {
            Some(near) => {
                let near = &near[first / L::WIDTH..][..left.min(3)];
                near[0].start..near[near.len() - 1].end
            }
            None => 0..n_cells,
        };
        let cells = (cells, n_cells);
        // SAFETY: `first + V * WIDTH <= stride`, and as promised by the caller.
        unsafe {
            let from = queries.packed.as_ptr().add(first);
            let to = out.add(first * n_cells);
            let stride = queries.stride;
            first += L::WIDTH
                * match left {
                    3.. => strip::<L, 3, CELLS>(from, stride, channels, features, cells, to),
                    2 => strip::<L, 2, CELLS>(from, stride, channels, features, cells, to),
                    _ => strip::<L, 1, CELLS>(from, stride, channels, features, cells, to),
                };
        }
    }
}

/// Fills in what bounds all fine cells between the same coarse ones.
#[inline(always)]
fn bound_blocks(plan: &CascadePlan<'_>, coarse: &mut CoarseImage, row_norms: &mut Vec<f32>) {
    let grid = &plan.grids[plan.grids.len() - 1];
    let n_blocks = plan.bands.len() * plan.segments.len();
    for (values, value) in [
        (&mut coarse.spreads, f32::NEG_INFINITY),
        (&mut coarse.least_sq_norms, f32::INFINITY),
    ] {
        values.clear();
        values.resize(n_blocks, value);
    }
    let (width, fine_width) = (grid.shape.width, grid.columns.len());
    let sq_norms = &coarse.sq_norms[coarse.sq_norms.len() - 1];
    for (index, band) in plan.bands.iter().enumerate() {
        let blocks = index * plan.segments.len()..(index + 1) * plan.segments.len();
        let (spreads, least) = (
            &mut coarse.spreads[blocks.clone()],
            &mut coarse.least_sq_norms[blocks],
        );
        let first = &coarse.coarse_sq_norms[band.first * width..][..width];
        let second = &coarse.coarse_sq_norms[band.second * width..][..width];
        for row in band.fine.clone() {
            let down = grid.rows[row].second_weight as f32;
            row_norms.clear();
            row_norms.extend(first.iter().zip(second).map(|(a, b)| a + down * (b - a)));
            let sq_norms = &sq_norms[row * fine_width..][..fine_width];
            for ((segment, spread), least) in
                plan.segments.iter().zip(&mut *spreads).zip(&mut *least)
            {
                let (a, b) = (row_norms[segment.first], row_norms[segment.second]);
                for column in segment.fine.clone() {
                    let across = grid.columns[column].second_weight as f32;
                    *spread = spread.max(a + across * (b - a) - sq_norms[column]);
                    *least = least.min(sq_norms[column]);
                }
            }
        }
    }
}

/// Takes for the nearest gallery cell of each coarse query cell that of the same place.
#[inline(always)]
fn take_same_places<L: Lanes>(coarse: &mut CoarseImage) {
    let n_cells = coarse.coarse_sq_norms.len();
    let same_place = |(cell, sq_norm): (usize, &f32)| {
        let at = cell / L::WIDTH * L::WIDTH * n_cells + cell * L::WIDTH + cell % L::WIDTH;
        (coarse.products[at] + sq_norm, cell as u32)
    };
    let nearest = coarse.coarse_sq_norms.iter().enumerate().map(same_place);
    coarse.nearest = nearest.collect();
}

/// Finds the nearest gallery cell of each coarse query cell.
#[inline(always)]
fn find_nearest<L: Lanes>(coarse: &mut CoarseImage) {
    let n_cells = coarse.coarse_sq_norms.len();
    coarse.nearest.clear();
    for products in coarse.products.chunks_exact(n_cells * L::WIDTH) {
        let mut best = [f32::INFINITY; MAX_WIDTH];
        let mut best_at = [0; MAX_WIDTH];
        let cells = products.chunks_exact(L::WIDTH).zip(&coarse.coarse_sq_norms);
        for ((products, sq_norm), at) in cells.zip(0..) {
            for ((product, best), best_at) in products.iter().zip(&mut best).zip(&mut best_at) {
                let s = product + sq_norm;
                let nearer = s < *best;
                *best = if nearer { s } else { *best };
                *best_at = if nearer { at } else { *best_at };
            }
        }
        let nearest = best.into_iter().zip(best_at).take(L::WIDTH);
        coarse.nearest.extend(nearest);
    }
}
