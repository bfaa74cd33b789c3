//! Seeds: rows that are likely to be near, compared first, so that limits are low from the start.

use super::search::{CHUNK, Search, bits, chunk_of, relative_error, row_of};
use crate::bounds::{Rotated, TINY};
use crate::gallery::Selection;
use crate::kernels::TILE_VECTORS;
use crate::kernels::flat::{Filter, LeadTile, Rows, scan_listed};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

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
pub(super) fn seed(search: &mut Search<'_>, rotated: &Rotated, selection: &Selection) {
    let k = search.plan.options.k;
    let images: Vec<_> = search.images(selection).collect();
    let near = nearest_to_means(search, rotated, selection, 2 * k.max(4));
    let error = relative_error(search.channels);
    let (lanes, n_queries) = (search.lanes(), rotated.rests.len());
    let (mut row, mut distances) = (Vec::new(), [0.0; 32]);
    for (vector, near) in near.into_iter().enumerate() {
        let mut nearest = vec![Vec::new(); lanes.min(n_queries - vector * lanes)];
        for Seed(_, image, cell) in near {
            let row = row_of(&images[image].1, cell, search.channels, &mut row);
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
    search: &Search<'_>,
    rotated: &Rotated,
    selection: &Selection,
    n: usize,
) -> Vec<BinaryHeap<Seed>> {
    let (set, rotation, lanes) = (search.plan.set, search.plan.rotation, search.lanes());
    let (m, filter) = (rotation.n_leading(), rotation.filters()[FILTER]);
    let means = means(search, rotated);
    let mut tiles = tiles_of(search, &means);
    let mut near: Vec<BinaryHeap<Seed>> = Vec::new();
    near.resize_with(rotated.rests.len().div_ceil(lanes), BinaryHeap::new);
    let listed: Vec<u32> = (0..CHUNK as u32).collect();
    let mut found = Vec::new();
    // The first chunks are small: until a few rows are known every row is of interest.
    let mut chunk = 32;
    for (image, (_, _, codes)) in search.images(selection).enumerate() {
        let mut start = 0;
        while start < codes.heads.len() {
            let rows = chunk_of(codes, m, start, chunk);
            for (at, near) in near.chunks_mut(lanes).enumerate() {
                let n_lanes = near.len();
                let (tile, vector) = (&mut tiles[at / TILE_VECTORS], at % TILE_VECTORS);
                let listed = &listed[..rows.heads.len()];
                scan_listed(set, (tile, vector), rows, filter, listed, &mut found);
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

/// The mean of the queries of a vector, in leading coordinates.
struct Mean {
    lead: Vec<f32>,
    rest: f32,
}

impl Mean {
    /// What the filter makes of it and a row, nearly.
    fn partial(&self, rows: Rows<'_>, filter: Filter, row: usize) -> f32 {
        let m = self.lead.len();
        let head = &rows.heads[row];
        let lead = &rows.lead[row * m..][..filter.n_leading];
        let mut sums = [0.0_f32; 8];
        for (u, v) in self.lead.chunks(8).zip(lead.chunks(8)) {
            for ((sum, u), v) in sums.iter_mut().zip(u).zip(v) {
                *sum += u * v;
            }
        }
        let products: f32 = sums.iter().sum();
        head.sq_norm - 2.0 * (self.rest * head.rests[filter.index] + products)
    }
}

fn means(search: &Search<'_>, rotated: &Rotated) -> Vec<Mean> {
    let (m, lanes) = (search.plan.rotation.n_leading(), search.lanes());
    let leads = rotated.lead.chunks(lanes * m);
    leads
        .zip(rotated.rests.chunks(lanes))
        .map(|(leads, rests)| {
            let share = 1.0 / rests.len() as f32;
            let mut lead = vec![0.0; m];
            for one in leads.chunks_exact(m) {
                for (mean, value) in lead.iter_mut().zip(one) {
                    *mean += share * value;
                }
            }
            let rest = rests.iter().map(|rests| share * rests[FILTER]).sum();
            Mean { lead, rest }
        })
        .collect()
}

/// The means, packed as queries.
fn tiles_of(search: &Search<'_>, means: &[Mean]) -> Vec<LeadTile> {
    let set = search.plan.set;
    means
        .chunks(set.tile())
        .map(|means| {
            let mut tile = LeadTile::new(set, search.plan.rotation.n_leading());
            for (at, mean) in means.iter().enumerate() {
                tile.set(at, &mean.lead, [mean.rest; 2]);
                tile.limits[at] = f32::INFINITY;
            }
            tile
        })
        .collect()
}
