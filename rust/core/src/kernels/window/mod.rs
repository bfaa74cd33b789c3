//! Position windows: the pairs of cells that lie near each other, shift by shift.
//!
//! A *shift* is how many columns a gallery cell lies to the right of a query cell. With a window there
//! are few of them, and all query cells of a row have much the same: a vector holds the same shift for
//! [`Lanes::WIDTH`](super::simd::Lanes::WIDTH) query cells, so that nothing outside the windows is computed.
//!
//! **Lanes.** Fine columns are taken by *phase*: with `n` fine columns for each of the coarsest level, lane
//! `i` of phase `p` is column `n i + p`. All lanes of a phase lie alike between the columns of every coarser
//! level, so that they are interpolated from the same shifts of it. A level with `m` columns for each of
//! the coarsest has `m` *parts*: lane `i` of part `q` is its column `m i + q`.
//!
//! **Coarse levels.** Upsampling is linear on both sides. For query row `r` and gallery row `y`
//!
//! ```text
//! products:      <f, g> of coarse cells, for each part and each coarse shift; kept while rows share them
//! rows:          the two coarse rows over r blended, then those over y
//! columns:       the two coarse columns over the gallery's fine column blended, then those over the query's
//! ```
//!
//! Each step is a blend of two vectors; products, by far the longest sums, are taken of coarse cells alone.
//! What lies beyond the border has the weight 0.
//!
//! **The finest level** (and those of its size) is looked at last, pair by pair. By Cauchy-Schwarz
//!
//! ```text
//! |v|^2 - 2 <u, v> >= |v|^2 - 2 sum over coarse levels <u_l, v_l> - 2 |u_0| |v_0|
//! ```
//!
//! Where the right side exceeds the query's limit, the pair is dropped.
//!
//! **Rounding.** All weights are positive and sum to 1, so the sums of absolute values are those that
//! `error_bounds` ([`crate::bounds`]) counts, and so are the roundings: one for each channel, a handful for
//! each blend. Norms of the finest level are rounded up. The limits hold this error once; it is added
//! twice more to what the right side is compared with: for its own rounding, and for that of the limit.

mod band;
mod image;
mod layout;
mod parts;
mod plan;
mod products;
mod sums;

pub(crate) use band::QueryBand;
pub(crate) use image::WindowImage;
pub(crate) use layout::WindowLayout;
pub(crate) use plan::WindowPlan;
pub(crate) use sums::{BandImage, BandScratch, search_band};
