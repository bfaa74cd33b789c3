//! The search of one query image.

use super::job::{Buffers, Round, TileGroup};
use crate::bounds::{CentredQuery, leading_directions};
use crate::error::Result;
use crate::gallery::{Selection, StoredImage};
use crate::kernels::cascade::{
    CascadePlan, CoarseImage, CoarseQuery, LeadingCoordinates, compare_coarse,
};
use crate::kernels::{InstructionSet, NO_QUERY, TILE_VECTORS};
use crate::parallel::run_tasks;
use crate::pyramid::{LevelData, LevelGrid};
use crate::search::options::{Options, Resources};
use crate::search::shortlist::Neighbor;
use crate::search::stats::SearchStats;
use crate::search::tile::Source;

/// Surveys are held for as many images as need about this many bytes.
const COARSE_BYTES: usize = 16 << 20;

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
) -> Result<SearchStats> {
    let Resources {
        instruction_set: set,
        threads,
    } = how;
    let centred = CentredQuery::new(grids, query);
    let source = Source {
        grids,
        query_grids: grids,
        query,
        centred: &centred,
        selection,
    };
    let plan = CascadePlan::new(grids);
    let coarsest = grids.len() - 1;
    let directions = (!plan.nested).then(|| leading_directions(set, grids, &centred.levels));
    let coarse_query = CoarseQuery::new(set, &plan, &centred.levels, directions);
    let max_norms = centred.query_max_norms();
    let leading = coarse_query.leading(set, grids, centred.centred_image(query), &max_norms);
    let images: Vec<(u32, &StoredImage)> = selection.images().collect();
    let mut workers: Vec<Buffers> = (0..threads).map(|_| Buffers::default()).collect();

    let tiles = tiles_of(grids, set);
    // One job for each thread, as each goes through all images. Tiles are dealt out like cards: what
    // is hard to match, such as a defect, is spread over all jobs.
    let n_jobs = tiles.len().min(threads);
    let hands = (0..n_jobs).map(|job| tiles.iter().skip(job).step_by(n_jobs));
    let mut jobs: Vec<(Vec<&Vec<u32>>, Option<TileGroup>)> =
        hands.map(|hand| (hand.collect(), None)).collect();

    // Of nested levels nothing is held on the finest grid.
    let fine_values = if plan.nested {
        0
    } else {
        grids.len() + 1 + LeadingCoordinates::n_values(grids)
    };
    let image_bytes = size_of::<f32>()
        * (grids[coarsest].shape.cells() * coarse_query.stride
            + fine_values * grids[0].shape.cells()
            + coarse_query.stride * 2);
    let per_round = (COARSE_BYTES / image_bytes).clamp(1, images.len().max(1));
    let mut coarse_images: Vec<CoarseImage> = Vec::new();
    coarse_images.resize_with(per_round.min(images.len()), CoarseImage::default);
    let n_rounds = images.len().div_ceil(per_round);
    for (index, round) in images.chunks(per_round).enumerate() {
        let coarse_images = &mut coarse_images[..round.len()];
        let prunes = |job: &Option<TileGroup>| job.as_ref().is_none_or(|job| job.pruning);
        if jobs.iter().any(|(_, job)| prunes(job)) {
            let compare = |worker: &mut Buffers, (to, image): (&mut _, &(u32, &StoredImage))| {
                let levels = image.1.levels();
                let centred_image = centred.centred_image(&levels);
                let max_norms = centred.max_norms(image.1.spheres(grids));
                let scratch = &mut worker.coarse;
                compare_coarse(
                    set,
                    &plan,
                    centred_image,
                    &coarse_query,
                    max_norms,
                    scratch,
                    to,
                );
            };
            let tasks = coarse_images.iter_mut().zip(round).collect();
            run_tasks(&mut workers, tasks, options.cancel, compare);
        }
        let round = Round {
            source: &source,
            plan: &plan,
            set,
            stride: coarse_query.stride,
            images: round,
            coarse_images: &*coarse_images,
            options,
        };
        let work = |worker: &mut Buffers,
                    (cells, job): &mut (Vec<&Vec<u32>>, Option<TileGroup>)| {
            let new = || TileGroup::new(&source, &plan, set, leading.as_ref(), cells, options);
            let job = job.get_or_insert_with(new);
            job.search(&round, worker);
            if index + 1 < n_rounds {
                return Vec::new();
            }
            job.finish(&source, options)
        };
        let found = run_tasks(
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
    let mut total = SearchStats::default();
    for job in jobs.iter().filter_map(|(_, job)| job.as_ref()) {
        total.add(&job.stats);
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
