//! Seeds: rows that are likely to be near, compared first, so that limits are low from the start.

use super::search::{CHUNK, FlatJob, bits, chunk_of, relative_error, row_of};
use crate::bounds::{Projected, ProjectedRows, TINY};
use crate::gallery::Selection;
use crate::kernels::TILE_VECTORS;
use crate::kernels::flat::{Filter, ProjectedSlice, ProjectedTile, scan_listed, scan_rows};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Which filter estimates distances to the means.
const FILTER: usize = 0;

/// A row, by its estimated distance to the mean of a vector: image, cell.
struct Seed(f32, usize, usize);

impl PartialEq for Seed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Seed {}
impl PartialOrd for Seed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Seed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// Lowers the limits of the queries by comparing each vector with the rows that are nearest to the
/// mean of its queries, by leading coordinates.
pub(super) fn seed(search: &mut FlatJob<'_>, projected: &Projected, selection: &Selection) {
    let k = search.plan.options.k;
    let images: Vec<_> = search.images(selection).collect();
    let near = nearest_to_means(search, projected, selection, 2 * k.max(4));
    let error = relative_error(search.channels);
    let (lanes, n_queries) = (search.lanes(), projected.rests.len());
    let (mut row, mut distances) = (Vec::new(), [0.0; 32]);
    for (vector, near) in near.into_iter().enumerate() {
        let mut nearest = vec![Vec::new(); lanes.min(n_queries - vector * lanes)];
        for Seed(_, image, cell) in near {
            let row = row_of(search.plan.shape, &images[image].1, cell, &mut row);
            search.sq_distances(vector, u32::MAX, row, &mut distances);
            for (nearest, distance) in nearest.iter_mut().zip(distances) {
                nearest.push(distance);
            }
        }
        for (lane, mut nearest) in nearest.into_iter().enumerate() {
            if nearest.len() >= k {
                let (_, kth, _) = nearest.select_nth_unstable_by(k - 1, f32::total_cmp);
                // The `k` rows are different ones, so the k-th distance is not above theirs.
                let seed = f64::from(*kth) * (1.0 + 2.0 * error) + TINY;
                search.set_seed(vector * lanes + lane, seed);
            }
        }
    }
}

/// For each vector, the `n` rows nearest to the mean of its queries.
fn nearest_to_means(
    search: &FlatJob<'_>,
    projected: &Projected,
    selection: &Selection,
    n: usize,
) -> Vec<BinaryHeap<Seed>> {
    let (set, projection, lanes) = (search.plan.set, search.plan.projection, search.lanes());
    let (m, filter) = (projection.n_leading(), projection.filters()[FILTER]);
    let means = means(search, projected);
    let mut tiles = tiles_of(search, &means);
    let mut near: Vec<BinaryHeap<Seed>> = Vec::new();
    near.resize_with(projected.rests.len().div_ceil(lanes), BinaryHeap::new);
    let mut lists: [Vec<u32>; TILE_VECTORS] = Default::default();
    let mut found = Vec::new();
    // The first chunks are small: until a few rows are known every row is of interest.
    let mut chunk = 32;
    for (image, run, projected) in visible_runs(search, selection) {
        let mut start = run.start;
        while start < run.end {
            let rows = chunk_of(projected, m, start..run.end.min(start + chunk));
            for (at, near) in near.chunks_mut(lanes).enumerate() {
                let n_lanes = near.len();
                let (tile, vector) = (&mut tiles[at / TILE_VECTORS], at % TILE_VECTORS);
                if vector == 0 {
                    scan_rows(set, tile, rows, filter, &mut lists);
                }
                scan_listed(
                    set,
                    (tile, vector),
                    rows,
                    filter,
                    &lists[vector],
                    &mut found,
                );
                for &(row, which) in &found {
                    for lane in bits(which).take_while(|&lane| lane < n_lanes) {
                        let query = vector * lanes + lane;
                        let s = means[at * lanes + lane].partial(rows, filter, row as usize);
                        near[lane].push(Seed(s, image, start + row as usize));
                        if near[lane].len() > n {
                            near[lane].pop();
                            tile.limits[query] = near[lane].peek().map_or(s, |seed| seed.0);
                        }
                    }
                }
            }
            start += chunk;
            chunk = (2 * chunk).min(CHUNK);
        }
    }
    near
}

/// The rows that are compared, in runs: the place of their image among the selected ones, and which.
fn visible_runs<'s>(
    search: &FlatJob<'_>,
    selection: &'s Selection,
) -> impl Iterator<Item = (usize, Range<usize>, &'s ProjectedRows)> {
    let images = search.images(selection).enumerate();
    images.flat_map(|(image, (_, _, projected))| {
        let runs = selection.visible(projected.bounds.len());
        runs.map(move |run| (image, run, projected))
    })
}

/// The mean of the queries of a vector, in leading coordinates.
struct Mean {
    leading: Vec<f32>,
    rest: f32,
}

impl Mean {
    /// What the filter makes of it and a row, nearly.
    fn partial(&self, rows: ProjectedSlice<'_>, filter: Filter, row: usize) -> f32 {
        let m = self.leading.len();
        let bound = &rows.bounds[row];
        let leading = &rows.leading[row * m..][..filter.n_leading];
        let mut sums = [0.0_f32; 8];
        for (u, v) in self.leading.chunks(8).zip(leading.chunks(8)) {
            for ((sum, u), v) in sums.iter_mut().zip(u).zip(v) {
                *sum += u * v;
            }
        }
        let products: f32 = sums.iter().sum();
        bound.sq_norm - 2.0 * (self.rest * bound.rests[filter.index] + products)
    }
}

fn means(search: &FlatJob<'_>, projected: &Projected) -> Vec<Mean> {
    let (m, lanes) = (search.plan.projection.n_leading(), search.lanes());
    let leadings = projected.leading.chunks(lanes * m);
    leadings
        .zip(projected.rests.chunks(lanes))
        .map(|(leadings, rests)| {
            let share = 1.0 / rests.len() as f32;
            let mut leading = vec![0.0; m];
            for one in leadings.chunks_exact(m) {
                for (mean, value) in leading.iter_mut().zip(one) {
                    *mean += share * value;
                }
            }
            let rest = rests.iter().map(|rests| share * rests[FILTER]).sum();
            Mean { leading, rest }
        })
        .collect()
}

/// The means, packed as queries.
fn tiles_of(search: &FlatJob<'_>, means: &[Mean]) -> Vec<ProjectedTile> {
    let set = search.plan.set;
    means
        .chunks(set.tile())
        .map(|means| {
            let mut tile = ProjectedTile::new(set, search.plan.projection.n_leading());
            for (at, mean) in means.iter().enumerate() {
                tile.set(at, &mean.leading, [mean.rest; 2]);
                tile.limits[at] = f32::INFINITY;
            }
            tile
        })
        .collect()
}
