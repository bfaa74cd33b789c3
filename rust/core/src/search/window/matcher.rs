//! The matcher for pyramids with a position window.

use super::seeds;
use crate::bounds::{Centering, CentredQuery, Sphere, error_bounds};
use crate::gallery::{Selection, StoredImage};
use crate::kernels::cascade::PatchHits;
use crate::kernels::window::{
    BandImage, BandScratch, QueryBand, WindowImage, WindowPlan, search_band,
};
use crate::kernels::{Hits, Limits, MAX_TILE};
use crate::parallel::run_tasks;
use crate::pyramid::LevelGrid;
use crate::search::candidates::{Searched, TileCandidates, TileHits};
use crate::search::job::Job;
use crate::search::matcher::{Division, JobMatcher, Request};
use crate::search::stats::SearchStats;
use crate::search::tile::{Source, Tile};
use std::sync::Arc;

/// For more neighbours than this the limits are too high to leave out much.
const MAX_K: usize = 64;

/// In windows of more cells than this the cascade leaves out so much that it is faster; of fewer where
/// upsampling repeats cells, as it then bounds many pairs at once (`benches/python/window.py`).
const MAX_CELLS: usize = 17 * 17;
const MAX_CELLS_REPEATED: usize = 5 * 5;

/// Query cells of a band: with 200 features each they take 50 MB, packed.
const MAX_BAND_CELLS: usize = 1 << 16;

/// The matcher.
pub(crate) struct Windowed<'a> {
    request: Request<'a>,
    plan: WindowPlan<'a>,
    centering: &'a Centering,
}

impl<'a> Windowed<'a> {
    /// None if there is no window, or one of the other matchers is better.
    pub(crate) fn new(request: &Request<'a>) -> Option<Self> {
        let (grids, k) = (&request.context.grids[..], request.options.k);
        let window = request.options.window.filter(|_| k <= MAX_K)?;
        let plan = WindowPlan::new(request.set, grids, window)?;
        let max_cells = if plan.is_blended() {
            MAX_CELLS
        } else {
            MAX_CELLS_REPEATED
        };
        if window.most_cells() > max_cells {
            return None;
        }
        let slot = request.selections.first()?.centering();
        let mut selections = request.selections.iter();
        if !selections.all(|selection| Arc::ptr_eq(selection.centering(), slot)) {
            return None;
        }
        let centering = slot.get_or_init(|| {
            let images = request.selections[0].images();
            let spheres: Vec<&[Sphere]> = images.map(|(_, image)| image.spheres(grids)).collect();
            Centering::of_spheres(&spheres)
        });
        let windowed = Self {
            request: *request,
            plan,
            centering,
        };
        windowed.prepare_images();
        Some(windowed)
    }

    /// Makes ready all images that are not yet.
    fn prepare_images(&self) {
        let Request {
            selections,
            options,
            threads,
            ..
        } = self.request;
        let images = selections.iter().flat_map(Selection::images);
        let images: Vec<&StoredImage> = images
            .map(|(_, image)| image)
            .filter(|image| !image.is_windowed())
            .collect();
        if !images.is_empty() {
            let slot = selections[0].centering();
            let prepare = |(): &mut (), image: &StoredImage| {
                image.windowed(&self.plan.layout, slot, self.plan.set);
            };
            run_tasks(&mut vec![(); threads], images, options.cancel, prepare);
        }
    }

    /// Compares a band, whose queries lie in tiles, with an image; returns how many pairs its coarse levels left.
    fn compare(
        &self,
        source: &Source<'_>,
        band: &QueryBand<'_>,
        (image, searched): (&StoredImage, &Searched<'_>),
        (tiles, candidates): (&[Tile], &mut [TileCandidates]),
        scratch: &mut BandScratch,
    ) -> u64 {
        let (plan, grids, centred) = (&self.plan, self.plan.grids(), source.centred);
        let stored = centred.centred_image(searched.levels);
        let kept = image.windowed(&plan.layout, source.selection.centering(), plan.set);
        let own;
        let prepared = if let Some(kept) = kept {
            kept
        } else {
            own = WindowImage::new(plan.set, &plan.layout, stored);
            &own
        };
        // One bound for all queries: theirs differ little.
        let max_norms = centred.max_norms(image.spheres(grids));
        let query_norms = centred.query_max_norms();
        let query_norms: Vec<[f32; MAX_TILE]> = query_norms
            .iter()
            .map(|norm| [1.001 * norm; MAX_TILE])
            .collect();
        let errors = error_bounds(grids, &query_norms, &max_norms);
        let tile_hits = tiles
            .iter()
            .zip(candidates)
            .map(|(tile, candidates)| TileHits {
                source,
                image: searched,
                tile,
                errors,
                candidates,
            });
        let mut hits = BandHits(tile_hits.collect());
        hits.0.iter().for_each(TileHits::set_limits);
        let limits: Vec<&Limits> = tiles.iter().map(|tile| &tile.limits).collect();
        let image = BandImage {
            prepared,
            stored,
            error: errors[0],
        };
        search_band(band, &image, &limits, scratch, &mut hits)
    }

    /// The finest of the coarse levels: by this and all coarser ones every pair is compared.
    fn stage(&self) -> String {
        let grids = self.plan.grids();
        let is_coarse = |grid: &LevelGrid| grid.shape.cells() < grids[0].shape.cells();
        let level = grids.iter().position(is_coarse).unwrap_or(0);
        format!("level {level}")
    }
}

impl JobMatcher for Windowed<'_> {
    type Buffers = BandScratch;

    fn buffers(&self) -> BandScratch {
        BandScratch::default()
    }

    /// Jobs of whole rows. Those at the ends of two bands are multiplied for both, so bands are as large as
    /// keeps all threads busy, up to a size whose packed queries take little memory.
    fn division(&self, n_images: usize, _: usize) -> Division {
        let (finest, threads) = (self.plan.grids()[0].shape, self.request.threads);
        let jobs_per_image = threads.div_ceil(n_images.max(1)).min(finest.height);
        let most = (MAX_BAND_CELLS / finest.width).max(1);
        Division {
            cells_per_job: finest.height.div_ceil(jobs_per_image).min(most) * finest.width,
            jobs_at_once: threads,
        }
    }

    fn search(&self, scratch: &mut BandScratch, job: &mut Job<'_>) -> SearchStats {
        let Request {
            context, options, ..
        } = self.request;
        let (plan, cancel) = (&self.plan, options.cancel);
        let grids = plan.grids();
        let centred = job
            .centred
            .get_or_init(|| CentredQuery::centred_by(self.centering, grids, &job.levels));
        let source = Source {
            grids,
            query_grids: grids,
            query: &job.levels,
            centred,
            selection: job.selection,
            window: options.window,
        };
        let width = grids[0].shape.width;
        let (start, end) = (job.cells().start / width, job.cells().end / width);
        let band = QueryBand::new(plan, &centred.levels, start..end);
        let mut tiles = tiles_of(plan, &source, &band);
        seeds::seed(&source, &mut tiles, options);
        let new = || TileCandidates::new(options.k);
        let mut candidates: Vec<TileCandidates> = tiles.iter().map(|_| new()).collect();
        let mut stats = SearchStats {
            pairs: job.n_pairs(context, options.window),
            ..SearchStats::default()
        };
        let mut left = 0;
        for (rank, image) in job.selection.images() {
            if cancel.is_set() {
                return stats;
            }
            let levels = image.levels();
            let searched = Searched::new(rank, &levels);
            let of_image = (image, &searched);
            left += self.compare(&source, &band, of_image, (&tiles, &mut candidates), scratch);
        }
        for (tile, candidates) in tiles.iter().zip(&mut candidates) {
            for (lane, cell) in tile.queries() {
                if lane % 16 == 0 && cancel.is_set() {
                    return stats;
                }
                let neighbors = candidates.finish(&source, lane, cell);
                job.results.put(cell as usize, neighbors);
            }
        }
        stats.count(&self.stage(), stats.pairs);
        stats.count("level 0", left);
        stats
    }
}

struct BandHits<'a>(Vec<TileHits<'a>>);

impl PatchHits for BandHits<'_> {
    fn hit(&mut self, tile: usize, lane: usize, cell: usize, s: f32) {
        self.0[tile].hit(lane, cell, s);
    }
}

/// The queries of a band, in the order in which its kernels take them.
fn tiles_of(plan: &WindowPlan<'_>, source: &Source<'_>, band: &QueryBand<'_>) -> Vec<Tile> {
    let cells: Vec<u32> = band
        .rows
        .clone()
        .flat_map(|row| plan.cells_of(row))
        .collect();
    let load = |cells: &[u32]| {
        let mut tile = Tile::default();
        tile.place(source, cells.iter().copied());
        tile
    };
    cells.chunks(plan.set.tile()).map(load).collect()
}
