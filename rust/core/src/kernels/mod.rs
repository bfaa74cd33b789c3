//! The inner loops, written once over [`simd::Lanes`] and instantiated for each instruction set.
//!
//! | instruction set | floats in a vector | queries in a tile | cells in a register block |
//! |---|---|---|---|
//! | portable | 4 (plain arrays, no intrinsics) | 12 | 4 |
//! | NEON | 4 | 12 | 8 |
//! | AVX2 + FMA | 8 | 24 | 4 |
//! | AVX-512 | 16 | 48 | 8 |
//!
//! A vector holds the same quantity for [`simd::Lanes::WIDTH`] *different queries*. Interpolation weights
//! and gallery features are then scalars that are broadcast, the gallery is read in the order in
//! which it is stored, and finding a minimum needs no horizontal step.
//!
//! Nothing that a kernel computes is returned to a user: kernels only decide, with a proven error
//! bound, which pairs are worth an exact distance ([`crate::search::exact`]). Results are therefore
//! the same to the bit on every instruction set.

// The generic kernels exist only as parts of the functions that enable an instruction set.
#![allow(clippy::inline_always)]

pub(crate) mod cascade;
pub(crate) mod flat;
mod instruction_set;
mod prepare;
pub(crate) mod product;
mod scan;
mod simd;
mod tile;
pub(crate) mod window;

pub use instruction_set::InstructionSet;
pub(crate) use instruction_set::TILE_VECTORS;
pub(crate) use prepare::{CentredImage, PreparedImage, dot, prepare_image_into};
pub(crate) use scan::{Hits, ScanScratch, scan_image};
pub(crate) use tile::{Limits, MAX_TILE, NO_QUERY, QueryTile};
