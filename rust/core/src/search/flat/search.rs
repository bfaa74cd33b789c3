//! The search of one job: queries in patches, filters, and what they leave.

use super::cost::{self, FilterCounts};
use super::plan::FlatPlan;
use crate::bounds::{Projected, ProjectedRows, TINY};
use crate::gallery::Selection;
use crate::kernels::TILE_VECTORS;
use crate::kernels::flat::{
    ProjectedSlice, ProjectedTile, Survivor, padded, scan_listed, scan_rows, sq_distances,
};
use crate::pyramid::{LevelData, PyramidShape, append_flat_rows, upsample_into};
use crate::search::exact::sq_l2;
use crate::search::job::Job;
use crate::search::options::Matcher;
use crate::search::shortlist::{Neighbor, Place};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

/// Rows that all tiles are compared with before the next ones: their coordinates stay in the cache.
pub(super) const CHUNK: usize = 512;

/// A neighbour, in the order in which neighbours are returned.
struct ByDistance(Neighbor);

impl PartialEq for ByDistance {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for ByDistance {}
impl PartialOrd for ByDistance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByDistance {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.0.sq_l2.total_cmp(&other.0.sq_l2);
        order.then(self.0.place.cmp(&other.0.place))
    }
}

/// What is known of one query.
struct Query {
    cell: usize,
    /// Centred and scaled.
    sq_norm: f64,
    /// The k nearest so far, the farthest on top.
    nearest: BinaryHeap<ByDistance>,
    /// The k-th distance is not above this; scaled.
    seed: f64,
    /// The largest float32 distance that is of interest, scaled.
    limit: f32,
}

/// One job under way.
pub(super) struct FlatJob<'a> {
    pub plan: &'a FlatPlan<'a>,
    levels: Vec<LevelData<'a>>,
    /// Over all levels.
    pub channels: usize,
    queries: Vec<Query>,
    /// In leading coordinates.
    tiles: Vec<ProjectedTile>,
    /// Features times the scale, padded.
    scaled: Vec<f32>,
    pub counts: FilterCounts,
    feature: Vec<f64>,
    other: Vec<f64>,
}

impl<'a> FlatJob<'a> {
    /// Packs the queries of a job; also gives them in leading coordinates, in the same order. Nothing
    /// where one of them is too far off.
    pub(super) fn new(plan: &'a FlatPlan<'a>, job: &Job<'a>) -> Option<(Self, Projected)> {
        let shape = plan.query_context.shape();
        let (grid, channels) = (shape.finest(), shape.n_features());
        let n_cells = job.n_cells;
        let mut cells: Vec<usize> = (job.first_cell..job.first_cell + n_cells).collect();
        cells.sort_by_cached_key(|cell| patch_order(cell / grid.width, cell % grid.width));
        let mut rows = Vec::with_capacity(n_cells * channels);
        for cell in &cells {
            append_flat_rows(shape, &job.levels, *cell..cell + 1, &mut rows);
        }
        let projected = plan.projection.project(plan.set, &rows)?;

        let (m, width) = (plan.projection.n_leading(), plan.set.tile());
        let mut tiles = Vec::new();
        tiles.resize_with(n_cells.div_ceil(width), || ProjectedTile::new(plan.set, m));
        let leadings = projected.leading.chunks_exact(m).zip(&projected.rests);
        for (at, (leading, rests)) in leadings.enumerate() {
            tiles[at / width].set(at % width, leading, *rests);
        }
        let mut scaled = vec![0.0; n_cells * padded(channels)];
        for (to, from) in scaled
            .chunks_exact_mut(padded(channels))
            .zip(rows.chunks_exact(channels))
        {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from * plan.projection.centering().scale;
            }
        }
        let queries = cells
            .into_iter()
            .zip(&projected.sq_norms)
            .map(|(cell, &sq_norm)| Query {
                cell,
                sq_norm,
                nearest: BinaryHeap::new(),
                seed: f64::INFINITY,
                limit: f32::INFINITY,
            });
        let mut search = Self {
            plan,
            levels: job.levels.clone(),
            channels,
            queries: queries.collect(),
            tiles,
            scaled,
            counts: FilterCounts::default(),
            feature: Vec::new(),
            other: Vec::new(),
        };
        for query in 0..n_cells {
            search.lower(query);
        }
        Some((search, projected))
    }

    /// Queries of one vector.
    pub(super) const fn lanes(&self) -> usize {
        self.plan.set.tile() / TILE_VECTORS
    }

    /// The selected images with their projected rows.
    pub(super) fn images<'s>(
        &self,
        selection: &'s Selection,
    ) -> impl Iterator<Item = (u32, Vec<LevelData<'s>>, &'s ProjectedRows)> {
        let (set, shape) = (self.plan.set, self.plan.shape);
        selection.images().filter_map(move |(rank, image)| {
            let projected = image.projected(shape, selection.projection(), set);
            projected.map(|projected| (rank, image.levels(), projected)) // all were projected before
        })
    }

    /// Takes note that the k-th distance of a query, scaled, is not above `seed`.
    pub(super) fn set_seed(&mut self, query: usize, seed: f64) {
        self.queries[query].seed = seed;
        self.lower(query);
    }

    /// Sets the limits of a query from what is known of it.
    fn lower(&mut self, query: usize) {
        let projection = self.plan.projection;
        let width = self.plan.set.tile();
        let tile_limit = &mut self.tiles[query / width].limits[query % width];
        let query = &mut self.queries[query];
        let mut limit = query.seed;
        if query.nearest.len() == self.plan.options.k {
            let farthest = query.nearest.peek().map_or(f64::INFINITY, |f| f.0.sq_l2);
            if farthest == 0.0 {
                // Nothing is nearer than 0, and pairs come in the order of their places, so that
                // later ones lose every tie.
                (*tile_limit, query.limit) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
                return;
            }
            limit = limit.min(farthest * projection.centering().sq_scale());
        }
        let limit = limit * (1.0 + 1e-7) + 2.0 * TINY;
        let partial = limit - query.sq_norm * (1.0 - projection.slack());
        *tile_limit = (partial as f32).next_up();
        query.limit = ((limit * (1.0 + relative_error(self.channels))) as f32).next_up();
    }

    /// Distances in float32, scaled, between a row and those queries of a vector whose bit is set.
    pub(super) fn sq_distances(&self, vector: usize, which: u32, row: &[f32], to: &mut [f32; 32]) {
        let first = vector * self.lanes();
        let n = self.lanes().min(self.queries.len() - first);
        let queries = &self.scaled[first * padded(self.channels)..];
        let which = which & (u32::MAX >> (32 - n));
        let scale = self.plan.projection.centering().scale;
        sq_distances(self.plan.set, queries, row, scale, which, to);
    }

    /// Compares all queries with all rows; false where it gave up because too little is pruned.
    pub(super) fn scan(&mut self, selection: &Selection) -> bool {
        let (set, filters, lanes) = (self.plan.set, self.plan.projection.filters(), self.lanes());
        let images: Vec<_> = self.images(selection).collect();
        let n_rows = selection.n_visible(self.plan.shape.finest().cells());
        let mut lists: [Vec<u32>; TILE_VECTORS] = Default::default();
        let mut found: Vec<Survivor> = Vec::new();
        let mut row = Vec::new();
        for (rank, levels, projected) in images {
            let runs = selection.visible(projected.bounds.len());
            let chunks = runs.flat_map(|run| {
                let starts = run.clone().step_by(CHUNK);
                starts.map(move |start| start..run.end.min(start + CHUNK))
            });
            for Range { start, end } in chunks {
                let m = self.plan.projection.n_leading();
                let rows = chunk_of(projected, m, start..end);
                for tile in 0..self.tiles.len() {
                    if self.plan.options.cancel.is_set() {
                        return true; // the search fails, whatever was found
                    }
                    scan_rows(set, &self.tiles[tile], rows, filters[0], &mut lists);
                    self.counts.first_filter += (rows.bounds.len() * set.tile()) as u64;
                    for (at, list) in lists.iter().enumerate() {
                        let vector = (&self.tiles[tile], at);
                        scan_listed(set, vector, rows, filters[1], list, &mut found);
                        self.counts.second_filter += (list.len() * lanes) as u64;
                        for &(at_row, which) in &found {
                            let cell = start + at_row as usize;
                            let place = Place {
                                rank,
                                cell: cell as u32,
                            };
                            let row = row_of(self.plan.shape, &levels, cell, &mut row);
                            self.compare(tile * TILE_VECTORS + at, which, place, row);
                        }
                    }
                    if self.is_too_slow(n_rows) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Compares a row with those queries of a vector whose bit is set.
    fn compare(&mut self, vector: usize, which: u32, place: Place, row: &[f32]) {
        let mut distances = [0.0; 32];
        self.sq_distances(vector, which, row, &mut distances);
        self.counts.float32 += u64::from(which.count_ones());
        self.other.clear();
        for lane in bits(which) {
            let at = vector * self.lanes() + lane;
            let query = &mut self.queries[at];
            if distances[lane] > query.limit {
                continue;
            }
            self.counts.float64 += 1;
            if self.other.is_empty() {
                self.other.extend(row.iter().map(|&v| f64::from(v)));
            }
            let grids = &self.plan.query_context.grids;
            upsample_into(grids, &self.levels, query.cell, &mut self.feature);
            let sq_l2 = sq_l2(&self.feature, &self.other);
            let found = ByDistance(Neighbor { sq_l2, place });
            if query.nearest.len() < self.plan.options.k {
                query.nearest.push(found);
            } else if let Some(mut farthest) = query.nearest.peek_mut()
                && found < *farthest
            {
                *farthest = found;
            }
            self.lower(at);
        }
    }

    /// Whether too little is pruned of what `n_rows` are compared with.
    fn is_too_slow(&self, n_rows: usize) -> bool {
        let (filters, n_pairs) = (self.plan.projection.filters(), n_rows * self.queries.len());
        self.plan.options.matcher == Matcher::Auto
            && cost::is_too_slow(&self.counts, filters, self.channels, n_pairs)
    }

    /// Writes what was found to where the job wants it.
    pub(super) fn write(self, job: &mut Job<'_>) {
        for query in self.queries {
            let nearest = query.nearest.into_sorted_vec().into_iter();
            job.results.put(query.cell, nearest.map(|found| found.0));
        }
    }
}

/// More than a float32 distance is wrong by, relatively.
pub(super) fn relative_error(channels: usize) -> f64 {
    1.01 * (channels as f64 + 12.0) * (-24.0_f64).exp2()
}

/// Sorts cells such that 4, 8 and 16 that follow each other are patches of 2x2, 2x4 and 4x4.
const fn patch_order(row: usize, column: usize) -> [usize; 6] {
    [
        row / 4,
        column / 4,
        row / 2 % 2,
        column / 2 % 2,
        row % 2,
        column % 2,
    ]
}

/// Some rows of an image.
pub(super) fn chunk_of(
    projected: &ProjectedRows,
    n_leading: usize,
    rows: Range<usize>,
) -> ProjectedSlice<'_> {
    ProjectedSlice {
        leading: &projected.leading[rows.start * n_leading..rows.end * n_leading],
        bounds: &projected.bounds[rows],
    }
}

/// One row of an image of a flat shape, decoded and concatenated where need be.
pub(super) fn row_of<'r>(
    shape: &PyramidShape,
    levels: &[LevelData<'r>],
    cell: usize,
    buffer: &'r mut Vec<f32>,
) -> &'r [f32] {
    if let [LevelData::F32(values)] = *levels {
        let channels = shape.finest().channels;
        return &values[cell * channels..(cell + 1) * channels];
    }
    buffer.clear();
    append_flat_rows(shape, levels, cell..cell + 1, buffer);
    buffer
}

/// The places of the bits that are set.
pub(super) fn bits(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        bit
    })
}
