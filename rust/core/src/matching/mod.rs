//! Exact nearest neighbours of every cell of a query.
//!
//! The contract, whatever the instruction set, the number of threads, the batch, and the order in
//! which images were added: distances are squared L2 between upsampled, concatenated features, as
//! float64 computes them, rounded once to float32; the neighbours are the true ones; ties go to the
//! lowest (image id, row, column).

mod cascade;
pub(crate) mod exact;
mod exhaustive;
mod flat;
mod settle;
mod tile;
mod twins;
mod work;

pub use settle::{Candidates, Settled, settle};
pub use work::Work;

use crate::bounds::QueryFrame;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::gallery::{Selection, verify};
use crate::kernels::InstructionSet;
use crate::parallel::{n_threads, run};
use crate::pyramid::{PyramidBatch, PyramidContext, PyramidShape, Upsample};
use crate::topk::Neighbor;
use std::num::NonZero;
use std::sync::OnceLock;

/// Which pairs of cells are looked at; the results are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matcher {
    /// Those that bounds leave, as long as that promises to be faster; else all.
    #[default]
    Auto,
    /// All.
    Exhaustive,
    /// Those that bounds leave, even where that is slower.
    Pruned,
}

impl Matcher {
    const ALL: [Self; 3] = [Self::Auto, Self::Exhaustive, Self::Pruned];

    /// The name by which it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exhaustive => "exhaustive",
            Self::Pruned => "pruned",
        }
    }

    /// Finds a matcher by its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|matcher| matcher.name() == name)
    }
}

/// How to search.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Neighbours of each cell.
    pub k: usize,
    /// Number of threads; all that the process may use when `None`.
    pub threads: Option<NonZero<usize>>,
    /// The instruction set of the kernels; the best of this machine when `None`.
    pub instruction_set: Option<InstructionSet>,
    /// Which pairs are compared; the neighbours are the same.
    pub matcher: Matcher,
    /// Ends the search early.
    pub cancel: Cancel<'a>,
}

impl Options<'_> {
    /// `k` neighbours, everything else as it is best.
    #[must_use]
    pub const fn new(k: usize) -> Self {
        Self {
            k,
            threads: None,
            instruction_set: None,
            matcher: Matcher::Auto,
            cancel: Cancel::NEVER,
        }
    }
}

/// The neighbours of all cells of all queries, nearest first: each array is
/// `(query image, cell, k)`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbors {
    /// Squared L2 distances.
    pub sq_distances: Vec<f32>,
    /// Place of the image's id among the sorted ids of the gallery.
    pub ranks: Vec<u32>,
    /// Cell of that image at the finest level, `row * width + column`.
    pub cells: Vec<u32>,
    /// What the search took.
    pub work: Work,
}

/// Finds the `k` nearest cells, in `selections[i]`, of every cell of query image `i`; a single
/// selection serves all query images.
///
/// # Errors
/// [`Error::Shape`] when the query's pyramid differs from the gallery's (where both have one level,
/// when their channels differ), [`Error::Image`] when it
/// holds a NaN or an infinity, [`Error::Parameter`] when `k` is 0 or exceeds the number of cells
/// that a selection holds or there is not one selection per query image, [`Error::Resources`] when
/// there is not enough memory, and [`Error::Interrupted`].
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

/// The same for arguments that [`check`], [`PyramidBatch::check_finite`] and [`verify`] have let pass.
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

/// Whether the `k` nearest cells in `selections[i]` can be found for query image `i` of a batch of
/// `n_images` pyramids of a shape, as far as that can be said without its features.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Parameter`] as [`search`].
pub fn check(
    query: &PyramidShape,
    n_images: usize,
    context: &PyramidContext,
    selections: &[Selection],
    k: usize,
) -> Result<()> {
    // A level by itself is a set of features, whatever the grid they lie on.
    let is_flat = |shape: &PyramidShape| shape.levels().len() == 1;
    let fits = if is_flat(query) && is_flat(context.shape()) {
        query.finest().channels == context.shape().finest().channels
    } else {
        query == context.shape()
    };
    if !fits {
        return Err(Error::Shape(format!(
            "the query's pyramid is {}, the gallery's is {}",
            query.describe(),
            context.shape().describe()
        )));
    }
    let gallery_cells = context.shape().finest().cells();
    if selections.len() != n_images && selections.len() != 1 {
        return Err(Error::Parameter(format!(
            "expected one selection of gallery images, or one for each of {n_images} query images, got {}",
            selections.len()
        )));
    }
    for selection in selections {
        let available = selection.len() * gallery_cells;
        if k == 0 || k > available {
            return Err(Error::Parameter(format!(
                "k must be between 1 and the number of gallery cells searched, {available} ({} images of {gallery_cells}), got {k}",
                selection.len()
            )));
        }
    }
    Ok(())
}

/// The context of a query that lies on other grids than the gallery.
fn own_context(query: &PyramidBatch<'_>, context: &PyramidContext) -> Option<PyramidContext> {
    // There is one level: nothing is upsampled.
    (query.shape() != context.shape())
        .then(|| PyramidContext::new(query.shape().clone(), Upsample::Block))
}

/// What a search runs on.
#[derive(Clone, Copy)]
struct Resources {
    instruction_set: InstructionSet,
    threads: usize,
}

impl Neighbors {
    /// Room for the neighbours of all cells of `n_images` images.
    fn new(n_images: usize, cells: usize, k: usize) -> Result<Self> {
        let found = n_images.checked_mul(cells).and_then(|n| n.checked_mul(k));
        Ok(Self {
            sq_distances: zeros(found)?,
            ranks: zeros(found)?,
            cells: zeros(found)?,
            work: Work::default(),
        })
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
        neighbors.work.add(&work);
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
    let frames: Vec<OnceLock<QueryFrame>> = (0..n_images).map(|_| OnceLock::new()).collect();
    let mut jobs = Vec::new();
    for (image, (sq_distances, (ranks, found))) in per_image.enumerate() {
        let per_job = sq_distances.chunks_mut(cells_per_job * k).zip(
            ranks
                .chunks_mut(cells_per_job * k)
                .zip(found.chunks_mut(cells_per_job * k)),
        );
        for (index, (sq_distances, (ranks, cells))) in per_job.enumerate() {
            jobs.push(exhaustive::Job {
                levels: query.image(image),
                frame: &frames[image],
                selection: selection_of(selections, image),
                first_cell: index * cells_per_job,
                sq_distances,
                ranks,
                cells,
            });
        }
    }

    let flat = flat::Plan::new(
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
    let work = |worker: &mut exhaustive::Worker<'_>, mut job: exhaustive::Job<'_>| {
        let pairs = (job.sq_distances.len() / k * job.selection.len() * gallery_cells) as u64;
        let mut done = Work {
            pairs,
            ..Work::default()
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
    let done = run(&mut workers, jobs, options.cancel, work);
    options.cancel.check()?;
    for work in done {
        neighbors.work.add(&work);
    }
    Ok(neighbors)
}

/// A vector of zeros, or an error where the memory for it is not to be had.
fn zeros<T: Clone + Default>(len: Option<usize>) -> Result<Vec<T>> {
    let mut zeros = Vec::new();
    match len {
        Some(len) if zeros.try_reserve_exact(len).is_ok() => {
            zeros.resize(len, T::default());
            Ok(zeros)
        }
        _ => Err(Error::Resources(
            "not enough memory for the neighbours: search fewer images at a time, or a smaller k"
                .into(),
        )),
    }
}
