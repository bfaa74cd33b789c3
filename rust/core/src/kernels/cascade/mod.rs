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
//! inner products were taken once per pair of *coarse* cells ([`coarse`]), and the fine
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
//! these cells; both are in the [`coarse::CoarseImage`]. The cells are passed over when either bound is above
//! the limit, for every query of the patch.
//!
//! Of the cells that are left, the sum of the coarsest level is computed, and those that are within the
//! limit are tried by a bound on what the finer levels add ([`leading`]). Products of finer
//! levels are taken of what is left then.
//!
//! A patch is as many queries as a vector has lanes, close together in the image, so that they need
//! much the same gallery cells: what only one of them needs is computed for all. When levels are nested,
//! few of them differ on a coarse level; there, four gallery cells share a vector ([`patch`]).
//!
//! What rounding adds is covered by `error`, a bound on the error of any sum of levels of `s`
//! ([`crate::search`]); the limits hold it once already, and it is added once more for the
//! rounding of the norms, three times more for the bounds of blocks, which combine three such sums.

mod coarse;
mod coarse_filter;
mod coarse_rows;
mod descend;
mod inputs;
pub(crate) mod leading;
mod level_cells;
mod patch;
mod plan;
mod refine;
mod scratch;

pub(crate) use coarse::{CoarseImage, CoarseQuery, CoarseScratch, PATCH_ROWS, compare_coarse};
pub(crate) use descend::{CellDistances, distances, search_patches};
pub(crate) use inputs::{CascadeImage, LevelCounts, PatchHits, TileQueries};
pub(crate) use leading::{LeadingCoordinates, LeadingDirections, N_DIRECTIONS, UNIT};
pub(crate) use patch::Patch;
pub(crate) use plan::CascadePlan;
pub(crate) use scratch::CascadeScratch;
