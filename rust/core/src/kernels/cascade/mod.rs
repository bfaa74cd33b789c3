//! The cascade: which fine cells of a gallery image can be near a patch of queries.
//!
//! The squared distance of a pair is a sum over levels, `|u - v|^2 = sum_l |u_l - v_l|^2`, so a partial
//! distance that leaves out some levels is too small by what they add. With `s` as in
//! [`super::scan`], a pair whose levels from `l` on add up to
//!
//! ```text
//! s_l = sum over l' >= l of |v_l'|^2 - 2 <u_l', v_l'>,       s_0 = s
//! ```
//!
//! has `s >= s_l - sum over l' < l of |u_l'|^2`, as each level left out adds
//! `|v|^2 - 2 <u, v> = |u - v|^2 - |u|^2 >= -|u|^2`. Where `s_l` exceeds the query's limit by more than
//! these norms, the finer levels need not be looked at. The coarsest level is looked at first: its
//! inner products were taken once per pair of *coarse* cells ([`super::survey`]), and the fine
//! cells between the same coarse cells are first tried together.
//!
//! **The bound for cells between the same coarse cells.** There `v = sum_j w_j g_j` over (at most)
//! four coarse features, with weights that are positive and sum to 1. Two bounds follow for any `u`:
//!
//! ```text
//! |v|^2 - 2 <u, v> = sum_j w_j (|g_j|^2 - 2 <u, g_j>) - (sum_j w_j |g_j|^2 - |v|^2)
//!                 >= min_j (|g_j|^2 - 2 <u, g_j>) - spread
//! |v|^2 - 2 <u, v> = |v|^2 + sum_j w_j (-2 <u, g_j>)
//!                 >= least |v|^2 + min_j (-2 <u, g_j>)
//! ```
//!
//! where `spread` is the largest value of the last bracket, and `least |v|^2` the smallest norm, among
//! these cells; both are known from the survey. The cells are passed over when either bound is above
//! the limit, for every query of the patch.
//!
//! Of the cells that are left, the sum of the coarsest level is computed, and those that are within the
//! limit are tried by a bound on what the finer levels add ([`super::leading`]). Products of finer
//! levels are taken of what is left then.
//!
//! A patch is as many queries as a vector has lanes, close together in the image, so that they need
//! much the same gallery cells: what only one of them needs is computed for all. When levels are nested,
//! few of them differ on a coarse level; there, four gallery cells share a vector ([`patch`]).
//!
//! What rounding adds is covered by `error`, a bound on the error of any sum of levels of `s`
//! ([`crate::matching`]); the limits hold it once already, and it is added once more for the
//! rounding of the norms, three times more for the bounds of blocks, which combine three such sums.

mod native;
mod patch;
mod plan;
mod refine;
mod scratch;
mod sift;

pub(crate) use patch::Patch;
pub(crate) use plan::Plan;
pub(crate) use scratch::CascadeScratch;

use super::leading::Leading;
use super::prepare::FramedImage;
use super::scan::{Limits, QueryTile};
use super::survey::Survey;
use super::{InstructionSet, Kernel, Lanes, MAX_TILE, TILE_VECTORS, run};
use std::cell::Cell;

/// The gallery image that is being gone through.
pub(crate) struct CascadeImage<'a> {
    pub framed: FramedImage<'a>,
    pub survey: &'a Survey,
    /// Of the products in the survey.
    pub stride: usize,
}

/// A tile of queries and their limits.
#[derive(Clone, Copy)]
pub(crate) struct TileQueries<'a> {
    pub queries: &'a QueryTile,
    pub limits: &'a Limits,
}

/// Is told of every pair whose partial distance is not above the limit of its query, for each
/// query in ascending order of cells.
pub(crate) trait PatchHits {
    fn hit(&mut self, tile: usize, lane: usize, cell: usize, s: f32);
}

/// The work that was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Pairs of which the sum from this level on was computed (on the grid on which it is summed up).
    pub pairs: Vec<u64>,
    /// Vectors of such pairs.
    pub vectors: Vec<u64>,
    /// Vectors of inner products taken on this level.
    pub products: Vec<u64>,
}

impl Counts {
    pub(crate) fn new(n_levels: usize) -> Self {
        Self {
            pairs: vec![0; n_levels],
            vectors: vec![0; n_levels],
            products: vec![0; n_levels],
        }
    }
}

/// Compares all patches with the cells of a gallery image; returns the work that was done.
pub(crate) fn search_patches(
    set: InstructionSet,
    plan: &Plan<'_>,
    image: &CascadeImage<'_>,
    tiles: &[TileQueries<'_>],
    patches: &mut [Patch],
    scratch: &mut CascadeScratch,
    hits: &mut dyn PatchHits,
) -> Counts {
    check_image(set, plan, image);
    for tile in tiles {
        tile.queries.check(plan.grids, set);
    }
    for patch in &*patches {
        assert!(patch.tile < tiles.len());
        check_patch(set, plan, image, patch);
    }
    scratch.start_image(plan.grids, set.width());
    let mut counts = Counts::new(plan.grids.len());
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
    unsafe { run(set, kernel) };
    counts
}

/// Panics unless every buffer of an image has the size that the kernels rely on. What a plan holds fits
/// its grids, as it was made from them.
fn check_image(set: InstructionSet, plan: &Plan<'_>, image: &CascadeImage<'_>) {
    let (grids, survey) = (plan.grids, image.survey);
    let coarsest = grids[grids.len() - 1].shape;
    image.framed.check(grids);
    assert!(image.stride.is_multiple_of(set.width()));
    assert_eq!(survey.products.len(), coarsest.cells() * image.stride);
    assert_eq!(survey.coarse_sq_norms.len(), coarsest.cells());
    if !plan.nested {
        for sq_norms in &survey.sq_norms {
            assert_eq!(sq_norms.len(), grids[0].shape.cells());
        }
        let blocks = plan.bands.len() * plan.segments.len();
        assert!(survey.spreads.len() == blocks && survey.least_sq_norms.len() == blocks);
        survey.leading.check(grids);
    }
}

/// The same for a patch.
fn check_patch(set: InstructionSet, plan: &Plan<'_>, image: &CascadeImage<'_>, patch: &Patch) {
    let (grids, survey) = (plan.grids, image.survey);
    let coarsest = grids[grids.len() - 1].shape;
    assert!(plan.nested || patch.leading.len() == Leading::n_values(grids));
    assert!(patch.vector < TILE_VECTORS);
    let row = coarsest.width * set.width();
    assert!(patch.rows.iter().all(|values| values.len() == row));
    let last = (coarsest.cells() - 1) * set.width();
    assert!(
        patch.corners.iter().all(|corner| {
            corner.cell < image.stride && corner.at + last < survey.products.len()
        })
    );
    assert_eq!(patch.finer_sq_norms.len(), grids.len());
    assert_eq!(patch.fourfold.len(), grids.len());
}

/// See [`search_patches`]. Its parts, in [`sift`] and [`refine`], rely on what [`check_image`] and
/// [`check_patch`] make sure of, and on room in the scratch for an entry for each fine cell.
struct SearchPatches<'a> {
    plan: &'a Plan<'a>,
    image: &'a CascadeImage<'a>,
    tiles: &'a [TileQueries<'a>],
    patches: &'a mut [Patch],
    scratch: &'a mut CascadeScratch,
    counts: &'a mut Counts,
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
            unsafe { sift::sift_corners::<L>(plan, image, tiles, patches, scratch) };
        }
        for patch in patches.iter_mut() {
            let tile = tiles[patch.tile];
            // SAFETY: as promised by the caller.
            unsafe {
                if plan.nested {
                    sift::sift_nested::<L>(plan, image, tile.limits, patch, scratch, counts);
                } else {
                    sift::sift::<L>(plan, image, tile.limits, patch, scratch, counts);
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
    plan: &Plan<'_>,
    image: &CascadeImage<'_>,
    tile: TileQueries<'_>,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
) {
    for level in (0..plan.grids.len() - 1).rev() {
        if scratch.entries[0].len == 0 {
            return;
        }
        // SAFETY: as promised by the caller.
        unsafe {
            if let Some(queries) = &patch.fourfold[level] {
                let queries = (tile.limits, queries);
                refine::refine_fourfold::<L>(plan, image, level, queries, patch, scratch, counts);
            } else if plan.nested {
                refine::refine_nested::<L>(plan, image, level, tile, patch, scratch, counts);
            } else {
                refine::refine::<L, CELLS>(plan, image, level, tile, patch, scratch, counts);
            }
        }
    }
}

/// Appends the partial distances, in full, of a patch to all the fine cells of one cell of the coarsest
/// level of a gallery image.
pub(crate) fn distances(
    set: InstructionSet,
    plan: &Plan<'_>,
    image: &CascadeImage<'_>,
    (queries, patch): (&QueryTile, &mut Patch),
    cell: usize,
    scratch: &mut CascadeScratch,
    out: &mut Vec<f32>,
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
    scratch.start_image(plan.grids, set.width());
    let kernel = Distances {
        plan,
        image,
        tile,
        patch,
        cell,
        scratch,
        out,
    };
    // SAFETY: as in `search_patches`; the cell exists.
    unsafe { run(set, kernel) };
}

/// See [`distances`].
struct Distances<'a> {
    plan: &'a Plan<'a>,
    image: &'a CascadeImage<'a>,
    tile: TileQueries<'a>,
    patch: &'a mut Patch,
    cell: usize,
    scratch: &'a mut CascadeScratch,
    out: &'a mut Vec<f32>,
}

impl Kernel for Distances<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            plan,
            image,
            tile,
            patch,
            cell,
            scratch,
            out,
        } = self;
        let mut counts = Counts::new(plan.grids.len());
        // SAFETY: as promised by the caller. No limit excludes anything.
        unsafe {
            sift::take_cell::<L>(plan, image, cell, patch, &mut scratch.entries[0]);
            refine_all::<L, CELLS>(plan, image, tile, patch, scratch, &mut counts);
        }
        let entries = &scratch.entries[0];
        out.extend_from_slice(&entries.sums[..entries.len * L::WIDTH]);
    }
}

/// Tells of the pairs that are left, in ascending order of cells.
///
/// # Safety
/// The instruction set of `L` must be available, and the patch lie in a tile of as many lanes.
#[inline(always)]
unsafe fn report<L: Lanes>(
    plan: &Plan<'_>,
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
