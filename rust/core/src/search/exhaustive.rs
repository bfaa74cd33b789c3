//! The exhaustive matcher: every query against every cell of the selected images.
//!
//! In float32, the kernels compute partial distances `s = |v|^2 - 2 <u, v>` of features that were
//! centred (by the mean of the query image, so that a common offset costs no precision) and scaled
//! by a power of two (so that nothing overflows). Each `s` is wrong by at most [`error_bounds`](crate::bounds::error_bounds);
//! pairs that this uncertainty leaves in question are compared in float64 ([`super::exact`]).

use super::candidates::{Searched, TileCandidates, TileHits};
use super::job::Job;
use super::matcher::{Division, JobMatcher, Request};
use super::stats::SearchStats;
use super::tile::{Source, Tile};
use crate::bounds::CentredQuery;
use crate::kernels::{InstructionSet, PreparedImage, ScanScratch, prepare_image_into, scan_image};
use std::ops::Range;

/// The matcher.
pub(super) struct Exhaustive<'a> {
    request: Request<'a>,
}

/// The buffers of one thread.
#[derive(Default)]
pub(super) struct TileBuffers {
    scanner: Scanner,
    tiles: Vec<(Tile, TileCandidates)>,
}

impl<'a> Exhaustive<'a> {
    pub(super) const fn new(request: &Request<'a>) -> Self {
        Self { request: *request }
    }
}

impl JobMatcher for Exhaustive<'_> {
    type Buffers = TileBuffers;

    fn buffers(&self) -> TileBuffers {
        TileBuffers::default()
    }

    /// Jobs of whole tiles. Each prepares the gallery images anew, so jobs are as large as keeps all
    /// threads busy to the end.
    fn division(&self, n_images: usize, n_cells: usize) -> Division {
        let (tile, threads) = (self.request.set.tile(), self.request.threads);
        let tiles = n_cells.div_ceil(tile);
        let jobs_per_image = (2 * threads).div_ceil(n_images.max(1)).clamp(1, tiles);
        Division {
            cells_per_job: tiles.div_ceil(jobs_per_image) * tile,
            jobs_at_once: threads,
        }
    }

    fn search(&self, buffers: &mut TileBuffers, job: &mut Job<'_>) -> SearchStats {
        let Request {
            context,
            query_context,
            set,
            ..
        } = self.request;
        let (k, cancel) = (self.request.options.k, self.request.options.cancel);
        let query_grids = &query_context.grids;
        let centred = job
            .centred
            .get_or_init(|| CentredQuery::new(query_grids, &job.levels));
        let source = Source {
            grids: &context.grids,
            query_grids,
            query: &job.levels,
            centred,
            selection: job.selection,
        };
        let stats = SearchStats::exhaustive(job.n_pairs(context));
        let TileBuffers { scanner, tiles } = buffers;
        let tiles = load(
            &source,
            set,
            k,
            job.first_cell..job.first_cell + job.n_cells,
            tiles,
        );
        for (rank, image) in job.selection.images() {
            let levels = image.levels();
            let image = Searched::new(rank, &levels);
            scanner.prepare(set, &source, &image);
            for (tile, candidates) in &mut *tiles {
                if cancel.is_set() {
                    return stats;
                }
                scanner.scan(set, &source, &image, tile, candidates);
            }
        }
        for (tile, candidates) in tiles {
            for (lane, cell) in tile.queries() {
                if lane % 16 == 0 && cancel.is_set() {
                    return stats;
                }
                let neighbors = candidates.finish(&source, lane, cell);
                job.results.put(cell as usize, neighbors);
            }
        }
        stats
    }
}

/// Packs the cells of a job into tiles, which have no candidates yet.
fn load<'t>(
    source: &Source<'_>,
    set: InstructionSet,
    k: usize,
    cells: Range<usize>,
    tiles: &'t mut Vec<(Tile, TileCandidates)>,
) -> &'t mut [(Tile, TileCandidates)] {
    let width = set.tile();
    let n_tiles = cells.len().div_ceil(width);
    while tiles.len() < n_tiles {
        tiles.push((Tile::default(), TileCandidates::new(k)));
    }
    let tiles = &mut tiles[..n_tiles];
    for ((tile, candidates), start) in tiles.iter_mut().zip(cells.clone().step_by(width)) {
        let cells = start..cells.end.min(start + width);
        tile.load(source, cells.map(|cell| cell as u32), width);
        candidates.clear();
    }
    tiles
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
