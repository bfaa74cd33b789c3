//! The cascade: which fine cells of a gallery image can be near a patch of queries.
//!
//! The squared distance of a pair is a sum over levels, `|u - v|^2 = sum_l |u_l - v_l|^2`, so a partial
//! distance that leaves out some levels is too small by what they add. With `s` as in
//! [`super::scan`], a pair whose levels from `l` on add up to
//!
//! ```text
//! s_l = sum over l' >= l of |v_l'|^2 - 2 <u_l', v_l'>,       s_0 = s
//! ```
//!
//! has `s >= s_l - sum over l' < l of |u_l'|^2`, as each level left out adds
//! `|v|^2 - 2 <u, v> = |u - v|^2 - |u|^2 >= -|u|^2`. Where `s_l` exceeds the query's limit by more than
//! these norms, the finer levels need not be looked at. The coarsest level is looked at first: its
//! inner products were taken once per pair of *coarse* cells ([`super::survey`]), and the fine
//! cells between the same coarse cells are first tried together.
//!
//! **The bound for cells between the same coarse cells.** There `v = sum_j w_j g_j` over (at most)
//! four coarse features, with weights that are positive and sum to 1. Two bounds follow for any `u`:
//!
//! ```text
//! |v|^2 - 2 <u, v> = sum_j w_j (|g_j|^2 - 2 <u, g_j>) - (sum_j w_j |g_j|^2 - |v|^2)
//!                 >= min_j (|g_j|^2 - 2 <u, g_j>) - spread
//! |v|^2 - 2 <u, v> = |v|^2 + sum_j w_j (-2 <u, g_j>)
//!                 >= least |v|^2 + min_j (-2 <u, g_j>)
//! ```
//!
//! where `spread` is the largest value of the last bracket, and `least |v|^2` the smallest norm, among
//! these cells; both are known from the survey. The cells are passed over when either bound is above
//! the limit, for every query of the patch.
//!
//! A patch is as many queries as a vector has lanes, close together in the image, so that they need
//! much the same gallery cells: what only one of them needs is computed for all.
//!
//! What rounding adds is covered by `error`, a bound on the error of any sum of levels of `s`
//! ([`crate::matching`]); the limits hold it once already, and it is added once more for the
//! rounding of the norms, three times more for the bounds of blocks, which combine three such sums.

use super::prepare::{centre_into, dot};
use super::scan::{Limits, QueryTile};
use super::survey::Survey;
use super::{InstructionSet, Lanes, MAX_TILE, MAX_WIDTH, TILE_VECTORS};
use crate::pyramid::{LevelData, LevelGrid, Tap};
use std::ops::Range;

/// Fine rows (or columns) between the same two coarse ones.
pub(crate) struct Band {
    pub fine: Range<usize>,
    pub first: usize,
    pub second: usize,
}

impl Band {
    fn table(taps: &[Tap]) -> Vec<Self> {
        let mut bands: Vec<Self> = Vec::new();
        for (fine, tap) in taps.iter().enumerate() {
            match bands.last_mut() {
                Some(band) if band.first == tap.first => {
                    band.fine.end = fine + 1;
                    band.second = band.second.max(tap.second);
                }
                _ => bands.push(Self {
                    fine: fine..fine + 1,
                    first: tap.first,
                    second: tap.second,
                }),
            }
        }
        bands
    }
}

/// How images of a shape are gone through.
pub(crate) struct Plan {
    /// Whether every fine cell lies in one cell of each level (block upsampling). Levels are then
    /// summed up on their own grids, each cell for all the finer cells in it; otherwise on the
    /// finest grid.
    pub nested: bool,
    /// Fine rows by the rows of the coarsest level that they lie between.
    pub bands: Vec<Band>,
    /// The same for columns.
    pub segments: Vec<Band>,
    /// Where the fine rows and columns of each level come from.
    taps: Vec<(Vec<FastTap>, Vec<FastTap>)>,
}

/// A [`Tap`] as the kernels want it.
#[derive(Clone, Copy)]
struct FastTap {
    first: usize,
    /// From the first cell to the second: 0 where they are the same.
    step: usize,
    first_weight: f32,
    second_weight: f32,
}

impl FastTap {
    /// `stride` is the number of cells from one row, or column, to the next.
    fn table(taps: &[Tap], stride: usize) -> Vec<Self> {
        let fast = |tap: &Tap| Self {
            first: tap.first * stride,
            step: (tap.second - tap.first) * stride,
            first_weight: (1.0 - tap.second_weight) as f32,
            second_weight: tap.second_weight as f32,
        };
        taps.iter().map(fast).collect()
    }
}

impl Plan {
    pub(crate) fn new(grids: &[LevelGrid]) -> Self {
        let is_nested = |taps: &[Tap], coarse: usize| {
            let ratio = taps.len() / coarse;
            let mut taps = taps.iter().enumerate();
            taps.all(|(fine, tap)| tap.second_weight == 0.0 && tap.first == fine / ratio)
        };
        let coarsest = &grids[grids.len() - 1];
        Self {
            nested: grids.iter().all(|grid| {
                is_nested(&grid.rows, grid.shape.height)
                    && is_nested(&grid.columns, grid.shape.width)
            }),
            bands: Band::table(&coarsest.rows),
            segments: Band::table(&coarsest.columns),
            taps: grids
                .iter()
                .map(|grid| {
                    let rows = FastTap::table(&grid.rows, grid.shape.width);
                    (rows, FastTap::table(&grid.columns, 1))
                })
                .collect(),
        }
    }
}

/// A cell of the coarsest level of the query, and its weight in each query of a patch.
struct Corner {
    cell: usize,
    /// Where its products with the first cell of a gallery image are.
    at: usize,
    weights: [f32; MAX_WIDTH],
}

/// A vector of queries.
pub(crate) struct Patch {
    /// The tile that holds it, and which vector of the tile it is.
    pub tile: usize,
    pub vector: usize,
    corners: Vec<Corner>,
    /// `[level]`: the sum of the squared norms of all finer levels.
    finer_sq_norms: Vec<[f32; MAX_WIDTH]>,
    /// See the module.
    error: [f32; MAX_WIDTH],
    /// `-2 <u, g>` for two rows of the coarsest level of the gallery image, in the slot of their parity.
    rows: [Vec<f32>; 2],
    held: [usize; 2],
    n_queries: u64,
}

const NOTHING: usize = usize::MAX;

impl Patch {
    /// The patch in one vector of a tile whose lanes hold the queries at these fine cells, if any.
    pub(crate) fn new(
        grids: &[LevelGrid],
        set: InstructionSet,
        (tile, vector): (usize, usize),
        cells: &[u32; MAX_TILE],
        sq_norms: &[[f32; MAX_TILE]],
    ) -> Self {
        let lanes = vector * set.width()..(vector + 1) * set.width();
        let grid = &grids[grids.len() - 1];
        let fine_width = grid.columns.len();
        let mut corners: Vec<Corner> = Vec::new();
        let mut n_queries = 0;
        for (lane, &cell) in cells[lanes.clone()].iter().enumerate() {
            if cell == u32::MAX {
                continue;
            }
            n_queries += 1;
            let (row, column) = (cell as usize / fine_width, cell as usize % fine_width);
            let (down, across) = (
                grid.rows[row].second_weight,
                grid.columns[column].second_weight,
            );
            let weights = [
                (1.0 - down) * (1.0 - across),
                (1.0 - down) * across,
                down * (1.0 - across),
                down * across,
            ];
            for (at, weight) in grid.corners(row, column).into_iter().zip(weights) {
                if weight == 0.0 {
                    continue;
                }
                let known = corners.iter().position(|corner| corner.cell == at);
                let known = known.unwrap_or_else(|| {
                    let (width, n_cells) = (set.width(), grid.shape.cells());
                    corners.push(Corner {
                        cell: at,
                        at: at / width * width * n_cells + at % width,
                        weights: [0.0; MAX_WIDTH],
                    });
                    corners.len() - 1
                });
                corners[known].weights[lane] += weight as f32;
            }
        }
        let mut sum = [0.0; MAX_WIDTH];
        let mut finer_sq_norms = Vec::with_capacity(grids.len());
        for level in sq_norms {
            finer_sq_norms.push(sum);
            for (sum, sq_norm) in sum.iter_mut().zip(&level[lanes.clone()]) {
                *sum += sq_norm;
            }
        }
        let len = grid.shape.width * set.width();
        Self {
            tile,
            vector,
            corners,
            finer_sq_norms,
            error: [0.0; MAX_WIDTH],
            rows: [vec![0.0; len], vec![0.0; len]],
            held: [NOTHING; 2],
            n_queries,
        }
    }

    /// The cell of the coarsest level in which most of the patch lies.
    pub(crate) fn main_corner(&self) -> Option<usize> {
        let weight = |corner: &Corner| corner.weights.iter().sum::<f32>();
        let main = self
            .corners
            .iter()
            .max_by(|x, y| weight(x).total_cmp(&weight(y)));
        main.map(|corner| corner.cell)
    }

    /// Makes ready for another gallery image, in which the lanes of the tile have these errors.
    pub(crate) fn start(&mut self, set: InstructionSet, errors: &[f32; MAX_TILE]) {
        let lanes = &errors[self.vector * set.width()..][..set.width()];
        self.error[..lanes.len()].copy_from_slice(lanes);
        self.held = [NOTHING; 2];
    }
}

/// The work that was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    /// Pairs of which the sum from this level on was computed (on the grid on which it is summed up).
    pub pairs: Vec<u64>,
    /// Vectors of such pairs.
    pub vectors: Vec<u64>,
    /// Vectors of inner products taken on this level.
    pub products: Vec<u64>,
}

impl Counts {
    pub(crate) fn new(n_levels: usize) -> Self {
        Self {
            pairs: vec![0; n_levels],
            vectors: vec![0; n_levels],
            products: vec![0; n_levels],
        }
    }
}

/// Cells that are still in question, and for each the sums of the levels so far, of all lanes.
#[derive(Default)]
struct Entries {
    rows: Vec<u32>,
    columns: Vec<u32>,
    sums: Vec<f32>,
    len: usize,
}

impl Entries {
    fn reserve(&mut self, len: usize, width: usize) {
        if self.rows.len() < len {
            self.rows.resize(len, 0);
            self.columns.resize(len, 0);
        }
        if self.sums.len() < len * width {
            self.sums.resize(len * width, 0.0);
        }
    }

    /// # Safety
    /// There must be room.
    #[inline(always)]
    unsafe fn push<L: Lanes>(&mut self, row: usize, column: usize, sums: L) {
        debug_assert!(self.len < self.rows.len());
        // SAFETY: as promised by the caller.
        unsafe {
            *self.rows.get_unchecked_mut(self.len) = row as u32;
            *self.columns.get_unchecked_mut(self.len) = column as u32;
            sums.store(self.sums.as_mut_ptr().add(self.len * L::WIDTH));
        }
        self.len += 1;
    }

    #[inline(always)]
    unsafe fn sums<L: Lanes>(&self, at: usize) -> L {
        debug_assert!(at < self.len);
        // SAFETY: the caller stays below `len`.
        unsafe { L::load(self.sums.as_ptr().add(at * L::WIDTH)) }
    }
}

/// The cells of one level of the gallery image, each centred when it is first asked for.
#[derive(Default)]
struct NativeCells {
    values: Vec<f32>,
    sq_norms: Vec<f32>,
    /// The use in which each cell was centred.
    ready: Vec<u32>,
    use_number: u32,
    started: bool,
}

impl NativeCells {
    /// Makes ready for another image.
    fn start(&mut self, n_cells: usize, channels: usize) {
        self.started = true;
        next_use(&mut self.use_number, &mut self.ready, n_cells, |ready| {
            *ready = 0
        });
        if self.sq_norms.len() < n_cells {
            self.sq_norms.resize(n_cells, 0.0);
        }
        if self.values.len() < n_cells * channels {
            self.values.resize(n_cells * channels, 0.0);
        }
    }

    /// Centres all cells at once; their norms are not computed.
    #[inline(always)]
    fn centre_all(&mut self, cells: LevelData<'_>, mean: &[f32], scale: f32, channels: usize) {
        centre_into(cells, mean, scale, &mut self.values[..cells.len()]);
        self.ready[..cells.len() / channels].fill(self.use_number);
    }

    /// Makes sure that a run of cells is centred, and their norms known. Runs are always the same.
    #[inline(always)]
    unsafe fn centre<L: Lanes>(
        &mut self,
        cells: LevelData<'_>,
        mean: &[f32],
        scale: f32,
        channels: usize,
        run: Range<usize>,
    ) {
        if self.ready[run.start] != self.use_number {
            self.ready[run.start] = self.use_number;
            let values = run.start * channels..run.end * channels;
            let out = &mut self.values[values.clone()];
            centre_into(cells.slice(values.start, values.len()), mean, scale, out);
            let out = out.chunks_exact(channels);
            for (sq_norm, cell) in self.sq_norms[run].iter_mut().zip(out) {
                // SAFETY: the caller has the instruction set.
                *sq_norm = unsafe { dot::<L>(cell, cell) };
            }
        }
    }
}

/// Counts up the use of some cells, and makes room for them; what was noted of a use is out of date in
/// the next. 0 is no use.
fn next_use<T: Clone + Default>(
    number: &mut u32,
    notes: &mut Vec<T>,
    len: usize,
    reset: impl Fn(&mut T),
) {
    if notes.len() < len {
        notes.resize(len, T::default());
    }
    *number = number.wrapping_add(1);
    if *number == 0 {
        notes.iter_mut().for_each(reset);
        *number = 1;
    }
}

/// Working memory of the cascade, kept between images.
#[derive(Default)]
pub(crate) struct CascadeScratch {
    entries: [Entries; 2],
    native: Vec<NativeCells>,
    surviving: Vec<u32>,
    /// Whether the products of a cell of a level are wanted; all false between uses.
    flags: Vec<bool>,
    /// Cells that products are taken of, and the products.
    wanted: Vec<usize>,
    products: Vec<f32>,
    order: Vec<u32>,
    /// For each cell of the coarsest level of the query, the largest limit of the patches in it, and
    /// the cells of the gallery image that may be within it.
    corner_limits: Vec<f32>,
    corner_cells: Vec<Vec<u32>>,
}

impl CascadeScratch {
    /// Forgets the cells of the last image.
    pub(crate) fn start_image(&mut self, grids: &[LevelGrid]) {
        self.native.resize_with(grids.len(), NativeCells::default);
        for native in &mut self.native {
            native.started = false;
        }
    }
}

/// The gallery image that is being gone through.
pub(crate) struct CascadeImage<'a> {
    pub levels: &'a [LevelData<'a>],
    pub means: &'a [Vec<f32>],
    pub scale: f32,
    pub survey: &'a Survey,
    /// Of the products in the survey.
    pub stride: usize,
}

/// A tile of queries and their limits.
pub(crate) type TileQueries<'a> = (&'a QueryTile, &'a Limits);

/// Is told of every pair whose partial distance is not above the limit of its query, for each
/// query in ascending order of cells.
pub(crate) trait PatchHits {
    fn hit(&mut self, tile: usize, lane: usize, cell: usize, s: f32);
}

kernel! {
    /// See [`search_patches`].
    fn search_patches_on(
        plan: &Plan,
        grids: &[LevelGrid],
        image: &CascadeImage<'_>,
        tiles: &[TileQueries<'_>],
        patches: &mut [Patch],
        scratch: &mut CascadeScratch,
        counts: &mut Counts,
        hits: &mut dyn PatchHits,
    ) = search_patches_of
}

/// Compares all patches with the cells of a gallery image.
#[allow(clippy::too_many_arguments)] // those of the kernel
pub(crate) fn search_patches(
    set: InstructionSet,
    plan: &Plan,
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    tiles: &[TileQueries<'_>],
    patches: &mut [Patch],
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
    hits: &mut dyn PatchHits,
) {
    let coarsest = grids[grids.len() - 1].shape;
    let survey = image.survey;
    for (tile, _) in tiles {
        tile.check(grids, set);
    }
    for (grid, level) in grids.iter().zip(image.levels) {
        assert_eq!(level.len(), grid.shape.values());
    }
    assert_eq!(survey.products.len(), coarsest.cells() * image.stride);
    assert_eq!(survey.coarse_sq_norms.len(), coarsest.cells());
    if !plan.nested {
        for sq_norms in &survey.sq_norms[1..] {
            assert_eq!(sq_norms.len(), grids[0].shape.cells());
        }
        let blocks = plan.bands.len() * plan.segments.len();
        assert!(survey.spreads.len() == blocks && survey.least_sq_norms.len() == blocks);
    }
    for patch in &*patches {
        assert!(patch.tile < tiles.len() && patch.vector < TILE_VECTORS);
        let row = coarsest.width * set.width();
        assert!(patch.rows.iter().all(|values| values.len() == row));
        let corners = patch.corners.iter();
        assert!(
            corners
                .map(|corner| corner.cell)
                .all(|cell| cell < image.stride)
        );
        assert_eq!(patch.finer_sq_norms.len(), grids.len());
    }
    for entries in &mut scratch.entries {
        entries.reserve(grids[0].shape.cells(), set.width());
    }
    // SAFETY: all sizes were checked; there is room for an entry for each fine cell.
    unsafe {
        search_patches_on(
            set, plan, grids, image, tiles, patches, scratch, counts, hits,
        );
    }
}

/// See the module.
///
/// # Safety
/// The instruction set of `L` must be available, and the sizes those that [`search_patches`] checks.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn search_patches_of<L: Lanes, const CELLS: usize>(
    plan: &Plan,
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    tiles: &[TileQueries<'_>],
    patches: &mut [Patch],
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
    hits: &mut dyn PatchHits,
) {
    let coarsest = grids.len() - 1;
    if plan.nested {
        // SAFETY: as promised by the caller.
        unsafe { sift_corners::<L>(grids, image, tiles, patches, scratch) };
    }
    for patch in patches.iter_mut() {
        let (queries, limits) = tiles[patch.tile];
        // SAFETY: as promised by the caller.
        unsafe {
            if plan.nested {
                sift_nested::<L>(grids, image, limits, patch, scratch, counts);
            } else {
                sift::<L>(plan, grids, image, limits, patch, scratch, counts);
            }
            for level in (0..coarsest).rev() {
                if scratch.entries[0].len == 0 {
                    break;
                }
                start_level(plan, grids, image, level, &mut scratch.native[level]);
                if plan.nested {
                    refine_nested::<L>(
                        grids, image, level, queries, limits, patch, scratch, counts,
                    );
                } else {
                    refine::<L, CELLS>(
                        plan, grids, image, level, queries, limits, patch, scratch, counts,
                    );
                }
            }
            report::<L>(plan, grids[0].shape.width, limits, patch, scratch, hits);
        }
    }
}

/// The largest sum of the levels from `level` on with which a pair is still of interest; `errors` says
/// how many times the error is added.
#[inline(always)]
unsafe fn limit_of<L: Lanes>(limits: &Limits, patch: &Patch, level: usize, errors: f32) -> L {
    // SAFETY: a tile has room for three vectors; `Cell<f32>` has the layout of `f32`.
    unsafe {
        let limit = L::load(limits.as_ptr().cast::<f32>().add(patch.vector * L::WIDTH));
        let finer = L::load(patch.finer_sq_norms[level].as_ptr());
        let error = L::load(patch.error.as_ptr());
        error.mul_add(L::splat(errors), limit.add(finer))
    }
}

/// For patches that lie in one coarse cell, the coarse cells of the gallery image that may be of
/// interest: as many patches at once as a vector has lanes.
#[inline(always)]
unsafe fn sift_corners<L: Lanes>(
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    tiles: &[TileQueries<'_>],
    patches: &[Patch],
    scratch: &mut CascadeScratch,
) {
    let coarsest = grids.len() - 1;
    let CascadeScratch {
        corner_limits,
        corner_cells,
        ..
    } = scratch;
    corner_limits.clear();
    corner_limits.resize(image.stride, f32::NEG_INFINITY);
    corner_cells.resize_with(image.stride, Vec::new);
    let (mut first, mut end) = (image.stride, 0);
    for patch in patches {
        if let [corner] = &patch.corners[..] {
            let mut lanes = [f32::NEG_INFINITY; MAX_WIDTH];
            // SAFETY: as promised by the caller.
            unsafe {
                let limit = limit_of::<L>(tiles[patch.tile].1, patch, coarsest, 1.0);
                limit.store(lanes.as_mut_ptr());
            }
            // A limit is NaN only where everything is of interest.
            let larger = |x: f32, y: f32| if y.is_nan() { f32::INFINITY } else { x.max(y) };
            let limit = &mut corner_limits[corner.cell];
            *limit = lanes.into_iter().fold(*limit, larger);
            first = first.min(corner.cell);
            end = end.max(corner.cell + 1);
        }
    }
    if first >= end {
        return;
    }
    let (first, end) = (first - first % L::WIDTH, end.next_multiple_of(L::WIDTH));
    corner_cells[first..end].iter_mut().for_each(Vec::clear);
    let n_cells = grids[coarsest].shape.cells();
    for start in (first..end).step_by(L::WIDTH) {
        for cell in 0..n_cells {
            // SAFETY: there is a vector of products for each vector of corners and each cell.
            let mut within = unsafe {
                let at = start * n_cells + cell * L::WIDTH;
                let products = L::load(image.survey.products.as_ptr().add(at));
                let sq_norm = L::splat(*image.survey.coarse_sq_norms.as_ptr().add(cell));
                let limits = L::load(corner_limits.as_ptr().add(start));
                products.add(sq_norm).not_above(limits)
            };
            while within != 0 {
                let lane = within.trailing_zeros() as usize;
                within &= within - 1;
                corner_cells[start + lane].push(cell as u32);
            }
        }
    }
}

/// Makes sure that the products of all queries of the patch with one row of the coarsest level of the
/// gallery image are there; returns the slot.
#[inline(always)]
unsafe fn hold_row<L: Lanes>(
    image: &CascadeImage<'_>,
    width: usize,
    row: usize,
    patch: &mut Patch,
) -> usize {
    let slot = row % 2;
    if patch.held[slot] != row {
        patch.held[slot] = row;
        let mut column = 0;
        while column < width {
            // SAFETY: as promised by the caller; `column + N <= width`.
            unsafe {
                let products = image.survey.products.as_ptr();
                let products = products.add((row * width + column) * L::WIDTH);
                let out = patch.rows[slot].as_mut_ptr().add(column * L::WIDTH);
                column += match width - column {
                    4.. => weigh::<L, 4>(products, &patch.corners, out),
                    2.. => weigh::<L, 2>(products, &patch.corners, out),
                    _ => weigh::<L, 1>(products, &patch.corners, out),
                };
            }
        }
    }
    slot
}

/// The products of the queries of a patch with `N` cells, from those of the cells around them.
#[inline(always)]
unsafe fn weigh<L: Lanes, const N: usize>(
    products: *const f32,
    corners: &[Corner],
    out: *mut f32,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut sums = [L::splat(0.0); N];
        for corner in corners {
            let weights = L::load(corner.weights.as_ptr());
            for (n, sum) in sums.iter_mut().enumerate() {
                let product = L::splat(*products.add(n * L::WIDTH + corner.at));
                *sum = weights.mul_add(product, *sum);
            }
        }
        for (n, sum) in sums.iter().enumerate() {
            sum.store(out.add(n * L::WIDTH));
        }
    }
    N
}

/// The coarsest level, when fine cells lie between coarse ones: blocks first, then cells.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn sift<L: Lanes>(
    plan: &Plan,
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    limits: &Limits,
    patch: &mut Patch,
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
) {
    let coarsest = grids.len() - 1;
    let grid = &grids[coarsest];
    let (width, fine_width) = (grid.shape.width, grid.columns.len());
    let entries = &mut scratch.entries[0];
    entries.len = 0;
    let mut n_cells = 0;
    for (band, rows) in plan.bands.iter().enumerate() {
        // SAFETY: as promised by the caller; segments and bands lie within the grid.
        unsafe {
            let first = hold_row::<L>(image, width, rows.first, patch);
            let second = hold_row::<L>(image, width, rows.second, patch);
            let (first, second) = (patch.rows[first].as_ptr(), patch.rows[second].as_ptr());
            let sq_norms = image.survey.coarse_sq_norms.as_ptr();
            let (first_norms, second_norms) = (
                sq_norms.add(rows.first * width),
                sq_norms.add(rows.second * width),
            );
            let spreads = image
                .survey
                .spreads
                .as_ptr()
                .add(band * plan.segments.len());
            let least = image
                .survey
                .least_sq_norms
                .as_ptr()
                .add(band * plan.segments.len());

            let limit = limit_of::<L>(limits, patch, coarsest, 4.0);
            scratch.surviving.clear();
            for (index, segment) in plan.segments.iter().enumerate() {
                let (left, right) = (segment.first, segment.second);
                let corners = [
                    L::load(first.add(left * L::WIDTH)),
                    L::load(first.add(right * L::WIDTH)),
                    L::load(second.add(left * L::WIDTH)),
                    L::load(second.add(right * L::WIDTH)),
                ];
                let smallest = corners[0].min(corners[1]).min(corners[2].min(corners[3]));
                let mut within = smallest.add(L::splat(*least.add(index))).not_above(limit);
                if within == 0 {
                    continue;
                }
                let corners = [
                    corners[0].add(L::splat(*first_norms.add(left))),
                    corners[1].add(L::splat(*first_norms.add(right))),
                    corners[2].add(L::splat(*second_norms.add(left))),
                    corners[3].add(L::splat(*second_norms.add(right))),
                ];
                let smallest = corners[0].min(corners[1]).min(corners[2].min(corners[3]));
                within &= smallest
                    .add(L::splat(-*spreads.add(index)))
                    .not_above(limit);
                if within != 0 {
                    scratch.surviving.push(index as u32);
                }
            }
            if scratch.surviving.is_empty() {
                continue;
            }

            let limit = limit_of::<L>(limits, patch, coarsest, 1.0);
            let sq_norms = image.survey.sq_norms[coarsest].as_ptr();
            for row in rows.fine.clone() {
                let down = grid.rows.get_unchecked(row).second_weight as f32;
                let (upper, lower) = (L::splat(1.0 - down), L::splat(down));
                let blend = |column: usize| {
                    let (a, b) = (
                        L::load(first.add(column * L::WIDTH)),
                        L::load(second.add(column * L::WIDTH)),
                    );
                    b.mul_add(lower, a.mul(upper))
                };
                for &index in &scratch.surviving {
                    let segment = plan.segments.get_unchecked(index as usize);
                    let (left, right) = (blend(segment.first), blend(segment.second));
                    n_cells += segment.fine.len();
                    let mut column = segment.fine.start;
                    while column < segment.fine.end {
                        let ends = (left, right);
                        let taps = grid.columns.as_ptr().add(column);
                        let sq_norms = sq_norms.add(row * fine_width + column);
                        let at = (row, column);
                        column += match segment.fine.end - column {
                            4.. => sift_cells::<L, 4>(ends, taps, sq_norms, limit, at, entries),
                            2.. => sift_cells::<L, 2>(ends, taps, sq_norms, limit, at, entries),
                            _ => sift_cells::<L, 1>(ends, taps, sq_norms, limit, at, entries),
                        };
                    }
                }
            }
        }
    }
    counts.vectors[coarsest] += n_cells as u64;
    counts.pairs[coarsest] += n_cells as u64 * patch.n_queries;
}

/// `N` cells of one row, from `at` on, between the ends of a segment.
#[inline(always)]
unsafe fn sift_cells<L: Lanes, const N: usize>(
    (left, right): (L, L),
    taps: *const Tap,
    sq_norms: *const f32,
    limit: L,
    at: (usize, usize),
    entries: &mut Entries,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut sums = [left; N];
        let mut within = [0; N];
        for n in 0..N {
            let across = (*taps.add(n)).second_weight as f32;
            let sum = left.mul_add(L::splat(1.0 - across), L::splat(*sq_norms.add(n)));
            sums[n] = right.mul_add(L::splat(across), sum);
            within[n] = sums[n].not_above(limit);
        }
        if within.iter().fold(0, |any, within| any | within) != 0 {
            for n in 0..N {
                if within[n] != 0 {
                    entries.push(at.0, at.1 + n, sums[n]);
                }
            }
        }
    }
    N
}

/// The coarsest level, when each fine cell lies in one coarse cell.
#[inline(always)]
unsafe fn sift_nested<L: Lanes>(
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    limits: &Limits,
    patch: &mut Patch,
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
) {
    let coarsest = grids.len() - 1;
    let shape = grids[coarsest].shape;
    let CascadeScratch {
        entries: [entries, _],
        corner_cells,
        ..
    } = scratch;
    entries.len = 0;
    // SAFETY: as promised by the caller.
    unsafe {
        let sq_norms = image.survey.coarse_sq_norms.as_ptr();
        if let [corner] = &patch.corners[..] {
            // All queries lie in one coarse cell, and differ only in their limits.
            let cells = &corner_cells[corner.cell];
            if cells.is_empty() {
                return;
            }
            let limit = limit_of::<L>(limits, patch, coarsest, 1.0);
            let products = image.survey.products.as_ptr().add(corner.at);
            for &cell in cells {
                let cell = cell as usize;
                let sum = L::splat(*sq_norms.add(cell) + *products.add(cell * L::WIDTH));
                if sum.not_above(limit) != 0 {
                    entries.push(cell / shape.width, cell % shape.width, sum);
                }
            }
        } else {
            let limit = limit_of::<L>(limits, patch, coarsest, 1.0);
            for row in 0..shape.height {
                let slot = hold_row::<L>(image, shape.width, row, patch);
                let products = patch.rows[slot].as_ptr();
                for column in 0..shape.width {
                    let sq_norm = L::splat(*sq_norms.add(row * shape.width + column));
                    let sum = L::load(products.add(column * L::WIDTH)).add(sq_norm);
                    if sum.not_above(limit) != 0 {
                        entries.push(row, column, sum);
                    }
                }
            }
        }
    }
    counts.vectors[coarsest] += shape.cells() as u64;
    counts.pairs[coarsest] += shape.cells() as u64 * patch.n_queries;
}

/// Makes ready for the cells of one level to be asked for. Of a level that is interpolated most are,
/// for one patch or another; of others few.
#[inline(always)]
fn start_level(
    plan: &Plan,
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    level: usize,
    native: &mut NativeCells,
) {
    if !native.started {
        let shape = grids[level].shape;
        native.start(shape.cells(), shape.channels);
        if level > 0 && !plan.nested {
            let (mean, scale) = (&image.means[level], image.scale);
            native.centre_all(image.levels[level], mean, scale, shape.channels);
        }
    }
}

/// Inner products of the patch with some cells of one level; of the cell `wanted[i]` they are left at
/// `place(i, wanted[i])`.
#[inline(always)]
unsafe fn take_products<L: Lanes, const CELLS: usize>(
    queries: *const f32,
    channels: usize,
    features: *const f32,
    wanted: &[usize],
    products: *mut f32,
    place: impl Fn(usize, usize) -> usize + Copy,
) {
    let mut at = 0;
    while at < wanted.len() {
        // SAFETY: as promised by the caller; `at + N <= wanted.len()`.
        unsafe {
            let cells = wanted.as_ptr().add(at);
            let place = |i, cell| products.add(place(at + i, cell) * L::WIDTH);
            at += match wanted.len() - at {
                left if left >= CELLS => {
                    take::<L, CELLS>(queries, channels, features, cells, place)
                }
                4.. => take::<L, 4>(queries, channels, features, cells, place),
                2.. => take::<L, 2>(queries, channels, features, cells, place),
                _ => take::<L, 1>(queries, channels, features, cells, place),
            };
        }
    }
}

#[inline(always)]
unsafe fn take<L: Lanes, const N: usize>(
    queries: *const f32,
    channels: usize,
    features: *const f32,
    cells: *const usize,
    place: impl Fn(usize, usize) -> *mut f32,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let cells = *cells.cast::<[usize; N]>();
        let starts = cells.map(|cell| features.add(cell * channels));
        let mut sums = [L::splat(0.0); N];
        for channel in 0..channels {
            let query = L::load(queries.add(channel * TILE_VECTORS * L::WIDTH));
            for (sum, feature) in sums.iter_mut().zip(starts) {
                *sum = query.mul_add(L::splat(*feature.add(channel)), *sum);
            }
        }
        for (i, (sum, cell)) in sums.iter().zip(cells).enumerate() {
            sum.store(place(i, cell));
        }
    }
    N
}

/// Adds one level to the sums of the entries, and keeps those that are still of interest: products
/// are taken once for each cell of the level, and interpolated.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn refine<L: Lanes, const CELLS: usize>(
    plan: &Plan,
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    level: usize,
    queries: &QueryTile,
    limits: &Limits,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
) {
    let grid = &grids[level];
    let (shape, fine_width) = (grid.shape, grid.columns.len());
    let CascadeScratch {
        entries: [entries, _],
        native,
        flags,
        wanted,
        products,
        ..
    } = scratch;
    let native = &mut native[level];
    if flags.len() < shape.cells() {
        flags.resize(shape.cells(), false);
    }
    if products.len() < shape.cells() * L::WIDTH {
        products.resize(shape.cells() * L::WIDTH, 0.0);
    }
    let (rows, columns) = &plan.taps[level];
    let (mut lowest, mut highest) = (usize::MAX, 0);
    // SAFETY: rows and columns of entries lie within the grid, cells of taps within the level, for
    // which there are flags and products; the rest as promised by the caller.
    unsafe {
        for at in 0..entries.len {
            let row = rows.get_unchecked(*entries.rows.get_unchecked(at) as usize);
            let column = columns.get_unchecked(*entries.columns.get_unchecked(at) as usize);
            let first = row.first + column.first;
            *flags.get_unchecked_mut(first) = true;
            *flags.get_unchecked_mut(first + column.step) = true;
            *flags.get_unchecked_mut(first + row.step) = true;
            *flags.get_unchecked_mut(first + row.step + column.step) = true;
            lowest = lowest.min(first);
            highest = highest.max(first + row.step + column.step);
        }
        wanted.clear();
        for (cell, flag) in (lowest..).zip(&mut flags[lowest..=highest]) {
            if *flag {
                *flag = false;
                wanted.push(cell);
            }
        }
        if level == 0 {
            let mean = &image.means[level][..shape.channels];
            for &cell in &*wanted {
                let (cells, channels) = (image.levels[level], shape.channels);
                native.centre::<L>(cells, mean, image.scale, channels, cell..cell + 1);
            }
        }
        let from = queries.level(level).as_ptr().add(patch.vector * L::WIDTH);
        let (values, to) = (native.values.as_ptr(), products.as_mut_ptr());
        take_products::<L, CELLS>(from, shape.channels, values, wanted, to, |_, cell| cell);

        let limit = limit_of::<L>(limits, patch, level, 1.0);
        // The finest level is not interpolated: its norms are those of its cells.
        let sq_norms = if level == 0 {
            native.sq_norms.as_ptr()
        } else {
            image.survey.sq_norms[level].as_ptr()
        };
        let n_entries = entries.len;
        entries.len = 0;
        for at in 0..n_entries {
            let (row, column) = (
                *entries.rows.get_unchecked(at) as usize,
                *entries.columns.get_unchecked(at) as usize,
            );
            let (down, across) = (rows.get_unchecked(row), columns.get_unchecked(column));
            let first = products
                .as_ptr()
                .add((down.first + across.first) * L::WIDTH);
            let second = first.add(down.step * L::WIDTH);
            let step = across.step * L::WIDTH;
            let (left, right) = (
                L::splat(across.first_weight),
                L::splat(across.second_weight),
            );
            let top = L::load(first.add(step)).mul_add(right, L::load(first).mul(left));
            let bottom = L::load(second.add(step)).mul_add(right, L::load(second).mul(left));
            let sq_norm = *sq_norms.add(row * fine_width + column);
            let before = L::load(entries.sums.as_ptr().add(at * L::WIDTH));
            let sum = before.add(L::splat(sq_norm));
            let sum = top.mul_add(L::splat(down.first_weight), sum);
            let sum = bottom.mul_add(L::splat(down.second_weight), sum);
            if sum.not_above(limit) != 0 {
                entries.push(row, column, sum);
            }
        }
        counts.products[level] += wanted.len() as u64;
        counts.vectors[level] += n_entries as u64;
        counts.pairs[level] += n_entries as u64 * patch.n_queries;
    }
}

/// Replaces the entries by the cells of the next finer level that lie in them, adds that level, and
/// keeps those that are still of interest.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn refine_nested<L: Lanes>(
    grids: &[LevelGrid],
    image: &CascadeImage<'_>,
    level: usize,
    queries: &QueryTile,
    limits: &Limits,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut Counts,
) {
    let (shape, parent) = (grids[level].shape, grids[level + 1].shape);
    let (tall, wide) = (shape.height / parent.height, shape.width / parent.width);
    let CascadeScratch {
        entries: [entries, found],
        native,
        wanted,
        products,
        ..
    } = scratch;
    let native = &mut native[level];
    let mean = &image.means[level][..wide * shape.channels];
    found.len = 0;
    if products.len() < tall * wide * L::WIDTH {
        products.resize(tall * wide * L::WIDTH, 0.0);
    }
    // SAFETY: as promised by the caller; the children of cells under the band lie under it too.
    unsafe {
        let limit = limit_of::<L>(limits, patch, level, 1.0);
        let from = queries.level(level).as_ptr().add(patch.vector * L::WIDTH);
        for at in 0..entries.len {
            let before = entries.sums::<L>(at);
            let (top, left) = (
                entries.rows[at] as usize * tall,
                entries.columns[at] as usize * wide,
            );
            wanted.clear();
            for row in top..top + tall {
                let first = row * shape.width + left;
                let (cells, channels) = (image.levels[level], shape.channels);
                native.centre::<L>(cells, mean, image.scale, channels, first..first + wide);
                wanted.extend(first..first + wide);
            }
            let (values, to) = (native.values.as_ptr(), products.as_mut_ptr());
            take_products::<L, 4>(from, shape.channels, values, wanted, to, |at, _| at);
            for (child, &cell) in wanted.iter().enumerate() {
                let product = L::load(products.as_ptr().add(child * L::WIDTH));
                let sq_norm = L::splat(*native.sq_norms.as_ptr().add(cell));
                let sum = before.add(sq_norm).add(product);
                if sum.not_above(limit) != 0 {
                    found.push(top + child / wide, left + child % wide, sum);
                }
            }
        }
        let n_cells = (entries.len * tall * wide) as u64;
        counts.products[level] += n_cells;
        counts.vectors[level] += n_cells;
        counts.pairs[level] += n_cells * patch.n_queries;
    }
    scratch.entries.swap(0, 1);
}

/// Tells of the pairs that are left, in ascending order of cells.
#[inline(always)]
unsafe fn report<L: Lanes>(
    plan: &Plan,
    fine_width: usize,
    limits: &Limits,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    hits: &mut dyn PatchHits,
) {
    let CascadeScratch { entries, order, .. } = scratch;
    let entries = &entries[0];
    order.clear();
    order.extend(0..entries.len as u32);
    let cell = |at: u32| {
        entries.rows[at as usize] as usize * fine_width + entries.columns[at as usize] as usize
    };
    if plan.nested {
        order.sort_unstable_by_key(|at| cell(*at));
    }
    for &at in &*order {
        let first = patch.vector * L::WIDTH;
        let limit_at = limits.as_ptr().cast::<f32>();
        // SAFETY: as in `limit_of`; `at` is below the number of entries.
        let mut within = unsafe {
            entries
                .sums::<L>(at as usize)
                .not_above(L::load(limit_at.add(first)))
        };
        while within != 0 {
            let lane = within.trailing_zeros() as usize;
            within &= within - 1;
            let s = entries.sums[at as usize * L::WIDTH + lane];
            hits.hit(patch.tile, first + lane, cell(at), s);
        }
    }
}

kernel! {
    /// See [`distances`].
    fn distances_on(
        grids: &[LevelGrid],
        levels: &[LevelData<'_>],
        means: &[Vec<f32>],
        scale: f32,
        cells: &[u32],
        queries: &QueryTile,
        vector: usize,
        scratch: &mut DistanceScratch,
        out: &mut Vec<f32>,
    ) = distances_of
}

/// Working memory of [`distances`].
#[derive(Default)]
pub(crate) struct DistanceScratch {
    corner: Vec<f32>,
    features: Vec<f32>,
    wanted: Vec<usize>,
    products: Vec<f32>,
}

/// Appends the partial distances of one vector of queries to some fine cells of a gallery image.
#[allow(clippy::too_many_arguments)] // those of the kernel
pub(crate) fn distances(
    set: InstructionSet,
    grids: &[LevelGrid],
    levels: &[LevelData<'_>],
    means: &[Vec<f32>],
    scale: f32,
    cells: &[u32],
    queries: &QueryTile,
    vector: usize,
    scratch: &mut DistanceScratch,
    out: &mut Vec<f32>,
) {
    queries.check(grids, set);
    assert!(vector < TILE_VECTORS);
    // SAFETY: the tile is of this instruction set and shape; everything else is indexed.
    unsafe {
        distances_on(
            set, grids, levels, means, scale, cells, queries, vector, scratch, out,
        );
    }
}

/// # Safety
/// The instruction set of `L` must be available, and the sizes those that [`distances`] checks.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn distances_of<L: Lanes, const CELLS: usize>(
    grids: &[LevelGrid],
    levels: &[LevelData<'_>],
    means: &[Vec<f32>],
    scale: f32,
    cells: &[u32],
    queries: &QueryTile,
    vector: usize,
    scratch: &mut DistanceScratch,
    out: &mut Vec<f32>,
) {
    let DistanceScratch {
        corner,
        features,
        wanted,
        products,
    } = scratch;
    let first = out.len();
    out.resize(first + cells.len() * L::WIDTH, 0.0);
    let fine_width = grids[0].shape.width;
    for (level, (grid, data)) in grids.iter().zip(levels).enumerate() {
        let channels = grid.shape.channels;
        corner.resize(channels, 0.0);
        features.clear();
        features.resize(cells.len() * channels, 0.0);
        for (cell, feature) in cells.iter().zip(features.chunks_exact_mut(channels)) {
            let (row, column) = (*cell as usize / fine_width, *cell as usize % fine_width);
            let (down, across) = (
                grid.rows[row].second_weight as f32,
                grid.columns[column].second_weight as f32,
            );
            let weights = [
                (1.0 - down) * (1.0 - across),
                (1.0 - down) * across,
                down * (1.0 - across),
                down * across,
            ];
            for (at, weight) in grid.corners(row, column).into_iter().zip(weights) {
                if weight != 0.0 {
                    let values = data.slice(at * channels, channels);
                    centre_into(values, &means[level][..channels], scale, corner);
                    for (feature, value) in feature.iter_mut().zip(&*corner) {
                        *feature += weight * value;
                    }
                }
            }
        }
        wanted.clear();
        wanted.extend(0..cells.len());
        products.resize(cells.len() * L::WIDTH, 0.0);
        // SAFETY: as promised by the caller; from each place on there are `channels` values.
        unsafe {
            let from = queries.level(level).as_ptr().add(vector * L::WIDTH);
            let (values, to) = (features.as_ptr(), products.as_mut_ptr());
            take_products::<L, CELLS>(from, channels, values, wanted, to, |at, _| at);
        }
        for (at, feature) in features.chunks_exact(channels).enumerate() {
            // SAFETY: the instruction set is there.
            let sq_norm = unsafe { dot::<L>(feature, feature) };
            let out = &mut out[first + at * L::WIDTH..][..L::WIDTH];
            for (out, product) in out.iter_mut().zip(&products[at * L::WIDTH..]) {
                *out += sq_norm + product;
            }
        }
    }
}
