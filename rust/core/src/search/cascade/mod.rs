//! The cascade: levels from the coarsest to the finest, and only what the levels before leave.
//!
//! The images of a selection are taken some at a time. First each is compared by
//! its coarsest level ([`crate::kernels::cascade::compare_coarse`]), once for all queries. Then patches of queries are led through the images in the order of their ids
//! ([`crate::kernels::cascade`]). What is found goes where the exhaustive matcher puts it, so
//! both give the same neighbours.
//!
//! A limit that is low from the start saves most work. Before its first image, each patch is compared
//! with the fine cells of the coarse cells that are nearest to its own; the k-th smallest distance
//! is no smaller than that of the k-th neighbour.
//!
//! Where nothing can be left out, the cascade is slower than comparing everything. Each job compares
//! what it does with what the exhaustive matcher would do, and goes on as that one when it is more.

mod cost;
mod group;
mod matcher;
mod round;
mod seeds;

pub(super) use matcher::Cascade;
