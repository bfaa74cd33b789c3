//! Seeds: rows that are likely to be near, compared first, so that limits are low from the start.

use super::search::{CHUNK, Search, bits, chunk_of, relative_error, row_of};
use crate::gallery::Selection;
use crate::kernels::TILE_VECTORS;
use crate::kernels::flat::{LeadTile, scan_listed};
use crate::rotation::{Rotated, TINY};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

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
    let near = nearest_to_means(search, rotated, selection, 2 * k.max(8));
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
    let (m, filter) = (rotation.n_leading(), rotation.filters()[1]);
    let mut tiles = means(search, rotated);
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
                        let s = tile.partial(query, rows, filter, row as usize);
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

/// The means of the queries of each vector, as queries.
fn means(search: &Search<'_>, rotated: &Rotated) -> Vec<LeadTile> {
    let (set, m, lanes) = (
        search.plan.set,
        search.plan.rotation.n_leading(),
        search.lanes(),
    );
    let width = set.tile();
    let mut tiles = Vec::new();
    let n_vectors = rotated.rests.len().div_ceil(lanes);
    tiles.resize_with(n_vectors.div_ceil(width), || LeadTile::new(set, m));
    let members = rotated.lead.chunks(lanes * m);
    for (at, (leads, rests)) in members.zip(rotated.rests.chunks(lanes)).enumerate() {
        let share = 1.0 / rests.len() as f32;
        let mut mean = vec![0.0; m];
        for lead in leads.chunks_exact(m) {
            for (mean, value) in mean.iter_mut().zip(lead) {
                *mean += share * value;
            }
        }
        let rest = rests.iter().map(|rests| share * rests[1]).sum();
        let tile = &mut tiles[at / width];
        tile.set(at % width, &mean, [rest, rest]);
        tile.limits[at % width] = f32::INFINITY;
    }
    tiles
}
