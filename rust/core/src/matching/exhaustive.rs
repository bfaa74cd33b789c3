//! The exhaustive matcher: every query against every cell of the selected images.
//!
//! In float32, the kernels compute partial distances `s = |v|^2 - 2 <u, v>` of features that were
//! centred (by the mean of the query image, so that a common offset costs no precision) and scaled
//! by a power of two (so that nothing overflows). Each `s` is wrong by at most [`error_bound`];
//! pairs that this uncertainty leaves in question are settled in float64 by [`super::exact`].

use super::Options;
use super::exact::{sq_l2, upsample_into};
use crate::gallery::Selection;
use crate::kernels::{
    Hits, InstructionSet, Limits, MAX_TILE, PreparedImage, QueryTile, Scratch, prepare_image_into,
    scan_image,
};
use crate::pyramid::{LevelData, LevelGrid};
use crate::topk::{Place, Shortlist};
use std::cell::Cell;
use std::sync::OnceLock;

/// A run of cells of one query image, and where their neighbours go.
pub(super) struct Job<'a> {
    pub levels: Vec<LevelData<'a>>,
    pub frame: &'a OnceLock<QueryFrame>,
    pub selection: &'a Selection,
    pub first_cell: usize,
    pub sq_distances: &'a mut [f32],
    pub ranks: &'a mut [u32],
    pub cells: &'a mut [u32],
}

/// The frame of reference in which a query image is compared.
pub(super) struct QueryFrame {
    /// Mean feature of each level.
    means: Vec<Vec<f32>>,
    /// A power of two that brings the largest centred value near 1.
    scale: f32,
    /// Norm of each cell of each level, centred and scaled.
    norms: Vec<Vec<f32>>,
}

impl QueryFrame {
    fn new(grids: &[LevelGrid], levels: &[LevelData<'_>]) -> Self {
        let values: Vec<Vec<f64>> = levels.iter().map(decode).collect();
        let means: Vec<Vec<f32>> = grids
            .iter()
            .zip(&values)
            .map(|(grid, values)| {
                let mut sums = vec![0.0_f64; grid.shape.channels];
                for cell in values.chunks_exact(grid.shape.channels) {
                    for (sum, value) in sums.iter_mut().zip(cell) {
                        *sum += value;
                    }
                }
                sums.iter()
                    .map(|sum| (sum / grid.shape.cells() as f64) as f32)
                    .collect()
            })
            .collect();
        let mut largest = 0.0_f64;
        let mut norms: Vec<Vec<f64>> = Vec::with_capacity(grids.len());
        for ((grid, values), mean) in grids.iter().zip(&values).zip(&means) {
            norms.push(
                values
                    .chunks_exact(grid.shape.channels)
                    .map(|cell| {
                        let mut sum = 0.0;
                        for (value, mean) in cell.iter().zip(mean) {
                            let centred = value - f64::from(*mean);
                            largest = largest.max(centred.abs());
                            sum += centred * centred;
                        }
                        sum.sqrt()
                    })
                    .collect(),
            );
        }
        // A power of two within what float32 can hold; an image that equals its mean has any scale.
        let exponent = if largest > 0.0 {
            (-largest.log2().floor()).clamp(-120.0, 120.0)
        } else {
            0.0
        };
        let scale = exponent.exp2();
        let norms = norms
            .into_iter()
            .map(|level| level.into_iter().map(|n| (n * scale) as f32).collect())
            .collect();
        Self {
            means,
            scale: scale as f32,
            norms,
        }
    }
}

fn decode(level: &LevelData<'_>) -> Vec<f64> {
    match level {
        LevelData::F32(values) => values.iter().map(|&v| f64::from(v)).collect(),
        LevelData::F16(values) => values.iter().map(|v| v.to_f64()).collect(),
    }
}

/// A bound on the error of a partial distance that a kernel computed, for a query whose cells have
/// norms of at most `query_norms[level]` and a gallery image whose cells have norms of at most
/// `image_norms[level]`. It is infinite or NaN where the float32 arithmetic could overflow.
///
/// Why it holds. Let `u = 2^-24`, `a_l` and `m_l` the norms. Interpolation weights are positive and
/// sum to 1, so upsampled norms, and all sums of absolute values that occur while `<u_p, v_q>` is
/// formed, are at most `a_l m_l` (Cauchy-Schwarz); those of `|v_q|^2` are at most `m_l^2`. Every
/// value passes through at most `depth` roundings, each a factor of `1 + u` at most: one for
/// centring the gallery, one for rounding the upsampled query, one per channel of a coarse level,
/// a handful for each of the two blends, one per level and one per channel of the finest level. The
/// standard bound `depth u / (1 - depth u)` then applies to the sums of absolute values; a hundredth
/// on top covers the denominator and the rounding of the norms themselves. The last term covers
/// underflow, where rounding is not relative.
fn error_bound(
    grids: &[LevelGrid],
    query_norms: impl Iterator<Item = f32>,
    image_norms: &[f32],
) -> f32 {
    const UNIT: f32 = 1.0 / 16_777_216.0;
    let coarse = grids[1..]
        .iter()
        .map(|grid| grid.shape.channels)
        .max()
        .unwrap_or(0);
    let depth = (grids[0].shape.channels + coarse + 8 * grids.len() + 32) as f32;
    let (mut sum, mut norms) = (0.0, 1.0);
    for (a, &m) in query_norms.zip(image_norms) {
        let m = 1.001 * m;
        sum += 2.0 * m * m + 2.0 * a * m;
        norms += a + m;
    }
    if depth * UNIT < 0.005 {
        1.01 * depth * UNIT * sum + 1e-35 * norms
    } else {
        f32::INFINITY
    }
}

/// Queries that are scanned together, and what is known of them so far.
struct Tile {
    first_cell: usize,
    n_lanes: usize,
    packed: QueryTile,
    limits: Limits,
    lists: Vec<Shortlist>,
    closed: [bool; MAX_TILE],
    /// Largest norm of the cells under each query, per level.
    norms: Vec<[f32; MAX_TILE]>,
    /// Squared norm of each query, centred and scaled.
    sq_norms: [f64; MAX_TILE],
}

impl Tile {
    fn new(k: usize) -> Self {
        Self {
            first_cell: 0,
            n_lanes: 0,
            packed: QueryTile::default(),
            limits: [const { Cell::new(f32::NEG_INFINITY) }; MAX_TILE],
            lists: (0..MAX_TILE).map(|_| Shortlist::new(k)).collect(),
            closed: [false; MAX_TILE],
            norms: Vec::new(),
            sq_norms: [0.0; MAX_TILE],
        }
    }

    /// Packs the queries at the fine cells `first_cell..first_cell + n_lanes`.
    fn load(&mut self, source: &Source<'_>, first_cell: usize, n_lanes: usize, width: usize) {
        (self.first_cell, self.n_lanes) = (first_cell, n_lanes);
        self.packed.reset(source.grids, width);
        self.closed = [false; MAX_TILE];
        self.norms.clear();
        self.norms.resize(source.grids.len(), [0.0; MAX_TILE]);
        let scale = f64::from(source.frame.scale);
        let mut feature = Vec::new();
        for lane in 0..n_lanes {
            self.lists[lane].clear();
            let cell = first_cell + lane;
            upsample_into(source.grids, source.query, cell, &mut feature);
            let mut values = feature.iter();
            let mut sq_norm = 0.0;
            for (level, (grid, mean)) in source.grids.iter().zip(&source.frame.means).enumerate() {
                for ((channel, mean), value) in mean.iter().enumerate().zip(&mut values) {
                    let centred = (value - f64::from(*mean)) * scale;
                    sq_norm += centred * centred;
                    self.packed.set(level, channel, lane, centred as f32);
                }
                let fine_width = source.grids[0].shape.width;
                let norms = &source.frame.norms[level];
                let corners = grid.corners(cell / fine_width, cell % fine_width);
                self.norms[level][lane] =
                    1.001 * corners.iter().map(|&(at, _)| norms[at]).fold(0.0, f32::max);
            }
            self.sq_norms[lane] = sq_norm;
        }
    }
}

/// What a job compares: the query image and the selected gallery images.
struct Source<'a> {
    grids: &'a [LevelGrid],
    query: &'a [LevelData<'a>],
    frame: &'a QueryFrame,
    selection: &'a Selection,
}

/// Computes exact distances from one query cell.
struct Exact<'a> {
    source: &'a Source<'a>,
    query: Vec<f64>,
    other: Vec<f64>,
}

impl<'a> Exact<'a> {
    fn new(source: &'a Source<'a>, cell: usize) -> Self {
        let mut query = Vec::new();
        upsample_into(source.grids, source.query, cell, &mut query);
        Self {
            source,
            query,
            other: Vec::new(),
        }
    }

    fn sq_l2(&mut self, place: Place) -> f64 {
        let image = self.source.selection.image(place.rank);
        upsample_into(
            self.source.grids,
            &image.levels(),
            place.cell as usize,
            &mut self.other,
        );
        sq_l2(&self.query, &self.other)
    }
}

/// Receives the hits of one tile in one gallery image.
struct TileHits<'a> {
    source: &'a Source<'a>,
    rank: u32,
    first_cell: usize,
    limits: &'a Limits,
    lists: &'a mut [Shortlist],
    closed: &'a mut [bool; MAX_TILE],
    sq_norms: &'a [f64; MAX_TILE],
    errors: &'a [f32; MAX_TILE],
}

impl TileHits<'_> {
    /// The largest partial distance in the current image that is still of interest.
    fn limit(&self, lane: usize) -> f32 {
        if self.closed[lane] {
            f32::NEG_INFINITY
        } else if self.errors[lane].is_finite() {
            (self.lists[lane].bound() + self.errors[lane]).next_up()
        } else {
            f32::INFINITY
        }
    }
}

impl Hits for TileHits<'_> {
    fn hit(&mut self, lane: usize, cell: usize, s: f32) {
        if self.closed[lane] || lane >= self.lists.len() {
            return; // a NaN passes the kernel's comparison with any limit
        }
        let error = self.errors[lane];
        let (low, high) = if error.is_finite() && s.is_finite() {
            ((s - error).next_down(), (s + error).next_up())
        } else {
            (f32::NEG_INFINITY, f32::INFINITY)
        };
        let list = &mut self.lists[lane];
        list.push(
            low,
            high,
            Place {
                rank: self.rank,
                cell: cell as u32,
            },
        );
        if list.is_full() {
            let mut exact = None;
            let sq_norm = self.sq_norms[lane];
            let sq_scale = f64::from(self.source.frame.scale).powi(2);
            let source = self.source;
            let query_cell = self.first_cell + lane;
            self.closed[lane] = list.prune(
                |place| {
                    exact
                        .get_or_insert_with(|| Exact::new(source, query_cell))
                        .sq_l2(place)
                },
                |sq_l2| {
                    let scaled = sq_l2 * sq_scale;
                    let (s, error) = (scaled - sq_norm, 1e-12 * (scaled + sq_norm));
                    (
                        ((s - error) as f32).next_down(),
                        ((s + error) as f32).next_up(),
                    )
                },
            );
        }
        self.limits[lane].set(self.limit(lane));
    }
}

/// The buffers of one thread.
pub(super) struct Worker<'a> {
    grids: &'a [LevelGrid],
    set: InstructionSet,
    options: &'a Options<'a>,
    prepared: PreparedImage,
    scratch: Scratch,
    tiles: Vec<Tile>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        grids: &'a [LevelGrid],
        set: InstructionSet,
        options: &'a Options<'a>,
    ) -> Self {
        Self {
            grids,
            set,
            options,
            prepared: PreparedImage::default(),
            scratch: Scratch::default(),
            tiles: Vec::new(),
        }
    }

    /// Finds the neighbours of one job's cells; leaves them unset when the search is cancelled.
    pub(super) fn run(&mut self, job: &mut Job<'_>) {
        let k = self.options.k;
        let frame = job
            .frame
            .get_or_init(|| QueryFrame::new(self.grids, &job.levels));
        let source = Source {
            grids: self.grids,
            query: &job.levels,
            frame,
            selection: job.selection,
        };
        let n_cells = job.sq_distances.len() / k;
        let width = self.set.tile();
        let n_tiles = n_cells.div_ceil(width);
        while self.tiles.len() < n_tiles {
            self.tiles.push(Tile::new(k));
        }
        for (index, tile) in self.tiles[..n_tiles].iter_mut().enumerate() {
            let start = index * width;
            tile.load(
                &source,
                job.first_cell + start,
                width.min(n_cells - start),
                width,
            );
        }
        for (rank, image) in job.selection.images() {
            let levels = image.levels();
            prepare_image_into(
                self.set,
                self.grids,
                &levels,
                &frame.means,
                frame.scale,
                &mut self.prepared,
            );
            for tile in &mut self.tiles[..n_tiles] {
                if self.options.is_cancelled() {
                    return;
                }
                scan_tile(
                    self.set,
                    &source,
                    rank,
                    &self.prepared,
                    tile,
                    &mut self.scratch,
                );
            }
        }
        let mut out = 0;
        for tile in &mut self.tiles[..n_tiles] {
            for lane in 0..tile.n_lanes {
                if lane % 16 == 0 && self.options.is_cancelled() {
                    return;
                }
                let mut exact = Exact::new(&source, tile.first_cell + lane);
                for neighbor in tile.lists[lane].finish(|place| exact.sq_l2(place)) {
                    job.sq_distances[out] = neighbor.sq_l2 as f32;
                    job.ranks[out] = neighbor.place.rank;
                    job.cells[out] = neighbor.place.cell;
                    out += 1;
                }
            }
        }
        debug_assert_eq!(out, n_cells * k);
    }
}

fn scan_tile(
    set: InstructionSet,
    source: &Source<'_>,
    rank: u32,
    image: &PreparedImage,
    tile: &mut Tile,
    scratch: &mut Scratch,
) {
    let mut errors = [0.0; MAX_TILE];
    for (lane, error) in errors[..tile.n_lanes].iter_mut().enumerate() {
        let norms = tile.norms.iter().map(|level| level[lane]);
        *error = error_bound(source.grids, norms, &image.max_norms);
    }
    let mut hits = TileHits {
        source,
        rank,
        first_cell: tile.first_cell,
        limits: &tile.limits,
        lists: &mut tile.lists[..tile.n_lanes],
        closed: &mut tile.closed,
        sq_norms: &tile.sq_norms,
        errors: &errors,
    };
    for lane in 0..MAX_TILE {
        let limit = if lane < tile.n_lanes {
            hits.limit(lane)
        } else {
            f32::NEG_INFINITY
        };
        tile.limits[lane].set(limit);
    }
    scan_image(
        set,
        source.grids,
        &tile.packed,
        image,
        scratch,
        &tile.limits,
        &mut hits,
    );
}
