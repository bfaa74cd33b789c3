//! The search of a batch: one driver for all matchers.

use super::cascade::Cascade;
use super::check::{check, own_context};
use super::exhaustive::Exhaustive;
use super::flat::Flat;
use super::job::divide;
use super::matcher::{JobMatcher, Request};
use super::neighbors::Neighbors;
use super::options::{Matcher, Options};
use super::shortlist::Shortlist;
use super::window::Windowed;
use crate::error::{Error, Result};
use crate::gallery::{Selection, verify};
use crate::kernels::InstructionSet;
use crate::parallel::{n_threads, run_tasks};
use crate::pyramid::{PyramidBatch, PyramidContext};
use std::sync::OnceLock;

/// Finds the `k` nearest cells, in `selections[i]`, of every cell of query image `i`; a single
/// selection serves all query images.
///
/// # Errors
/// [`Error::Shape`] when the query's pyramid differs from the gallery's (where both have one level,
/// when their channels differ), or there is a window and its finest grid does, [`Error::Image`] when it
/// holds a NaN or an infinity, [`Error::Parameter`] when `k` is 0 or exceeds the number of cells
/// that a selection holds (for each query cell, within the window), the window is for another shape, or there is not one selection per query image, [`Error::Resources`] when
/// there is not enough memory, and [`Error::Interrupted`].
pub fn search(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selections: &[Selection],
    options: &Options<'_>,
) -> Result<Neighbors> {
    let (shape, n_images) = (query.shape(), query.n_images());
    check(
        shape,
        n_images,
        context,
        selections,
        options.k,
        options.window,
    )?;
    query.check_finite(None)?;
    verify(selections, options.threads, options.cancel)?;
    search_checked(query, context, selections, options)
}

/// The same for arguments that [`check()`], [`PyramidBatch::check_finite`] and [`verify`] have let pass.
///
/// # Errors
/// [`Error::Resources`] when there is not enough memory; [`Error::Interrupted`].
pub fn search_checked(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selections: &[Selection],
    options: &Options<'_>,
) -> Result<Neighbors> {
    let own = own_context(query, context);
    let request = Request {
        context,
        query_context: own.as_ref().unwrap_or(context),
        selections,
        options,
        set: options.instruction_set.unwrap_or_else(InstructionSet::best),
        threads: n_threads(options.threads),
    };
    // What hides cells is made of single rows, which have no window and no coarse levels.
    let hides = selections.iter().any(Selection::hides_some);
    let windowed =
        (!hides && options.matcher != Matcher::Exhaustive).then(|| Windowed::new(&request));
    if let Some(windowed) = windowed.flatten() {
        return drive(&windowed, &request, query);
    }
    if !hides && options.matcher != Matcher::Exhaustive && Cascade::suits(&context.grids, options.k)
    {
        return drive(&Cascade::new(&request), &request, query);
    }
    // With a window few rows are left to be compared, fewer than would repay that all are projected.
    let flat = options.window.is_none().then(|| Flat::new(&request));
    match flat.flatten() {
        Some(flat) => drive(&flat, &request, query),
        None => drive(&Exhaustive::new(&request), &request, query),
    }
}

/// Has a matcher find the neighbours of all cells.
fn drive<M: JobMatcher>(
    matcher: &M,
    request: &Request<'_>,
    query: &PyramidBatch<'_>,
) -> Result<Neighbors> {
    let (n_images, n_cells) = (query.n_images(), query.shape().finest().cells());
    let (k, cancel) = (request.options.k, request.options.cancel);
    let division = matcher.division(n_images, n_cells);
    let cells_per_job = division.cells_per_job.min(n_cells);
    check_memory(cells_per_job, k, division.jobs_at_once)?;
    let mut neighbors = Neighbors::new(n_images, n_cells, k, request.options.exact)?;
    let centred: Vec<_> = (0..n_images).map(|_| OnceLock::new()).collect();
    let sizes = (cells_per_job, k);
    let jobs = divide(query, request.selections, &centred, sizes, &mut neighbors);
    let n_workers = division.jobs_at_once.min(jobs.len());
    let mut workers: Vec<_> = (0..n_workers).map(|_| matcher.buffers()).collect();
    let done = run_tasks(&mut workers, jobs, cancel, |buffers, mut job| {
        matcher.search(buffers, &mut job)
    });
    cancel.check()?;
    for stats in done {
        neighbors.stats.add(&stats);
    }
    Ok(neighbors)
}

/// Fails when the shortlists of jobs of `n_cells` cells, so many of them at once, could not be held.
///
/// # Errors
/// [`Error::Resources`], as the lists themselves grow by and by, and would end the process.
fn check_memory(n_cells: usize, k: usize, jobs_at_once: usize) -> Result<()> {
    let bytes = [n_cells, jobs_at_once]
        .into_iter()
        .try_fold(Shortlist::max_bytes(k), usize::checked_mul)
        .filter(|&bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    match bytes {
        Some(_) => Ok(()),
        None => Err(Error::Resources(format!(
            "not enough memory to search with k = {k}, {jobs_at_once} x {n_cells} cells at once"
        ))),
    }
}
