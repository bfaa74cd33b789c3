//! The exhaustive matcher: every query against every cell of the selected images.
//!
//! In float32, the kernels compute partial distances `s = |v|^2 - 2 <u, v>` of features that were
//! centred (by the mean of the query image, so that a common offset costs no precision) and scaled
//! by a power of two (so that nothing overflows). Each `s` is wrong by at most [`error_bounds`](crate::bounds::error_bounds);
//! pairs that this uncertainty leaves in question are compared in float64 ([`super::exact`]).

use super::candidates::{Searched, TileCandidates, TileHits};
use super::job::Job;
use super::options::Options;
use super::shortlist::Shortlist;
use super::tile::{Source, Tile};
use crate::bounds::CentredQuery;
use crate::error::{Error, Result};
use crate::kernels::{InstructionSet, PreparedImage, ScanScratch, prepare_image_into, scan_image};
use crate::pyramid::LevelGrid;

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
    query_grids: &'a [LevelGrid],
    set: InstructionSet,
    options: &'a Options<'a>,
    scanner: Scanner,
    tiles: Vec<(Tile, TileCandidates)>,
}

impl<'a> Worker<'a> {
    /// For a gallery and for queries on these grids.
    pub(super) fn new(
        (grids, query_grids): (&'a [LevelGrid], &'a [LevelGrid]),
        set: InstructionSet,
        options: &'a Options<'a>,
    ) -> Self {
        Self {
            grids,
            query_grids,
            set,
            options,
            scanner: Scanner::default(),
            tiles: Vec::new(),
        }
    }

    /// Finds the neighbours of one job's cells; leaves them unset when the search is cancelled.
    pub(super) fn run(&mut self, job: &mut Job<'_>) {
        let k = self.options.k;
        let centred = job
            .centred
            .get_or_init(|| CentredQuery::new(self.query_grids, &job.levels));
        let source = Source {
            grids: self.grids,
            query_grids: self.query_grids,
            query: &job.levels,
            centred,
            selection: job.selection,
        };
        let n_cells = job.sq_distances.len() / k;
        let width = self.set.tile();
        let n_tiles = n_cells.div_ceil(width);
        while self.tiles.len() < n_tiles {
            self.tiles.push((Tile::default(), TileCandidates::new(k)));
        }
        let tiles = &mut self.tiles[..n_tiles];
        for (index, (tile, candidates)) in tiles.iter_mut().enumerate() {
            let start = index * width;
            let cells = job.first_cell + start..job.first_cell + n_cells.min(start + width);
            tile.load(&source, cells.map(|cell| cell as u32), width);
            candidates.clear();
        }
        for (rank, image) in job.selection.images() {
            let levels = image.levels();
            let image = Searched::new(rank, &levels);
            self.scanner.prepare(self.set, &source, &image);
            for (tile, candidates) in &mut *tiles {
                if self.options.cancel.is_set() {
                    return;
                }
                self.scanner
                    .scan(self.set, &source, &image, tile, candidates);
            }
        }
        let mut out = 0;
        for (tile, candidates) in tiles {
            for (lane, cell) in tile.queries() {
                if lane % 16 == 0 && self.options.cancel.is_set() {
                    return;
                }
                for neighbor in candidates.finish(&source, lane, cell) {
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

/// Compares tiles with every cell of an image.
#[derive(Default)]
pub(super) struct Scanner {
    prepared: PreparedImage,
    scratch: ScanScratch,
}

impl Scanner {
    /// Makes ready for the tiles to be compared with an image.
    pub(super) fn prepare(
        &mut self,
        set: InstructionSet,
        source: &Source<'_>,
        image: &Searched<'_>,
    ) {
        prepare_image_into(
            set,
            source.grids,
            source.centred.centred_image(image.levels),
            &mut self.prepared,
        );
    }

    /// Compares one tile with the image.
    pub(super) fn scan(
        &mut self,
        set: InstructionSet,
        source: &Source<'_>,
        image: &Searched<'_>,
        tile: &Tile,
        candidates: &mut TileCandidates,
    ) {
        let mut hits = TileHits {
            source,
            image,
            tile,
            errors: tile.errors(source.grids, &self.prepared.max_norms),
            candidates,
        };
        hits.set_limits();
        scan_image(
            set,
            source.grids,
            &tile.packed,
            &self.prepared,
            &mut self.scratch,
            &tile.limits,
            &mut hits,
        );
    }
}
