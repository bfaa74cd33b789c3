//! Some tiles of a query image, led through all images.

use super::round::{Buffers, CellNeighbors, Round};
use super::{cost, seeds};
use crate::kernels::cascade::{
    CascadeImage, CascadePlan, CoarseImage, LeadingCoordinates, LevelCounts, Patch, PatchHits,
    TileQueries, search_patches,
};
use crate::kernels::{Hits, InstructionSet, NO_QUERY, TILE_VECTORS};
use crate::search::candidates::{Searched, TileCandidates, TileHits};
use crate::search::options::{Matcher, Options};
use crate::search::stats::SearchStats;
use crate::search::tile::{Source, Tile};

/// Some tiles of the query image, and what was found for them so far.
pub(crate) struct TileGroup {
    tiles: Vec<Tile>,
    candidates: Vec<TileCandidates>,
    patches: Vec<Patch>,
    /// Cells of each level that a patch is compared with, summed over the patches.
    n_cells: Vec<usize>,
    /// Pairs of queries and cells of an image.
    n_pairs: u64,
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
                let lanes = vector * set.width()..(vector + 1) * set.width();
                let own = &tile.cells[lanes];
                let queries = own.iter().copied().filter(|&cell| cell != NO_QUERY);
                let around = source.area_around(queries);
                patches.push(Patch::new(
                    plan,
                    set,
                    place,
                    (&tile.cells, &tile.packed),
                    &tile.sq_norms,
                    (around, &source.windows_of(own)),
                    leading,
                ));
            }
            tiles.push(tile);
        }
        let levels = 0..source.grids.len();
        let n_cells = |level| {
            patches
                .iter()
                .map(|patch| patch.around.n_cells(level))
                .sum()
        };
        let queries = tiles.iter().flat_map(Tile::queries);
        Self {
            n_cells: levels.map(n_cells).collect(),
            n_pairs: queries.map(|(_, cell)| source.n_compared(cell)).sum(),
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
    pub fn search(&mut self, round: &Round<'_>, buffers: &mut Buffers) {
        if self.pruning && !self.seeded {
            let (tiles, patches) = (&mut self.tiles, &mut self.patches);
            seeds::seed(round, tiles, patches, &mut buffers.cascade);
            self.seeded = true;
        }
        for (index, (rank, image)) in round.images.iter().enumerate() {
            if round.options.cancel.is_set() {
                return;
            }
            let levels = image.levels();
            let image = Searched::new(*rank, &levels);
            self.stats.pairs += self.n_pairs;
            if self.pruning {
                let counts = self.descend(round, &round.coarse_images[index], &image, buffers);
                for (level, &pairs) in counts.pairs.iter().enumerate().rev() {
                    self.stats.count(&format!("level {level}"), pairs);
                }
                self.pruning = round.options.matcher == Matcher::Pruned
                    || cost::is_worth_it(round.source.grids, &self.n_cells, &counts);
            } else {
                self.stats.count("exhaustive", self.n_pairs);
                buffers.scanner.prepare(round.set, round.source, &image);
                for (tile, candidates) in self.tiles.iter().zip(&mut self.candidates) {
                    if round.options.cancel.is_set() {
                        return;
                    }
                    buffers
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
        buffers: &mut Buffers,
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
            &mut buffers.cascade,
            &mut hits,
        )
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
