//! The matcher for flat galleries (of one level, or of several of the same size, which are concatenated as
//! they are read): a distance is taken only where a few leading
//! coordinates ([`crate::bounds`], `projection.rs`) cannot tell that the pair is too far apart.
//!
//! Queries are taken in patches, so that those of one vector lie close together in their image and
//! near the same rows. For each tile of queries and each chunk of rows:
//!
//! 1. A *filter* of some 16 leading coordinates lists, for each vector, the rows that may be near any
//!    of its queries; a *second filter*, of some 48, looks at those alone.
//! 2. What is left is compared one by one: in float32 over all channels, from the stored values.
//! 3. What is then within the limit is compared in float64 ([`super::exact`]), and this alone decides:
//!    the k nearest are the least by distance and place, in whatever order they come.
//!
//! A query's *limit* is the k-th least distance known. So that it is low from the start, the *seeds*
//! come first: the rows nearest to the mean of each vector, by leading coordinates, are compared with
//! all its queries. They only lower limits.
//!
//! # Why nothing is lost
//! Every comparison is with a value that rounding can only have made larger (limits) or smaller
//! (bounds), so that a pair is dropped only when its float64 distance exceeds the k-th least. For the
//! filters see [`crate::bounds`], `projection.rs`. In float32, `u scale` and `v scale` are exact but for underflow,
//! their difference is rounded once, its square once, and the sum of `n` squares at most `n + 8`
//! times: all relative to what is summed, so that the distance is right within `(n + 12) 2^-24` of
//! itself, with a hundredth on top. `1e-7` of a distance is more than its float64 value is wrong by.

mod cost;
mod matcher;
mod plan;
mod search;
mod seeds;

pub(super) use matcher::Flat;
