//! The search of one query image.

use super::group::TileGroup;
use super::round::{Buffers, CellNeighbors, Round};
use crate::bounds::{CentredQuery, leading_directions};
use crate::gallery::StoredImage;
use crate::kernels::cascade::{
    CascadePlan, CoarseImage, CoarseQuery, LeadingCoordinates, PATCH_ROWS, compare_coarse,
};
use crate::kernels::{InstructionSet, NO_QUERY, TILE_VECTORS};
use crate::parallel::run_tasks;
use crate::pyramid::LevelGrid;
use crate::search::job::Job;
use crate::search::matcher::{Division, JobMatcher, Request};
use crate::search::stats::SearchStats;
use crate::search::tile::Source;

/// What the coarsest level tells is held of as many images as need about this many bytes.
const ROUND_BYTES: usize = 16 << 20;

/// For more neighbours than this the limits are too high to leave out much.
const MAX_K: usize = 64;

/// The matcher.
pub(crate) struct Cascade<'a> {
    request: Request<'a>,
    plan: CascadePlan<'a>,
}

/// A query image, prepared.
struct PreparedQuery<'a> {
    source: Source<'a>,
    coarse: CoarseQuery,
    leading: Option<LeadingCoordinates>,
}

/// The tiles of one task, and what becomes of them once they are packed.
struct Hand<'a> {
    tiles: Vec<&'a Vec<u32>>,
    group: Option<TileGroup>,
}

impl<'a> Cascade<'a> {
    /// Whether pyramids of this shape have a coarse level that stands for many fine cells.
    pub(crate) fn suits(grids: &[LevelGrid], k: usize) -> bool {
        let coarsest = &grids[grids.len() - 1].shape;
        k <= MAX_K && coarsest.cells() * 2 <= grids[0].shape.cells()
    }

    pub(crate) fn new(request: &Request<'a>) -> Self {
        Self {
            request: *request,
            plan: CascadePlan::new(&request.context.grids),
        }
    }

    /// Prepares a query image.
    fn query<'q>(&'q self, job: &'q Job<'_>) -> PreparedQuery<'q> {
        let (set, grids) = (self.request.set, self.plan.grids);
        let centred = job
            .centred
            .get_or_init(|| CentredQuery::new(grids, &job.levels));
        let source = Source {
            grids,
            query_grids: grids,
            query: &job.levels,
            centred,
            selection: job.selection,
            window: self.request.options.window,
        };
        let fit = || leading_directions(set, grids, &centred.levels);
        let directions = (!self.plan.nested).then(fit);
        let coarse = CoarseQuery::new(set, &self.plan, &centred.levels, directions, source.window);
        let (image, max_norms) = (
            centred.centred_image(&job.levels),
            centred.query_max_norms(),
        );
        let leading = coarse.leading(set, grids, image, &max_norms);
        PreparedQuery {
            source,
            coarse,
            leading,
        }
    }

    /// How many gallery images are gone through together.
    fn images_per_round(&self, stride: usize) -> usize {
        let grids = self.plan.grids;
        let (finest, coarsest) = (grids[0].shape, grids[grids.len() - 1].shape);
        // Of nested levels nothing is held on the finest grid.
        let fine_values = if self.plan.nested {
            0
        } else {
            grids.len() + 1 + LeadingCoordinates::n_values(grids)
        };
        let values = coarsest.cells() * stride + fine_values * finest.cells() + stride * 2;
        ROUND_BYTES / (size_of::<f32>() * values)
    }

    /// Compares gallery images with the query image by the coarsest level.
    fn compare_coarse(
        &self,
        query: &PreparedQuery<'_>,
        images: &[(u32, &StoredImage)],
        coarse_images: &mut [CoarseImage],
        buffers: &mut [Buffers],
    ) {
        let (set, grids) = (self.request.set, self.plan.grids);
        let centred = query.source.centred;
        let compare = |buffers: &mut Buffers, (to, image): (&mut _, &(u32, &StoredImage))| {
            let levels = image.1.levels();
            let image_of = centred.centred_image(&levels);
            let max_norms = centred.max_norms(image.1.spheres(grids));
            let scratch = &mut buffers.coarse;
            compare_coarse(
                set,
                &self.plan,
                image_of,
                &query.coarse,
                max_norms,
                scratch,
                to,
            );
        };
        let tasks = coarse_images.iter_mut().zip(images).collect();
        run_tasks(buffers, tasks, self.request.options.cancel, compare);
    }

    /// Leads all tiles through the images of a round; returns their neighbours after the last one.
    fn search_round(
        &self,
        query: &PreparedQuery<'_>,
        round: &Round<'_>,
        hands: &mut [Hand<'_>],
        buffers: &mut [Buffers],
        is_last: bool,
    ) -> Vec<Vec<CellNeighbors>> {
        let (set, options) = (self.request.set, self.request.options);
        let work = |buffers: &mut Buffers, hand: &mut Hand<'_>| {
            let (source, leading) = (&query.source, query.leading.as_ref());
            let new = || TileGroup::new(source, &self.plan, set, leading, &hand.tiles, options);
            let group = hand.group.get_or_insert_with(new);
            group.search(round, buffers);
            if is_last {
                group.finish(source, options)
            } else {
                Vec::new()
            }
        };
        run_tasks(buffers, hands.iter_mut().collect(), options.cancel, work)
    }
}

impl JobMatcher for Cascade<'_> {
    type Buffers = Vec<Buffers>;

    fn buffers(&self) -> Vec<Buffers> {
        let threads = 0..self.request.threads;
        threads.map(|_| Buffers::default()).collect()
    }

    /// One query image at a time, as what the coarsest level tells of a gallery image serves all of its
    /// cells.
    fn division(&self, _: usize, n_cells: usize) -> Division {
        Division {
            cells_per_job: n_cells,
            jobs_at_once: 1,
        }
    }

    fn search(&self, buffers: &mut Vec<Buffers>, job: &mut Job<'_>) -> SearchStats {
        let Request {
            options,
            set,
            threads,
            ..
        } = self.request;
        let query = self.query(job);
        let images: Vec<(u32, &StoredImage)> = job.selection.images().collect();
        let tiles = tiles_of(self.plan.grids, set);
        let mut hands = deal(&tiles, threads);
        let per_round = self.images_per_round(query.coarse.stride);
        let per_round = per_round.clamp(1, images.len().max(1));
        let mut coarse_images: Vec<CoarseImage> = Vec::new();
        coarse_images.resize_with(per_round.min(images.len()), CoarseImage::default);
        let mut found = Vec::new();
        let mut left = images.len();
        for images in images.chunks(per_round) {
            left -= images.len();
            let coarse_images = &mut coarse_images[..images.len()];
            if hands.iter().any(Hand::is_pruning) {
                self.compare_coarse(&query, images, coarse_images, buffers);
            }
            let round = Round {
                source: &query.source,
                plan: &self.plan,
                set,
                stride: query.coarse.stride,
                images,
                coarse_images: &*coarse_images,
                options,
            };
            found = self.search_round(&query, &round, &mut hands, buffers, left == 0);
            if options.cancel.is_set() {
                return SearchStats::default();
            }
        }
        for (cell, neighbors) in found.into_iter().flatten() {
            job.results.put(cell as usize, neighbors.into_iter());
        }
        let mut total = SearchStats::default();
        for group in hands.iter().filter_map(|hand| hand.group.as_ref()) {
            total.add(&group.stats);
        }
        total
    }
}

impl Hand<'_> {
    /// Whether what the coarsest level tells is of use to its tiles.
    fn is_pruning(&self) -> bool {
        self.group.as_ref().is_none_or(|group| group.pruning)
    }
}

/// Deals out the tiles like cards, a hand for each thread, as each goes through all images: what is hard
/// to match, such as a defect, is spread over all hands.
fn deal(tiles: &[Vec<u32>], threads: usize) -> Vec<Hand<'_>> {
    let n_hands = tiles.len().min(threads);
    let hands = (0..n_hands).map(|hand| tiles.iter().skip(hand).step_by(n_hands));
    let new = |tiles: std::iter::StepBy<_>| Hand {
        tiles: tiles.collect(),
        group: None,
    };
    hands.map(new).collect()
}

/// The fine cells in the lanes of each tile: three patches of as many cells as a vector has lanes,
/// as square as may be.
fn tiles_of(grids: &[LevelGrid], set: InstructionSet) -> Vec<Vec<u32>> {
    let (height, width) = (grids[0].shape.height, grids[0].shape.width);
    let square = if set.width() >= 16 { PATCH_ROWS } else { 2 };
    let mut tall = square;
    while tall > height {
        tall /= 2;
    }
    let wide = set.width() / tall;
    let mut patches = Vec::new();
    for top in (0..height).step_by(tall) {
        for left in (0..width).step_by(wide) {
            let cells = (0..tall * wide).map(move |lane| {
                let (row, column) = (top + lane / wide, left + lane % wide);
                if row < height && column < width {
                    (row * width + column) as u32
                } else {
                    NO_QUERY
                }
            });
            patches.push(cells);
        }
    }
    let mut patches = patches.into_iter().peekable();
    let mut tiles = Vec::new();
    while patches.peek().is_some() {
        tiles.push(patches.by_ref().take(TILE_VECTORS).flatten().collect());
    }
    tiles
}
