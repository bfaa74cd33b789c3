//! What the matchers have in common: each finds the neighbours of a job's cells.

use super::job::Job;
use super::options::Options;
use super::stats::SearchStats;
use crate::gallery::Selection;
use crate::kernels::InstructionSet;
use crate::pyramid::PyramidContext;

/// A search, checked: what all of its jobs share.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    /// Of the gallery.
    pub context: &'a PyramidContext,
    /// Of the query: another one only where there is one level.
    pub query_context: &'a PyramidContext,
    pub selections: &'a [Selection],
    pub options: &'a Options<'a>,
    pub set: InstructionSet,
    pub threads: usize,
}

/// How a matcher wants a search to be divided into jobs.
pub(super) struct Division {
    pub cells_per_job: usize,
    /// So many jobs run at the same time, each on one thread; a matcher that wants one job at a time
    /// divides it among threads itself.
    pub jobs_at_once: usize,
}

/// One way of finding neighbours.
pub(super) trait JobMatcher: Sync {
    /// What one job at a time needs, and the next one uses again.
    type Buffers: Send;

    /// Makes buffers.
    fn buffers(&self) -> Self::Buffers;

    /// How to divide a search for `n_images` query images of `n_cells` cells.
    fn division(&self, n_images: usize, n_cells: usize) -> Division;

    /// Finds the neighbours of one job's cells; leaves them unset if the search is cancelled.
    fn search(&self, buffers: &mut Self::Buffers, job: &mut Job<'_>) -> SearchStats;
}
