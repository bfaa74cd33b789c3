//! The search of a batch.

use super::cascade;
use super::check::{check, own_context};
use super::exhaustive;
use super::flat;
use super::job::Job;
use super::neighbors::Neighbors;
use super::options::{Matcher, Options, Resources};
use super::shortlist::Neighbor;
use super::stats::SearchStats;
use crate::bounds::CentredQuery;
use crate::error::Result;
use crate::gallery::{Selection, verify};
use crate::kernels::InstructionSet;
use crate::parallel::{n_threads, run_tasks};
use crate::pyramid::{PyramidBatch, PyramidContext};
use std::sync::OnceLock;

/// Finds the `k` nearest cells, in `selections[i]`, of every cell of query image `i`; a single
/// selection serves all query images.
///
/// # Errors
/// `Error::Shape` when the query's pyramid differs from the gallery's (where both have one level,
/// when their channels differ), `Error::Image` when it
/// holds a NaN or an infinity, `Error::Parameter` when `k` is 0 or exceeds the number of cells
/// that a selection holds or there is not one selection per query image, `Error::Resources` when
/// there is not enough memory, and `Error::Interrupted`.
pub fn search(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selections: &[Selection],
    options: &Options<'_>,
) -> Result<Neighbors> {
    check(
        query.shape(),
        query.n_images(),
        context,
        selections,
        options.k,
    )?;
    query.check_finite(|image| format!("query image {image}"))?;
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
    let instruction_set = options.instruction_set.unwrap_or_else(InstructionSet::best);
    let threads = n_threads(options.threads);
    let how = Resources {
        instruction_set,
        threads,
    };
    if options.matcher != Matcher::Exhaustive && cascade::suits(&context.grids, options.k) {
        search_level_by_level(query, context, selections, options, how)
    } else {
        search_in_jobs(query, context, selections, options, how)
    }
}

/// The selection for one query image.
fn selection_of(selections: &[Selection], image: usize) -> &Selection {
    &selections[if selections.len() == 1 { 0 } else { image }]
}

/// Searches pyramids by the cascade, one query image after the other.
fn search_level_by_level(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selections: &[Selection],
    options: &Options<'_>,
    how: Resources,
) -> Result<Neighbors> {
    let (grids, cells, k) = (&context.grids, context.shape().finest().cells(), options.k);
    exhaustive::check_memory(cells, k, 1)?;
    let mut neighbors = Neighbors::new(query.n_images(), cells, k)?;
    for image in 0..query.n_images() {
        let put = |cell: u32, found: &mut dyn Iterator<Item = Neighbor>| {
            for (at, neighbor) in ((image * cells + cell as usize) * k..).zip(found) {
                neighbors.sq_distances[at] = neighbor.sq_l2 as f32;
                neighbors.ranks[at] = neighbor.place.rank;
                neighbors.cells[at] = neighbor.place.cell;
            }
        };
        let (levels, selection) = (query.image(image), selection_of(selections, image));
        let work = cascade::search_image(grids, &levels, selection, options, how, put)?;
        neighbors.stats.add(&work);
    }
    Ok(neighbors)
}

/// Searches by leading coordinates where there is one level and that pays, and else exhaustively.
fn search_in_jobs(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selections: &[Selection],
    options: &Options<'_>,
    how: Resources,
) -> Result<Neighbors> {
    let Resources {
        instruction_set,
        threads,
    } = how;
    let (n_images, cells, k) = (query.n_images(), query.shape().finest().cells(), options.k);
    let gallery_cells = context.shape().finest().cells();
    let own = own_context(query, context);
    let query_context = own.as_ref().unwrap_or(context);
    // A job is a run of whole tiles of one query image. Each job prepares the gallery images anew,
    // so jobs are as large as keeps all threads busy to the end.
    let tile = instruction_set.tile();
    let tiles = cells.div_ceil(tile);
    let jobs_per_image = (2 * threads).div_ceil(n_images.max(1)).clamp(1, tiles);
    let cells_per_job = tiles.div_ceil(jobs_per_image) * tile;
    exhaustive::check_memory(cells_per_job.min(cells), k, threads)?;
    let mut neighbors = Neighbors::new(n_images, cells, k)?;
    let per_image = neighbors.sq_distances.chunks_mut(cells * k).zip(
        neighbors
            .ranks
            .chunks_mut(cells * k)
            .zip(neighbors.cells.chunks_mut(cells * k)),
    );
    let centred_queries: Vec<OnceLock<CentredQuery>> =
        (0..n_images).map(|_| OnceLock::new()).collect();
    let mut jobs = Vec::new();
    for (image, (sq_distances, (ranks, found))) in per_image.enumerate() {
        let per_job = sq_distances.chunks_mut(cells_per_job * k).zip(
            ranks
                .chunks_mut(cells_per_job * k)
                .zip(found.chunks_mut(cells_per_job * k)),
        );
        for (index, (sq_distances, (ranks, cells))) in per_job.enumerate() {
            jobs.push(Job {
                levels: query.image(image),
                centred: &centred_queries[image],
                selection: selection_of(selections, image),
                first_cell: index * cells_per_job,
                sq_distances,
                ranks,
                cells,
            });
        }
    }

    let flat = flat::FlatPlan::new(
        context,
        query_context,
        selections,
        instruction_set,
        threads,
        options,
    );
    let n_workers = threads.min(jobs.len());
    let worker = || {
        let grids = (&context.grids[..], &query_context.grids[..]);
        exhaustive::Worker::new(grids, instruction_set, options)
    };
    let mut workers: Vec<_> = (0..n_workers).map(|_| worker()).collect();
    let work = |worker: &mut exhaustive::Worker<'_>, mut job: Job<'_>| {
        let pairs = (job.sq_distances.len() / k * job.selection.len() * gallery_cells) as u64;
        let mut done = SearchStats {
            pairs,
            ..SearchStats::default()
        };
        if !flat
            .as_ref()
            .is_some_and(|plan| plan.run(&mut job, &mut done))
        {
            worker.run(&mut job);
            done.count("exhaustive", pairs);
        }
        done
    };
    let done = run_tasks(&mut workers, jobs, options.cancel, work);
    options.cancel.check()?;
    for work in done {
        neighbors.stats.add(&work);
    }
    Ok(neighbors)
}
