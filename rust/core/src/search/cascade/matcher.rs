//! The search of one query image.

use super::job::{Job, Round, Worker};
use crate::bounds::{QueryFrame, leading_directions};
use crate::error::Result;
use crate::gallery::{Selection, StoredImage};
use crate::kernels::cascade::{Leading, Plan, Survey, SurveyQuery, survey};
use crate::kernels::{InstructionSet, NO_QUERY, TILE_VECTORS};
use crate::parallel::run;
use crate::pyramid::{LevelData, LevelGrid};
use crate::search::options::{Options, Resources};
use crate::search::shortlist::Neighbor;
use crate::search::stats::Work;
use crate::search::tile::Source;

/// Surveys are held for as many images as need about this many bytes.
const SURVEY_BYTES: usize = 16 << 20;

/// For more neighbours than this the limits are too high to leave out much.
const MAX_K: usize = 64;

/// Whether pyramids of this shape have a coarse level that stands for many fine cells.
pub(crate) fn suits(grids: &[LevelGrid], k: usize) -> bool {
    let coarsest = &grids[grids.len() - 1].shape;
    k <= MAX_K && coarsest.cells() * 2 <= grids[0].shape.cells()
}

/// Finds the neighbours of all cells of one query image, and the work it took.
pub(crate) fn search_image(
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
