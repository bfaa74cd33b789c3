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
        // With a window, tiles are made of whole rows.
        let unit = match self.request.options.window {
            Some(_) => self.request.query_context.shape().finest().width,
            None => tile,
        };
        let units = n_cells.div_ceil(unit);
        let jobs_per_image = (2 * threads).div_ceil(n_images.max(1)).clamp(1, units);
        Division {
            cells_per_job: units.div_ceil(jobs_per_image) * unit,
            jobs_at_once: threads,
        }
    }

    fn search(&self, buffers: &mut TileBuffers, job: &mut Job<'_>) -> SearchStats {
        let Request {
            context,
            query_context,
            set,
            options,
            ..
        } = self.request;
        let (k, cancel) = (options.k, options.cancel);
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
            window: options.window,
        };
        let stats = SearchStats::exhaustive(job.n_pairs(context, options.window));
        let TileBuffers { scanner, tiles } = buffers;
        let cells = match options.window {
            Some(_) => squares(job.cells(), query_grids[0].shape.width, set.tile()),
            None => runs(job.cells(), set.tile()),
        };
        let tiles = load(&source, set, k, &cells, tiles);
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

/// Packs the cells of each tile, of which there are no candidates yet.
fn load<'t>(
    source: &Source<'_>,
    set: InstructionSet,
    k: usize,
    cells: &[Vec<u32>],
    tiles: &'t mut Vec<(Tile, TileCandidates)>,
) -> &'t mut [(Tile, TileCandidates)] {
    while tiles.len() < cells.len() {
        tiles.push((Tile::default(), TileCandidates::new(k)));
    }
    let tiles = &mut tiles[..cells.len()];
    for ((tile, candidates), cells) in tiles.iter_mut().zip(cells) {
        tile.load(source, cells.iter().copied(), set.tile());
        candidates.clear();
    }
    tiles
}

/// Cells in tiles, one after the other.
fn runs(cells: Range<usize>, tile: usize) -> Vec<Vec<u32>> {
    let starts = cells.clone().step_by(tile);
    starts
        .map(|start| (start..cells.end.min(start + tile)).map(|cell| cell as u32))
        .map(Iterator::collect)
        .collect()
}

/// Whole rows of cells in tiles that are nearly square: their windows overlap as much as can be.
fn squares(cells: Range<usize>, width: usize, tile: usize) -> Vec<Vec<u32>> {
    let rows = cells.start / width..cells.end / width;
    let is_tall = |tall: &usize| tile.is_multiple_of(*tall) && tall * tall <= tile;
    let tall = (1..=rows.len()).rev().find(is_tall).unwrap_or(1);
    let wide = tile / tall;
    let mut tiles = Vec::new();
    for top in rows.clone().step_by(tall) {
        for left in (0..width).step_by(wide) {
            let rows = top..rows.end.min(top + tall);
            let cells =
                rows.flat_map(|row| (left..width.min(left + wide)).map(move |c| row * width + c));
            tiles.push(cells.map(|cell| cell as u32).collect());
        }
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
            (&tile.packed, &tile.area),
            &self.prepared,
            &mut self.scratch,
            &tile.limits,
            &mut hits,
        );
    }
}
