//! Patches led through a gallery image, level by level.

use super::coarse_filter;
use super::inputs::{CascadeImage, LevelCounts, PatchHits, TileQueries};
use super::leading::LeadingCoordinates;
use super::patch::Patch;
use super::plan::CascadePlan;
use super::refine;
use super::scratch::CascadeScratch;
use crate::kernels::instruction_set::{InstructionSet, TILE_VECTORS};
use crate::kernels::simd::{Kernel, Lanes, run_kernel};
use crate::kernels::tile::{Limits, MAX_TILE, QueryTile};
use crate::pyramid::Area;
use std::cell::Cell;

/// Compares all patches with the cells of a gallery image; returns the work that was done.
pub(crate) fn search_patches(
    set: InstructionSet,
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    tiles: &[TileQueries<'_>],
    patches: &mut [Patch],
    scratch: &mut CascadeScratch,
    hits: &mut dyn PatchHits,
) -> LevelCounts {
    check_image(set, plan, image);
    for tile in tiles {
        tile.queries.check(plan.grids, set);
    }
    for patch in &*patches {
        assert!(patch.tile < tiles.len());
        check_patch(set, plan, image, patch);
    }
    scratch.start_image(plan.grids, set.width());
    let mut counts = LevelCounts::new(plan.grids.len());
    let kernel = SearchPatches {
        plan,
        image,
        tiles,
        patches,
        scratch,
        counts: &mut counts,
        hits,
    };
    // SAFETY: all sizes were checked; there is room for an entry for each fine cell.
    unsafe { run_kernel(set, kernel) };
    counts
}

/// Panics unless every buffer of an image has the size that the kernels rely on. What a plan holds fits
/// its grids, as it was made from them.
fn check_image(set: InstructionSet, plan: &CascadePlan<'_>, image: &CascadeImage<'_>) {
    let (grids, coarse) = (plan.grids, image.coarse);
    let coarsest = grids[grids.len() - 1].shape;
    image.centred_image.check(grids);
    assert!(image.stride.is_multiple_of(set.width()));
    assert_eq!(coarse.products.len(), coarsest.cells() * image.stride);
    assert_eq!(coarse.coarse_sq_norms.len(), coarsest.cells());
    if !plan.nested {
        for sq_norms in &coarse.sq_norms {
            assert_eq!(sq_norms.len(), grids[0].shape.cells());
        }
        let blocks = plan.bands.len() * plan.segments.len();
        assert!(coarse.spreads.len() == blocks && coarse.least_sq_norms.len() == blocks);
        coarse.leading.check(grids);
    }
}

/// The same for a patch.
fn check_patch(
    set: InstructionSet,
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    patch: &Patch,
) {
    let (grids, coarse) = (plan.grids, image.coarse);
    let coarsest = grids[grids.len() - 1].shape;
    assert!(plan.nested || patch.leading.len() == LeadingCoordinates::n_values(grids));
    assert!(patch.vector < TILE_VECTORS);
    patch.around.check(plan);
    let row = coarsest.width * set.width();
    assert!(patch.rows.iter().all(|values| values.len() == row));
    let last = (coarsest.cells() - 1) * set.width();
    assert!(
        patch.corners.iter().all(|corner| {
            corner.cell < image.stride && corner.at + last < coarse.products.len()
        })
    );
    assert_eq!(patch.finer_sq_norms.len(), grids.len());
    assert_eq!(patch.packed4.len(), grids.len());
}

/// See [`search_patches`]. Its parts, in [`coarse_filter`] and [`refine`], rely on what [`check_image`] and
/// [`check_patch`] make sure of, and on room in the scratch for an entry for each fine cell.
struct SearchPatches<'a> {
    plan: &'a CascadePlan<'a>,
    image: &'a CascadeImage<'a>,
    tiles: &'a [TileQueries<'a>],
    patches: &'a mut [Patch],
    scratch: &'a mut CascadeScratch,
    counts: &'a mut LevelCounts,
    hits: &'a mut dyn PatchHits,
}

impl Kernel for SearchPatches<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            plan,
            image,
            tiles,
            patches,
            scratch,
            counts,
            hits,
        } = self;
        if plan.nested {
            // SAFETY: as promised by the caller.
            unsafe { coarse_filter::filter_corners::<L>(plan, image, tiles, patches, scratch) };
        }
        for patch in patches.iter_mut() {
            let tile = tiles[patch.tile];
            // SAFETY: as promised by the caller.
            unsafe {
                if plan.nested {
                    coarse_filter::filter_nested::<L>(
                        plan,
                        image,
                        tile.limits,
                        patch,
                        scratch,
                        counts,
                    );
                } else {
                    coarse_filter::filter_cells::<L>(
                        plan,
                        image,
                        tile.limits,
                        patch,
                        scratch,
                        counts,
                    );
                }
                refine_all::<L, CELLS>(plan, image, tile, patch, scratch, counts);
                report::<L>(plan, tile.limits, patch, scratch, hits);
            }
        }
    }
}

/// Leads the entries of a patch through all levels but the coarsest.
///
/// # Safety
/// As for [`SearchPatches`].
#[inline(always)]
unsafe fn refine_all<L: Lanes, const CELLS: usize>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    tile: TileQueries<'_>,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut LevelCounts,
) {
    for level in (0..plan.grids.len() - 1).rev() {
        if scratch.entries[0].len == 0 {
            return;
        }
        // SAFETY: as promised by the caller.
        unsafe {
            if let Some(queries) = &patch.packed4[level] {
                let queries = (tile.limits, queries);
                refine::refine_packed4::<L>(plan, image, level, queries, patch, scratch, counts);
            } else if plan.nested {
                refine::refine_nested::<L>(plan, image, level, tile, patch, scratch, counts);
            } else {
                refine::refine::<L, CELLS>(plan, image, level, tile, patch, scratch, counts);
            }
        }
        if plan.nested && patch.around.n_cells(0) < plan.grids[0].shape.cells() {
            scratch.entries[0].keep_within(&patch.around.levels[level], L::WIDTH);
        }
    }
}

/// Appends the partial distances, in full, of a patch to some fine cells of a gallery image, and which they
/// are: when levels are nested all that lie in `cell` of the coarsest level.
pub(crate) fn distances(
    set: InstructionSet,
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    (queries, patch): (&QueryTile, &mut Patch),
    (cell, fine_cells): (usize, &Area),
    scratch: &mut CascadeScratch,
    out: &mut CellDistances,
) {
    let limits = [const { Cell::new(f32::INFINITY) }; MAX_TILE];
    let tile = TileQueries {
        queries,
        limits: &limits,
    };
    check_image(set, plan, image);
    queries.check(plan.grids, set);
    check_patch(set, plan, image, patch);
    assert!(cell < plan.grids[plan.grids.len() - 1].shape.cells());
    let around = &patch.around.area;
    assert!(fine_cells.rows.start >= around.rows.start && fine_cells.rows.end <= around.rows.end);
    let (columns, within) = (&fine_cells.columns, &around.columns);
    assert!(columns.start >= within.start && columns.end <= within.end);
    scratch.start_image(plan.grids, set.width());
    let kernel = Distances {
        plan,
        image,
        tile,
        patch,
        cells: (cell, fine_cells),
        scratch,
        out,
    };
    // SAFETY: as in `search_patches`; the cell exists.
    unsafe { run_kernel(set, kernel) };
}

/// Some fine cells, and a vector of partial distances for each.
#[derive(Default)]
pub(crate) struct CellDistances {
    pub cells: Vec<usize>,
    pub sums: Vec<f32>,
}

/// See [`distances`].
struct Distances<'a> {
    plan: &'a CascadePlan<'a>,
    image: &'a CascadeImage<'a>,
    tile: TileQueries<'a>,
    patch: &'a mut Patch,
    cells: (usize, &'a Area),
    scratch: &'a mut CascadeScratch,
    out: &'a mut CellDistances,
}

impl Kernel for Distances<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            plan,
            image,
            tile,
            patch,
            cells,
            scratch,
            out,
        } = self;
        let mut counts = LevelCounts::new(plan.grids.len());
        // SAFETY: as promised by the caller. No limit excludes anything.
        unsafe {
            coarse_filter::push_cells::<L>(plan, image, cells, patch, &mut scratch.entries[0]);
            refine_all::<L, CELLS>(plan, image, tile, patch, scratch, &mut counts);
        }
        let entries = &scratch.entries[0];
        let fine_width = plan.grids[0].shape.width;
        let places = entries.rows.iter().zip(&entries.columns).take(entries.len);
        out.cells
            .extend(places.map(|(row, column)| *row as usize * fine_width + *column as usize));
        out.sums
            .extend_from_slice(&entries.sums[..entries.len * L::WIDTH]);
    }
}

/// Tells of the pairs that are left, in ascending order of cells.
///
/// # Safety
/// The instruction set of `L` must be available, and the patch lie in a tile of as many lanes.
#[inline(always)]
unsafe fn report<L: Lanes>(
    plan: &CascadePlan<'_>,
    limits: &Limits,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    hits: &mut dyn PatchHits,
) {
    let fine_width = plan.grids[0].shape.width;
    let CascadeScratch { entries, order, .. } = scratch;
    let entries = &entries[0];
    order.clear();
    order.extend(0..entries.len as u32);
    let cell = |at: u32| {
        entries.rows[at as usize] as usize * fine_width + entries.columns[at as usize] as usize
    };
    if plan.nested {
        order.sort_unstable_by_key(|at| cell(*at));
    }
    for &at in &*order {
        let first = patch.vector * L::WIDTH;
        let limit_at = limits.as_ptr().cast::<f32>();
        // SAFETY: as in [`Patch::limit`]; `at` is below the number of entries.
        let mut within = unsafe {
            entries
                .sums::<L>(at as usize)
                .not_above(L::load(limit_at.add(first)))
        };
        while within != 0 {
            let lane = within.trailing_zeros() as usize;
            within &= within - 1;
            let s = entries.sums[at as usize * L::WIDTH + lane];
            hits.hit(patch.tile, first + lane, cell(at), s);
        }
    }
}
