//! Rescoring: candidates that another backend found are compared by the distances that all searches
//! give, and put in the order of the contract.

use super::check::own_context;
use super::exact::sq_l2;
use super::neighbors::Neighbors;
use super::shortlist::{Neighbor, Place};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::gallery::Selection;
use crate::parallel::n_threads;
use crate::parallel::run_tasks;
use crate::pyramid::{PyramidBatch, PyramidContext, upsample_into};
use std::num::NonZero;

/// Cells of one query image, and candidates for the neighbours of each.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// The query image.
    pub image: usize,
    /// Cells of it, at the finest level.
    pub query_cells: &'a [u32],
    /// Where the candidates of each begin, and where the last ones end.
    pub starts: &'a [usize],
    /// Place of each candidate's image among the sorted ids of the gallery.
    pub ranks: &'a [u32],
    /// Cell of each candidate in that image.
    pub cells: &'a [u32],
}

/// The nearest candidates of each query cell, nearest first: each array is `(query cell, k)`,
/// row-major. Where there are fewer than k, infinite distances fill up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rescored {
    /// Squared L2 distances.
    pub sq_distances: Vec<f64>,
    /// Place of the image's id among the sorted ids of the gallery.
    pub ranks: Vec<u32>,
    /// Cell of that image.
    pub cells: Vec<u32>,
}

/// Query cells that one thread rescores at a time.
const CELLS_PER_TASK: usize = 64;

/// Finds the `k` nearest candidates of every query cell, ties in the order of their places. A candidate
/// that is given twice counts once.
///
/// # Errors
/// [`Error::Parameter`] for a candidate that is not in the selection, or lists that do not fit together;
/// [`Error::Interrupted`].
pub fn rescore(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selection: &Selection,
    candidates: &Candidates<'_>,
    k: usize,
    threads: Option<NonZero<usize>>,
    cancel: Cancel<'_>,
) -> Result<Rescored> {
    let own = own_context(query, context);
    let query_grids = &own.as_ref().unwrap_or(context).grids;
    check(candidates, query, context, selection)?;

    let levels = query.image(candidates.image);
    let n_cells = candidates.query_cells.len();
    let tasks: Vec<_> = (0..n_cells).step_by(CELLS_PER_TASK).collect();
    let n_workers = n_threads(threads).min(tasks.len());
    let mut workers = vec![(Vec::new(), Vec::new(), Vec::<Neighbor>::new()); n_workers];
    let parts = run_tasks(&mut workers, tasks, cancel, |(x, y, found), first| {
        let mut part = Rescored::default();
        for at in first..n_cells.min(first + CELLS_PER_TASK) {
            let cell = candidates.query_cells[at] as usize;
            upsample_into(query_grids, &levels, cell, x);
            found.clear();
            for of in candidates.starts[at]..candidates.starts[at + 1] {
                let place = Place {
                    rank: candidates.ranks[of],
                    cell: candidates.cells[of],
                };
                let image = selection.image(place.rank);
                upsample_into(&context.grids, &image.levels(), place.cell as usize, y);
                let sq_l2 = sq_l2(x, y);
                found.push(Neighbor { sq_l2, place });
            }
            found.sort_unstable_by(|a, b| {
                let by_distance = a.sq_l2.total_cmp(&b.sq_l2);
                by_distance.then(a.place.cmp(&b.place))
            });
            found.dedup_by_key(|neighbor| neighbor.place);
            part.push(found, k);
        }
        part
    });
    cancel.check()?;
    let mut rescored = Rescored::default();
    for part in parts {
        rescored.sq_distances.extend(part.sq_distances);
        rescored.ranks.extend(part.ranks);
        rescored.cells.extend(part.cells);
    }
    Ok(rescored)
}

impl From<Neighbors> for Rescored {
    /// With the distances in float64, which must have been asked for.
    fn from(found: Neighbors) -> Self {
        Self {
            sq_distances: found.exact,
            ranks: found.ranks,
            cells: found.cells,
        }
    }
}

impl Rescored {
    fn push(&mut self, found: &[Neighbor], k: usize) {
        let none = Neighbor {
            sq_l2: f64::INFINITY,
            place: Place { rank: 0, cell: 0 },
        };
        let missing = std::iter::repeat(&none);
        for neighbor in found.iter().chain(missing).take(k) {
            self.sq_distances.push(neighbor.sq_l2);
            self.ranks.push(neighbor.place.rank);
            self.cells.push(neighbor.place.cell);
        }
    }
}

fn check(
    candidates: &Candidates<'_>,
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
    selection: &Selection,
) -> Result<()> {
    let n_cells = query.shape().finest().cells();
    let Candidates {
        image,
        query_cells,
        starts,
        ranks,
        cells,
    } = *candidates;
    let fits = image < query.n_images()
        && query_cells.iter().all(|&cell| (cell as usize) < n_cells)
        && starts.len() == query_cells.len() + 1
        && starts.is_sorted()
        && starts.last().is_some_and(|&end| end <= ranks.len())
        && ranks.len() == cells.len();
    if !fits {
        let message = "candidates: the query cells and the lists do not fit together";
        return Err(Error::parameter("candidates", message));
    }
    let of_gallery = context.shape().finest().cells();
    let is_there =
        |(&rank, &cell): (&u32, &u32)| selection.contains(rank) && (cell as usize) < of_gallery;
    if !ranks.iter().zip(cells).all(is_there) {
        let message = "candidates: there is one that is not among the images searched";
        return Err(Error::parameter("candidates", message));
    }
    Ok(())
}
