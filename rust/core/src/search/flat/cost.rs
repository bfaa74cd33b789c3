//! What searching by leading coordinates costs, and what comparing everything would: whether to begin,
//! and whether to go on.
//!
//! The numbers are those with which neither way was much slower than the better of the two, on real
//! features and on random ones. `cargo bench -p knnspect-core -- pruned` and `-- exhaustive`
//! (benches/rust/matching.rs) time both ways, and `benches/python/{flat,growth}.py` whole searches.

use crate::kernels::flat::Filter;

/// With fewer channels, few leading coordinates are nearly all of them.
const MIN_CHANNELS: usize = 48;

/// Fewer queries do not repay that the gallery is projected.
const MIN_QUERIES: usize = 256;

/// Fewer rows do not repay it either. Of 1,568 rows of real features, 3,136 queries find their
/// neighbours in less than half the time.
const MIN_ROWS: usize = 1024;

/// Rows for each neighbour that is asked for: with fewer the limits are too wide.
const ROWS_PER_NEIGHBOR: usize = 64;

/// More rows than this do not allow for more neighbours.
const MAX_ROWS_FOR_NEIGHBORS: usize = 4096;

/// Whether searches of this size promise to gain from leading coordinates.
pub(super) fn promises_to_pay(channels: usize, n_queries: usize, n_rows: usize, k: usize) -> bool {
    channels >= MIN_CHANNELS
        && n_queries >= MIN_QUERIES
        && n_rows >= MIN_ROWS
        && k <= n_rows.min(MAX_ROWS_FOR_NEIGHBORS) / ROWS_PER_NEIGHBOR
}

/// How many pairs each stage looked at.
#[derive(Debug, Default)]
pub(super) struct FilterCounts {
    /// All pairs, by the first filter.
    pub first_filter: u64,
    /// By the second filter.
    pub second_filter: u64,
    /// In float32, over all channels.
    pub float32: u64,
    /// In float64.
    pub float64: u64,
}

/// What a multiply-add of a stage costs, in those of the first filter, whose vectors are full: rows that
/// are looked up by a list,
const SECOND_FILTER: f64 = 1.5;
/// pairs that are compared one by one,
const FLOAT32: f64 = 5.0;
/// and pairs that are upsampled and compared in float64.
const FLOAT64: f64 = 16.0;

/// Pruning has to cost less than this part of comparing everything.
const SHARE: f64 = 0.8;

/// Limits are worst in the beginning, so this part of all the work of comparing everything is allowed
/// as a loss.
const ALLOWED_LOSS: f64 = 0.05;

/// Whether the exhaustive matcher promises to be faster with all `n_pairs`, by what the stages had to
/// look at so far.
pub(super) fn is_too_slow(
    counts: &FilterCounts,
    filters: [Filter; 2],
    channels: usize,
    n_pairs: usize,
) -> bool {
    let ([first, second], channels) = (filters.map(|f| f.n_leading as f64), channels as f64);
    let pruned = counts.first_filter as f64 * first
        + SECOND_FILTER * counts.second_filter as f64 * second
        + FLOAT32 * counts.float32 as f64 * channels
        + FLOAT64 * counts.float64 as f64 * channels;
    let exhaustive = counts.first_filter as f64 * channels;
    let allowed = ALLOWED_LOSS * channels * n_pairs as f64;
    pruned > SHARE * exhaustive + allowed
}
