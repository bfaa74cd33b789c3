//! The exhaustive matcher: every query against every cell of the selected images.
//!
//! In float32, the kernels compute partial distances `s = |v|^2 - 2 <u, v>` of features that were
//! centred (by the mean of the query image, so that a common offset costs no precision) and scaled
//! by a power of two (so that nothing overflows). Each `s` is wrong by at most [`error_bound`];
//! pairs that this uncertainty leaves in question are settled in float64 by [`super::exact`].

use super::Options;
use super::exact::{sq_l2, upsample_into};
use super::frame::{QueryFrame, error_bound};
use super::twins::twins;
use crate::error::{Error, Result};
use crate::gallery::Selection;
use crate::kernels::{
    Hits, InstructionSet, Limits, MAX_TILE, PreparedImage, QueryTile, Scratch, prepare_image_into,
    scan_image,
};
use crate::pyramid::{LevelData, LevelGrid};
use crate::topk::{Neighbor, Place, Shortlist};
use std::cell::{Cell, OnceCell};
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

const NOTHING_KNOWN: (u32, u32, f64) = (u32::MAX, u32::MAX, f64::NAN);

/// Queries that are scanned together, and what is known of them so far.
struct Tile {
    first_cell: usize,
    n_lanes: usize,
    packed: QueryTile,
    limits: Limits,
    lists: Vec<Shortlist>,
    /// Upsampled feature of each query whose list is settled; empty for the others.
    features: Vec<Vec<f64>>,
    /// The last exact distance of each settled query, and the rank and twin of the cell.
    known: [(u32, u32, f64); MAX_TILE],
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
            features: vec![Vec::new(); MAX_TILE],
            known: [NOTHING_KNOWN; MAX_TILE],
            norms: Vec::new(),
            sq_norms: [0.0; MAX_TILE],
        }
    }

    /// Packs the queries at the fine cells `first_cell..first_cell + n_lanes`.
    fn load(&mut self, source: &Source<'_>, first_cell: usize, n_lanes: usize, width: usize) {
        (self.first_cell, self.n_lanes) = (first_cell, n_lanes);
        self.packed.reset(source.grids, width);
        self.known = [NOTHING_KNOWN; MAX_TILE];
        self.norms.clear();
        self.norms.resize(source.grids.len(), [0.0; MAX_TILE]);
        let scale = f64::from(source.frame.scale);
        let mut feature = Vec::new();
        for lane in 0..n_lanes {
            self.lists[lane].clear();
            self.features[lane].clear();
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
                    1.001 * corners.iter().map(|&at| norms[at]).fold(0.0, f32::max);
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

impl Source<'_> {
    /// The exact squared distance between the query's feature `x` and a gallery cell.
    fn sq_l2(&self, x: &[f64], place: Place) -> f64 {
        let image = self.selection.image(place.rank);
        self.sq_l2_in(x, &image.levels(), place.cell)
    }

    /// The same, for a cell of an image at hand.
    fn sq_l2_in(&self, x: &[f64], levels: &[LevelData<'_>], cell: u32) -> f64 {
        let mut y = Vec::with_capacity(4 * x.len()); // room for the cells that are blended
        upsample_into(self.grids, levels, cell as usize, &mut y);
        sq_l2(x, &y)
    }
}

/// The gallery image that is being scanned.
struct Scanned<'a> {
    rank: u32,
    levels: &'a [LevelData<'a>],
    prepared: &'a PreparedImage,
    /// Computed when a settled query first asks for them.
    twins: OnceCell<Vec<u32>>,
}

/// Receives the hits of one tile in one gallery image.
struct TileHits<'a> {
    source: &'a Source<'a>,
    image: &'a Scanned<'a>,
    first_cell: usize,
    limits: &'a Limits,
    lists: &'a mut [Shortlist],
    features: &'a mut [Vec<f64>],
    known: &'a mut [(u32, u32, f64); MAX_TILE],
    sq_norms: &'a [f64; MAX_TILE],
    errors: &'a [f32; MAX_TILE],
}

impl TileHits<'_> {
    /// The largest partial distance in the current image that is still of interest.
    fn limit(&self, lane: usize) -> f32 {
        let bound = self.lists[lane].bound();
        if bound == f32::NEG_INFINITY {
            bound
        } else if self.errors[lane].is_finite() {
            (bound + self.errors[lane]).next_up()
        } else {
            f32::INFINITY
        }
    }

    /// A pair that may be among the nearest of a query with an open list.
    fn push(&mut self, lane: usize, place: Place, s: f32) {
        let error = self.errors[lane];
        let (low, high) = if error.is_finite() && s.is_finite() {
            ((s - error).next_down(), (s + error).next_up())
        } else {
            (f32::NEG_INFINITY, f32::INFINITY)
        };
        let list = &mut self.lists[lane];
        list.push(low, high, place);
        if list.is_full() {
            let (source, sq_norm) = (self.source, self.sq_norms[lane]);
            let feature = &mut self.features[lane];
            upsample_into(source.grids, source.query, self.first_cell + lane, feature);
            list.prune(
                |place| source.sq_l2(feature, place),
                |sq_l2| source.frame.interval(sq_l2, sq_norm),
            );
        }
    }

    /// A pair that may be nearer than those in the settled list of its query.
    fn insert(&mut self, lane: usize, place: Place) {
        let (source, image) = (self.source, self.image);
        let twins = image
            .twins
            .get_or_init(|| twins(source.grids, image.levels));
        let twin = twins[place.cell as usize];
        if (self.known[lane].0, self.known[lane].1) != (place.rank, twin) {
            let sq_l2 = source.sq_l2_in(&self.features[lane], image.levels, place.cell);
            self.known[lane] = (place.rank, twin, sq_l2);
        }
        let (sq_l2, sq_norm) = (self.known[lane].2, self.sq_norms[lane]);
        self.lists[lane].insert(Neighbor { sq_l2, place }, |sq_l2| {
            source.frame.interval(sq_l2, sq_norm)
        });
    }
}

impl Hits for TileHits<'_> {
    fn hit(&mut self, lane: usize, cell: usize, s: f32) {
        if lane >= self.lists.len() || self.lists[lane].bound() == f32::NEG_INFINITY {
            return; // a NaN passes the kernel's comparison with any limit
        }
        let place = Place {
            rank: self.image.rank,
            cell: cell as u32,
        };
        if self.lists[lane].is_settled() {
            self.insert(lane, place);
        } else {
            self.push(lane, place, s);
        }
        self.limits[lane].set(self.limit(lane));
    }
}

/// Fails when the shortlists of jobs of `n_cells` cells on `threads` threads could not be held.
///
/// # Errors
/// [`Error::Resources`], as the lists themselves grow by and by, and would end the process.
pub(super) fn check_memory(n_cells: usize, k: usize, threads: usize) -> Result<()> {
    let bytes = [n_cells, threads]
        .into_iter()
        .try_fold(Shortlist::max_bytes(k), usize::checked_mul)
        .filter(|&bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
    match bytes {
        Some(_) => Ok(()),
        None => Err(Error::Resources(format!(
            "not enough memory to search with k = {k} on {threads} threads"
        ))),
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
            let scanned = Scanned {
                rank,
                levels: &levels,
                prepared: &self.prepared,
                twins: OnceCell::new(),
            };
            for tile in &mut self.tiles[..n_tiles] {
                if self.options.cancel.is_set() {
                    return;
                }
                scan_tile(self.set, &source, &scanned, tile, &mut self.scratch);
            }
        }
        let (mut out, mut feature) = (0, Vec::new());
        for tile in &mut self.tiles[..n_tiles] {
            for lane in 0..tile.n_lanes {
                if lane % 16 == 0 && self.options.cancel.is_set() {
                    return;
                }
                upsample_into(
                    self.grids,
                    &job.levels,
                    tile.first_cell + lane,
                    &mut feature,
                );
                for neighbor in tile.lists[lane].finish(|place| source.sq_l2(&feature, place)) {
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
    image: &Scanned<'_>,
    tile: &mut Tile,
    scratch: &mut Scratch,
) {
    let mut errors = [0.0; MAX_TILE];
    for (lane, error) in errors[..tile.n_lanes].iter_mut().enumerate() {
        let norms = tile.norms.iter().map(|level| level[lane]);
        *error = error_bound(source.grids, norms, &image.prepared.max_norms);
    }
    let mut hits = TileHits {
        source,
        image,
        first_cell: tile.first_cell,
        limits: &tile.limits,
        lists: &mut tile.lists[..tile.n_lanes],
        features: &mut tile.features,
        known: &mut tile.known,
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
        image.prepared,
        scratch,
        &tile.limits,
        &mut hits,
    );
}
