//! Position windows in pyramids: all pairs within are compared by the coarse levels, and what these leave
//! by the finest one.
//!
//! With a small window the cascade gains little: what its coarsest level rules out lies mostly outside.
//! Here only pairs within the window are ever looked at ([`crate::kernels::window`]); the products of coarse
//! levels are few then, and most of the work is to blend them.
//!
//! A job is a band of rows of a query image. Gallery images are taken in the order of their ids, and only
//! those rows of them are made ready that lie within. What is found goes where the exhaustive matcher puts
//! it, so both give the same neighbours. Limits are low from the start: each cell is first compared with the
//! same place of the images that are nearest there by the coarsest level.

mod matcher;
mod seeds;

pub(super) use matcher::Windowed;
