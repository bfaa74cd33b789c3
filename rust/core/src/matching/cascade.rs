//! The cascade: levels from the coarsest to the finest, and only what the levels before leave.
//!
//! The images of a selection are taken some at a time. First each is *surveyed*
//! ([`crate::kernels::cascade::survey`]): the inner products of the coarsest level are taken, once for all
//! queries. Then patches of queries are led through the images in the order of their ids
//! ([`crate::kernels::cascade`]). What is found goes where the exhaustive matcher puts it, so
//! both give the same neighbours.
//!
//! A limit that is low from the start saves most work. Before its first image, each patch is compared
//! with the fine cells of the coarse cells that are nearest to its own; the k-th smallest distance
//! is no smaller than that of the k-th neighbour.
//!
//! Where nothing can be left out, the cascade is slower than comparing everything. Each job compares
//! what it does with what the exhaustive matcher would do, and goes on as that one when it is more.

use super::exhaustive::Scanner;
use super::tile::{Candidates, Searched, Source, Tile, TileHits};
use super::{Matcher, Options, Resources, Work};
use crate::bounds::QueryFrame;
use crate::bounds::leading_directions;
use crate::error::Result;
use crate::gallery::Selection;
use crate::gallery::StoredImage;
use crate::kernels::cascade::{
    CascadeImage, CascadeScratch, Counts, Leading, Patch, PatchHits, Plan, Survey, SurveyQuery,
    SurveyScratch, TileQueries, distances, search_patches, survey,
};
use crate::kernels::{Hits, InstructionSet, NO_QUERY, TILE_VECTORS};
use crate::parallel::run;
use crate::pyramid::{LevelData, LevelGrid};
use crate::topk::Neighbor;

/// Surveys are held for as many images as need about this many bytes.
const SURVEY_BYTES: usize = 16 << 20;

/// For more neighbours than this the limits are too high to leave out much.
const MAX_K: usize = 64;

/// Whether pyramids of this shape have a coarse level that stands for many fine cells.
pub(super) fn suits(grids: &[LevelGrid], k: usize) -> bool {
    let coarsest = &grids[grids.len() - 1].shape;
    k <= MAX_K && coarsest.cells() * 2 <= grids[0].shape.cells()
}

/// The neighbours of one query cell.
type Found = (u32, Vec<Neighbor>);

/// Finds the neighbours of all cells of one query image, and the work it took.
pub(super) fn search_image(
    grids: &[LevelGrid],
    query: &[LevelData<'_>],
    selection: &Selection,
    options: &Options<'_>,
    how: Resources,
    mut put: impl FnMut(u32, &mut dyn Iterator<Item = Neighbor>),
) -> Result<Work> {
    let Resources {
        instruction_set: set,
        threads,
    } = how;
    let frame = QueryFrame::new(grids, query);
    let source = Source {
        grids,
        query_grids: grids,
        query,
        frame: &frame,
        selection,
    };
    let plan = Plan::new(grids);
    let coarsest = grids.len() - 1;
    let directions = (!plan.nested).then(|| leading_directions(set, grids, &frame.centred));
    let survey_query = SurveyQuery::new(set, &plan, &frame.centred, directions);
    let max_norms = frame.query_max_norms();
    let leading = survey_query.leading(set, grids, frame.framed(query), &max_norms);
    let images: Vec<(u32, &StoredImage)> = selection.images().collect();
    let mut workers: Vec<Worker> = (0..threads).map(|_| Worker::default()).collect();

    let tiles = tiles_of(grids, set);
    // One job for each thread, as each goes through all images. Tiles are dealt out like cards: what
    // is hard to match, such as a defect, is spread over all jobs.
    let n_jobs = tiles.len().min(threads);
    let hands = (0..n_jobs).map(|job| tiles.iter().skip(job).step_by(n_jobs));
    let mut jobs: Vec<(Vec<&Vec<u32>>, Option<Job>)> =
        hands.map(|hand| (hand.collect(), None)).collect();

    // Of nested levels nothing is held on the finest grid.
    let fine_values = if plan.nested {
        0
    } else {
        grids.len() + 1 + Leading::n_values(grids)
    };
    let image_bytes = size_of::<f32>()
        * (grids[coarsest].shape.cells() * survey_query.stride
            + fine_values * grids[0].shape.cells()
            + survey_query.stride * 2);
    let per_round = (SURVEY_BYTES / image_bytes).clamp(1, images.len().max(1));
    let mut surveys: Vec<Survey> = Vec::new();
    surveys.resize_with(per_round.min(images.len()), Survey::default);
    let n_rounds = images.len().div_ceil(per_round);
    for (index, round) in images.chunks(per_round).enumerate() {
        let surveys = &mut surveys[..round.len()];
        let prunes = |job: &Option<Job>| job.as_ref().is_none_or(|job| job.pruning);
        if jobs.iter().any(|(_, job)| prunes(job)) {
            let survey_image =
                |worker: &mut Worker, (to, image): (&mut _, &(u32, &StoredImage))| {
                    let levels = image.1.levels();
                    let framed = frame.framed(&levels);
                    let max_norms = frame.max_norms(image.1.spheres(grids));
                    let scratch = &mut worker.survey;
                    survey(set, &plan, framed, &survey_query, max_norms, scratch, to);
                };
            let tasks = surveys.iter_mut().zip(round).collect();
            run(&mut workers, tasks, options.cancel, survey_image);
        }
        let round = Round {
            source: &source,
            plan: &plan,
            set,
            stride: survey_query.stride,
            images: round,
            surveys: &*surveys,
            options,
        };
        let work = |worker: &mut Worker, (cells, job): &mut (Vec<&Vec<u32>>, Option<Job>)| {
            let new = || Job::new(&source, &plan, set, leading.as_ref(), cells, options);
            let job = job.get_or_insert_with(new);
            job.search(&round, worker);
            if index + 1 < n_rounds {
                return Vec::new();
            }
            job.finish(&source, options)
        };
        let found = run(
            &mut workers,
            jobs.iter_mut().collect(),
            options.cancel,
            work,
        );
        options.cancel.check()?;
        for (cell, neighbors) in found.into_iter().flatten() {
            put(cell, &mut neighbors.into_iter());
        }
    }
    let mut total = Work::default();
    for job in jobs.iter().filter_map(|(_, job)| job.as_ref()) {
        total.add(&job.work);
    }
    Ok(total)
}

/// The fine cells in the lanes of each tile: three patches of as many cells as a vector has lanes,
/// as square as may be.
fn tiles_of(grids: &[LevelGrid], set: InstructionSet) -> Vec<Vec<u32>> {
    let (height, width) = (grids[0].shape.height, grids[0].shape.width);
    let square = if set.width() >= 16 { 4 } else { 2 };
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

/// The buffers of one thread.
#[derive(Default)]
struct Worker {
    survey: SurveyScratch,
    cascade: CascadeScratch,
    scanner: Scanner,
}

/// Images that are gone through together.
struct Round<'a> {
    source: &'a Source<'a>,
    plan: &'a Plan<'a>,
    set: InstructionSet,
    stride: usize,
    images: &'a [(u32, &'a StoredImage)],
    surveys: &'a [Survey],
    options: &'a Options<'a>,
}

/// Some tiles of the query image, and what was found for them so far.
struct Job {
    tiles: Vec<Tile>,
    candidates: Vec<Candidates>,
    patches: Vec<Patch>,
    /// Whether levels are still looked at one by one.
    pruning: bool,
    seeded: bool,
    work: Work,
}

impl Job {
    fn new(
        source: &Source<'_>,
        plan: &Plan<'_>,
        set: InstructionSet,
        leading: Option<&Leading>,
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
            candidates: tiles.iter().map(|_| Candidates::new(options.k)).collect(),
            tiles,
            patches,
            pruning: true,
            seeded: false,
            work: Work::default(),
        }
    }

    /// Looks through the images of a round.
    fn search(&mut self, round: &Round<'_>, worker: &mut Worker) {
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
            self.work.pairs += n_pairs;
            if self.pruning {
                let counts = self.descend(round, &round.surveys[index], &image, worker);
                for (level, &pairs) in counts.pairs.iter().enumerate().rev() {
                    self.work.count(&format!("level {level}"), pairs);
                }
                self.pruning =
                    round.options.matcher == Matcher::Pruned || self.is_worth_it(round, &counts);
            } else {
                self.work.count("exhaustive", n_pairs);
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
        survey: &Survey,
        image: &Searched<'_>,
        worker: &mut Worker,
    ) -> Counts {
        let (source, set) = (round.source, round.set);
        let mut hits = JobHits(
            self.tiles
                .iter()
                .zip(&mut self.candidates)
                .map(|(tile, candidates)| TileHits {
                    source,
                    image,
                    tile,
                    errors: tile.errors(source.grids, &survey.max_norms),
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
            framed: source.frame.framed(image.levels),
            survey,
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
    fn is_worth_it(&self, round: &Round<'_>, counts: &Counts) -> bool {
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
    fn seed(&mut self, round: &Round<'_>, worker: &mut Worker) {
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
            let mut nearest: Vec<(f32, usize, u32)> = (round.surveys.iter().enumerate())
                .map(|(image, survey)| (survey.nearest[corner].0, image, survey.nearest[corner].1))
                .collect();
            if nearest.len() > n_seeds {
                nearest.select_nth_unstable_by(n_seeds, |x, y| x.0.total_cmp(&y.0));
                nearest.truncate(n_seeds);
            }
            let tile = &mut self.tiles[patch.tile];
            let lanes = patch.vector * width..(patch.vector + 1) * width;
            sums.clear();
            for (_, image, cell) in nearest {
                let survey = &round.surveys[image];
                let errors = tile.errors(grids, &survey.max_norms);
                let first = sums.len();
                let levels = round.images[image].1.levels();
                let image = CascadeImage {
                    framed: round.source.frame.framed(&levels),
                    survey,
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
    fn finish(&mut self, source: &Source<'_>, options: &Options<'_>) -> Vec<Found> {
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

struct JobHits<'a>(Vec<TileHits<'a>>);

impl PatchHits for JobHits<'_> {
    fn hit(&mut self, tile: usize, lane: usize, cell: usize, s: f32) {
        self.0[tile].hit(lane, cell, s);
    }
}
