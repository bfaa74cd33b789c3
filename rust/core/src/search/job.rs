//! A part of a search: some cells of one query image, and where their neighbours go.

use super::neighbors::Neighbors;
use super::shortlist::Neighbor;
use crate::bounds::CentredQuery;
use crate::gallery::Selection;
use crate::pyramid::{LevelData, PyramidBatch, PyramidContext, Window};
use std::ops::Range;
use std::sync::OnceLock;

/// A run of cells of one query image.
pub(super) struct Job<'a> {
    pub levels: Vec<LevelData<'a>>,
    /// Computed by the first job of the image that needs it.
    pub centred: &'a OnceLock<CentredQuery>,
    pub selection: &'a Selection,
    pub first_cell: usize,
    pub n_cells: usize,
    pub results: Results<'a>,
}

impl Job<'_> {
    /// Pairs of the job's cells and those of the gallery images that they are compared with.
    pub(super) fn n_pairs(&self, context: &PyramidContext, window: Option<&Window>) -> u64 {
        let n_pairs = match window {
            Some(window) => {
                let n_cells = self.cells().map(|cell| window.n_cells(cell));
                self.selection.len() * n_cells.sum::<usize>()
            }
            None => self.n_cells * self.selection.n_visible(context.shape().finest().cells()),
        };
        n_pairs as u64
    }

    /// The job's cells.
    pub(super) const fn cells(&self) -> Range<usize> {
        self.first_cell..self.first_cell + self.n_cells
    }
}

/// Where the neighbours of a job's cells go.
pub(super) struct Results<'a> {
    first_cell: usize,
    k: usize,
    sq_distances: &'a mut [f32],
    /// Empty where nobody asked for them.
    exact: &'a mut [f64],
    ranks: &'a mut [u32],
    cells: &'a mut [u32],
}

impl Results<'_> {
    /// Writes the `k` neighbours of one cell, nearest first.
    pub(super) fn put(&mut self, cell: usize, neighbors: impl Iterator<Item = Neighbor>) {
        for (at, neighbor) in ((cell - self.first_cell) * self.k..).zip(neighbors) {
            self.sq_distances[at] = neighbor.sq_l2 as f32;
            if let Some(exact) = self.exact.get_mut(at) {
                *exact = neighbor.sq_l2;
            }
            self.ranks[at] = neighbor.place.rank;
            self.cells[at] = neighbor.place.cell;
        }
    }
}

/// Divides a search into jobs of `cells_per_job` cells, image after image.
pub(super) fn divide<'a>(
    query: &PyramidBatch<'a>,
    selections: &'a [Selection],
    centred: &'a [OnceLock<CentredQuery>],
    (cells_per_job, k): (usize, usize),
    neighbors: &'a mut Neighbors,
) -> Vec<Job<'a>> {
    let n_cells = query.shape().finest().cells();
    let mut jobs = Vec::with_capacity(query.n_images() * n_cells.div_ceil(cells_per_job));
    let (per_image, per_job) = (n_cells * k, cells_per_job * k);
    let mut exact_of_images = neighbors.exact.chunks_mut(per_image);
    let images = neighbors.sq_distances.chunks_mut(per_image).zip(
        neighbors
            .ranks
            .chunks_mut(per_image)
            .zip(neighbors.cells.chunks_mut(per_image)),
    );
    for (image, (sq_distances, (ranks, cells))) in images.enumerate() {
        let exact = exact_of_images.next().unwrap_or_default();
        let mut exact_of_parts = exact.chunks_mut(per_job);
        let parts = sq_distances
            .chunks_mut(per_job)
            .zip(ranks.chunks_mut(per_job).zip(cells.chunks_mut(per_job)));
        for (index, (sq_distances, (ranks, cells))) in parts.enumerate() {
            let first_cell = index * cells_per_job;
            jobs.push(Job {
                levels: query.image(image),
                centred: &centred[image],
                selection: &selections[if selections.len() == 1 { 0 } else { image }],
                first_cell,
                n_cells: ranks.len() / k,
                results: Results {
                    first_cell,
                    k,
                    sq_distances,
                    exact: exact_of_parts.next().unwrap_or_default(),
                    ranks,
                    cells,
                },
            });
        }
    }
    jobs
}
