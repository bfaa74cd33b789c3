//! Some tiles of a query image, led through all images.

use crate::gallery::StoredImage;
use crate::kernels::cascade::{
    CascadeImage, CascadePlan, CascadeScratch, CoarseImage, CoarseScratch, LeadingCoordinates,
    LevelCounts, Patch, PatchHits, TileQueries, distances, search_patches,
};
use crate::kernels::{Hits, InstructionSet, TILE_VECTORS};
use crate::search::candidates::{Searched, TileCandidates, TileHits};
use crate::search::exhaustive::Scanner;
use crate::search::options::{Matcher, Options};
use crate::search::shortlist::Neighbor;
use crate::search::stats::SearchStats;
use crate::search::tile::{Source, Tile};

/// The neighbours of one query cell.
pub(crate) type CellNeighbors = (u32, Vec<Neighbor>);

/// The buffers of one thread.
#[derive(Default)]
pub(crate) struct Buffers {
    pub coarse: CoarseScratch,
    cascade: CascadeScratch,
    scanner: Scanner,
}

/// Images that are gone through together.
pub(crate) struct Round<'a> {
    pub source: &'a Source<'a>,
    pub plan: &'a CascadePlan<'a>,
    pub set: InstructionSet,
    pub stride: usize,
    pub images: &'a [(u32, &'a StoredImage)],
    pub coarse_images: &'a [CoarseImage],
    pub options: &'a Options<'a>,
}

/// Some tiles of the query image, and what was found for them so far.
pub(crate) struct TileGroup {
    tiles: Vec<Tile>,
    candidates: Vec<TileCandidates>,
    patches: Vec<Patch>,
    /// Whether levels are still looked at one by one.
    pub pruning: bool,
    seeded: bool,
    pub stats: SearchStats,
}

impl TileGroup {
    pub fn new(
        source: &Source<'_>,
        plan: &CascadePlan<'_>,
        set: InstructionSet,
        leading: Option<&LeadingCoordinates>,
        cells: &[&Vec<u32>],
        options: &Options<'_>,
    ) -> Self {
        let mut tiles = Vec::with_capacity(cells.len());
        let mut patches = Vec::with_capacity(cells.len() * TILE_VECTORS);
        for (index, cells) in cells.iter().enumerate() {
            let mut tile = Tile::default();
            tile.load(source, cells.iter().copied(), set.tile());
            for vector in 0..cells.len() / set.width() {
                let place = (index, vector);
                patches.push(Patch::new(
                    plan,
                    set,
                    place,
                    (&tile.cells, &tile.packed),
                    &tile.sq_norms,
                    leading,
                ));
            }
            tiles.push(tile);
        }
        Self {
            candidates: tiles
                .iter()
                .map(|_| TileCandidates::new(options.k))
                .collect(),
            tiles,
            patches,
            pruning: true,
            seeded: false,
            stats: SearchStats::default(),
        }
    }

    /// Looks through the images of a round.
    pub fn search(&mut self, round: &Round<'_>, worker: &mut Buffers) {
        let n_queries: usize = self.tiles.iter().map(|tile| tile.queries().count()).sum();
        if self.pruning && !self.seeded {
            self.seed(round, worker);
            self.seeded = true;
        }
        for (index, (rank, image)) in round.images.iter().enumerate() {
            if round.options.cancel.is_set() {
                return;
            }
            let levels = image.levels();
            let image = Searched::new(*rank, &levels);
            let n_pairs = (n_queries * round.source.grids[0].shape.cells()) as u64;
            self.stats.pairs += n_pairs;
            if self.pruning {
                let counts = self.descend(round, &round.coarse_images[index], &image, worker);
                for (level, &pairs) in counts.pairs.iter().enumerate().rev() {
                    self.stats.count(&format!("level {level}"), pairs);
                }
                self.pruning =
                    round.options.matcher == Matcher::Pruned || self.is_worth_it(round, &counts);
            } else {
                self.stats.count("exhaustive", n_pairs);
                worker.scanner.prepare(round.set, round.source, &image);
                for (tile, candidates) in self.tiles.iter().zip(&mut self.candidates) {
                    if round.options.cancel.is_set() {
                        return;
                    }
                    worker
                        .scanner
                        .scan(round.set, round.source, &image, tile, candidates);
                }
            }
        }
    }

    /// Leads all patches through one image.
    fn descend(
        &mut self,
        round: &Round<'_>,
        coarse: &CoarseImage,
        image: &Searched<'_>,
        worker: &mut Buffers,
    ) -> LevelCounts {
        let (source, set) = (round.source, round.set);
        let mut hits = GroupHits(
            self.tiles
                .iter()
                .zip(&mut self.candidates)
                .map(|(tile, candidates)| TileHits {
                    source,
                    image,
                    tile,
                    errors: tile.errors(source.grids, &coarse.max_norms),
                    candidates,
                })
                .collect(),
        );
        hits.0.iter().for_each(TileHits::set_limits);
        for patch in &mut self.patches {
            patch.start(set, &hits.0[patch.tile].errors);
        }
        let tiles: Vec<TileQueries<'_>> = self
            .tiles
            .iter()
            .map(|tile| TileQueries {
                queries: &tile.packed,
                limits: &tile.limits,
            })
            .collect();
        let image = CascadeImage {
            centred_image: source.centred.centred_image(image.levels),
            coarse,
            stride: round.stride,
        };
        search_patches(
            set,
            round.plan,
            &image,
            &tiles,
            &mut self.patches,
            &mut worker.cascade,
            &mut hits,
        )
    }

    /// Whether an image took fewer vector operations, roughly, than the exhaustive matcher needs.
    fn is_worth_it(&self, round: &Round<'_>, counts: &LevelCounts) -> bool {
        let grids = round.source.grids;
        let (finest, coarsest) = (grids[0].shape, grids[grids.len() - 1].shape);
        let patches = self.patches.len();
        let exhaustive: usize = grids[1..]
            .iter()
            .map(|grid| grid.shape.values() + 2 * finest.cells())
            .sum::<usize>()
            + finest.values();
        let mut cascade = (20 * coarsest.cells() * patches) as u64;
        for (level, grid) in grids.iter().enumerate() {
            let channels = grid.shape.channels as u64;
            cascade += counts.products[level] * (channels + channels / 4 + 4);
            cascade += counts.vectors[level] * if level + 1 == grids.len() { 5 } else { 20 };
        }
        cascade <= (exhaustive * patches) as u64
    }

    /// Lowers the limits of all queries before anything is searched.
    fn seed(&mut self, round: &Round<'_>, worker: &mut Buffers) {
        let (grids, k) = (round.source.grids, round.options.k);
        let (finest, coarse) = (grids[0].shape, grids[grids.len() - 1].shape);
        let (tall, wide) = (finest.height / coarse.height, finest.width / coarse.width);
        let n_seeds = 2 + (2 * k).div_ceil(tall * wide);
        let width = round.set.width();
        let (mut sums, mut column) = (Vec::new(), Vec::new());
        for patch in &mut self.patches {
            if round.options.cancel.is_set() {
                return;
            }
            let Some(corner) = patch.main_corner() else {
                continue;
            };
            let mut nearest: Vec<(f32, usize, u32)> = (round.coarse_images.iter().enumerate())
                .map(|(image, coarse)| (coarse.nearest[corner].0, image, coarse.nearest[corner].1))
                .collect();
            if nearest.len() > n_seeds {
                nearest.select_nth_unstable_by(n_seeds, |x, y| x.0.total_cmp(&y.0));
                nearest.truncate(n_seeds);
            }
            let tile = &mut self.tiles[patch.tile];
            let lanes = patch.vector * width..(patch.vector + 1) * width;
            sums.clear();
            for (_, image, cell) in nearest {
                let coarse = &round.coarse_images[image];
                let errors = tile.errors(grids, &coarse.max_norms);
                let first = sums.len();
                let levels = round.images[image].1.levels();
                let image = CascadeImage {
                    centred_image: round.source.centred.centred_image(&levels),
                    coarse,
                    stride: round.stride,
                };
                patch.start(round.set, &errors);
                distances(
                    round.set,
                    round.plan,
                    &image,
                    (&tile.packed, patch),
                    cell as usize,
                    &mut worker.cascade,
                    &mut sums,
                );
                for sums in sums[first..].chunks_exact_mut(width) {
                    for (sum, error) in sums.iter_mut().zip(&errors[lanes.clone()]) {
                        *sum = (*sum + error).next_up();
                    }
                }
            }
            let n_cells = sums.len() / width;
            if n_cells < k {
                continue;
            }
            for (lane, lane_of_tile) in lanes.enumerate() {
                column.clear();
                column.extend(
                    sums.iter()
                        .skip(lane)
                        .step_by(width)
                        .map(|sum: &f32| if sum.is_nan() { f32::INFINITY } else { *sum }),
                );
                let (_, kth, _) = column.select_nth_unstable_by(k - 1, f32::total_cmp);
                tile.seed(lane_of_tile, *kth);
            }
        }
    }

    /// The exact neighbours of all queries.
    pub fn finish(&mut self, source: &Source<'_>, options: &Options<'_>) -> Vec<CellNeighbors> {
        let mut found = Vec::new();
        for (tile, candidates) in self.tiles.iter().zip(&mut self.candidates) {
            for (lane, cell) in tile.queries() {
                if lane % 16 == 0 && options.cancel.is_set() {
                    return found;
                }
                found.push((cell, candidates.finish(source, lane, cell).collect()));
            }
        }
        found
    }
}

struct GroupHits<'a>(Vec<TileHits<'a>>);

impl PatchHits for GroupHits<'_> {
    fn hit(&mut self, tile: usize, lane: usize, cell: usize, s: f32) {
        self.0[tile].hit(lane, cell, s);
    }
}
