//! The scan: one tile of queries against all cells of one gallery image.
//!
//! For query `p` and cell `q` it computes the *partial distance*
//! `s(p, q) = |v_q|^2 - 2 <u_p, v_q>`, the squared distance less `|u_p|^2`, which is the same for
//! all cells. `u` and `v` are upsampled, concatenated features; neither `v` nor a matrix of
//! distances is ever held. The inner product splits by level, and on a coarse level upsampling is
//! linear, so products are taken once per *coarse* gallery cell and then interpolated:
//!
//! ```text
//! for each fine row of the gallery image
//!     for each coarse level: products of the (at most two) coarse rows under it, kept for the
//!         fine rows that follow; then their vertical blend
//!     for each block of fine cells: |v|^2 + horizontal blends + product of the finest level
//! ```

use super::instruction_set::{InstructionSet, TILE_VECTORS};
use super::prepare::PreparedImage;
use super::product::add_products;
use super::simd::{Kernel, Lanes, is_not_above, run_kernel};
use super::tile::{Limits, MAX_TILE, QueryTile};
use crate::pyramid::{Area, LevelGrid};
use std::ops::Range;

/// Receives every pair whose partial distance is not above the limit of its query.
pub(crate) trait Hits {
    /// Query `lane` and fine cell `cell` have partial distance `s`; may lower the query's limit.
    fn hit(&mut self, lane: usize, cell: usize, s: f32);
}

/// Working memory of a scan, kept between scans.
#[derive(Default)]
pub(crate) struct ScanScratch {
    levels: Vec<LevelScratch>,
}

/// Products of a coarse level: two coarse rows, in the slot of their parity, and their blend.
#[derive(Default)]
struct LevelScratch {
    rows: [Vec<f32>; 2],
    held: [usize; 2],
    blend: Vec<f32>,
}

const NOTHING: usize = usize::MAX;

impl ScanScratch {
    /// Makes room for the coarse levels and forgets the products of the last image.
    fn reserve(&mut self, grids: &[LevelGrid], tile_width: usize) {
        self.levels.resize_with(grids.len(), LevelScratch::default);
        for (scratch, grid) in self.levels.iter_mut().zip(grids).skip(1) {
            let len = grid.shape.width * tile_width;
            for buffer in scratch.rows.iter_mut().chain([&mut scratch.blend]) {
                buffer.resize(len, 0.0);
            }
            scratch.held = [NOTHING; 2];
        }
    }
}

/// Compares every query of a tile with every cell of an area of a prepared image; calls `hits` for each pair
/// whose partial distance does not exceed the query's limit.
pub(crate) fn scan_image(
    set: InstructionSet,
    grids: &[LevelGrid],
    (tile, area): (&QueryTile, &Area),
    image: &PreparedImage,
    scratch: &mut ScanScratch,
    limits: &Limits,
    hits: &mut dyn Hits,
) {
    let finest = &grids[0].shape;
    assert!(area.rows.end <= finest.height && area.columns.end <= finest.width);
    image.check(grids);
    tile.check(grids, set);
    scratch.reserve(grids, tile.width);
    let kernel = ScanImage {
        grids,
        tile,
        area,
        image,
        scratch,
        limits,
        hits,
    };
    // SAFETY: all sizes were checked.
    unsafe { run_kernel(set, kernel) }
}

/// See [`scan_image`]; its parts rely on the sizes that are checked there.
struct ScanImage<'a> {
    grids: &'a [LevelGrid],
    tile: &'a QueryTile,
    area: &'a Area,
    image: &'a PreparedImage,
    scratch: &'a mut ScanScratch,
    limits: &'a Limits,
    hits: &'a mut dyn Hits,
}

impl Kernel for ScanImage<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            grids,
            tile,
            area,
            image,
            scratch,
            limits,
            hits,
        } = self;
        for row in area.rows.clone() {
            let coarse = grids
                .iter()
                .zip(&tile.levels)
                .zip(&image.levels)
                .zip(&mut scratch.levels)
                .skip(1);
            for (((grid, queries), features), scratch) in coarse {
                // SAFETY: as promised by the caller.
                unsafe { blend_row::<L, CELLS>(grid, (area, row), queries, features, scratch) };
            }
            let (mut column, end) = (area.columns.start, area.columns.end);
            while column < end {
                let block = Block {
                    grids,
                    tile,
                    image,
                    scratch,
                    limits,
                    row,
                    column,
                };
                // SAFETY: as promised by the caller; `column + n <= end` for the `n` chosen.
                column += unsafe {
                    match end - column {
                        left if left >= CELLS => block.scan::<L, CELLS>(hits),
                        4.. => block.scan::<L, 4>(hits),
                        2.. => block.scan::<L, 2>(hits),
                        _ => block.scan::<L, 1>(hits),
                    }
                };
            }
        }
    }
}

/// Leaves in `scratch.blend` the products of all queries with the coarse row interpolated at the
/// fine row `row`, as far as the columns of the area need it. Rows of an area come in order.
#[inline(always)]
unsafe fn blend_row<L: Lanes, const CELLS: usize>(
    grid: &LevelGrid,
    (area, row): (&Area, usize),
    queries: &[f32],
    features: &[f32],
    scratch: &mut LevelScratch,
) {
    let tap = grid.rows[row];
    if row > area.rows.start && grid.rows[row - 1] == tap {
        return; // the blend of the row before is the blend of this one
    }
    let (width, channels) = (grid.shape.width, grid.shape.channels);
    let columns = coarse_columns(grid, &area.columns);
    let lanes = TILE_VECTORS * L::WIDTH;
    for coarse in [tap.first, tap.second] {
        if scratch.held[coarse % 2] != coarse {
            scratch.held[coarse % 2] = coarse;
            let features = &features[(coarse * width + columns.start) * channels..];
            let slot = &mut scratch.rows[coarse % 2][columns.start * lanes..];
            // SAFETY: as promised by the caller; the slot holds `width` tiles.
            unsafe { products::<L, CELLS>(queries, channels, features, columns.len(), slot) };
        }
    }
    let first = scratch.rows[tap.first % 2].as_ptr();
    let second = scratch.rows[tap.second % 2].as_ptr();
    let blend = scratch.blend.as_mut_ptr();
    // SAFETY: all three buffers hold `width` tiles, a multiple of `L::WIDTH` floats.
    unsafe {
        let (a, b) = (
            L::splat((1.0 - tap.second_weight) as f32),
            L::splat(tap.second_weight as f32),
        );
        for at in (columns.start * lanes..columns.end * lanes).step_by(L::WIDTH) {
            let value = L::load(first.add(at)).mul(a);
            let value = if tap.second_weight == 0.0 {
                value
            } else {
                L::load(second.add(at)).mul_add(b, value)
            };
            value.store(blend.add(at));
        }
    }
}

/// The columns of a level that some columns of the finest level are interpolated from.
fn coarse_columns(grid: &LevelGrid, fine: &Range<usize>) -> Range<usize> {
    let taps = &grid.columns[fine.clone()];
    match (taps.first(), taps.last()) {
        (Some(first), Some(last)) => first.first..last.second + 1,
        _ => 0..0,
    }
}

/// Inner products of all queries with `n_cells` consecutive cells, as `[cell][query]`.
#[inline(always)]
unsafe fn products<L: Lanes, const CELLS: usize>(
    queries: &[f32],
    channels: usize,
    features: &[f32],
    n_cells: usize,
    out: &mut [f32],
) {
    let mut cell = 0;
    while cell < n_cells {
        // SAFETY: as promised by the caller; `cell + n <= n_cells` for the `n` chosen.
        cell += unsafe {
            let features = features.as_ptr().add(cell * channels);
            let out = out.as_mut_ptr().add(cell * TILE_VECTORS * L::WIDTH);
            match n_cells - cell {
                left if left >= CELLS => {
                    products_of_block::<L, CELLS>(queries.as_ptr(), channels, features, out)
                }
                4.. => products_of_block::<L, 4>(queries.as_ptr(), channels, features, out),
                2.. => products_of_block::<L, 2>(queries.as_ptr(), channels, features, out),
                _ => products_of_block::<L, 1>(queries.as_ptr(), channels, features, out),
            }
        };
    }
}

#[inline(always)]
unsafe fn products_of_block<L: Lanes, const N: usize>(
    queries: *const f32,
    channels: usize,
    features: *const f32,
    out: *mut f32,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut sums = [[L::splat(0.0); TILE_VECTORS]; N];
        add_products(queries, channels, features, channels, &mut sums);
        for (cell, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                sum.store(out.add((cell * TILE_VECTORS + vector) * L::WIDTH));
            }
        }
    }
    N
}

/// `N` fine cells of one row, from `column` on.
struct Block<'a> {
    grids: &'a [LevelGrid],
    tile: &'a QueryTile,
    image: &'a PreparedImage,
    scratch: &'a ScanScratch,
    limits: &'a Limits,
    row: usize,
    column: usize,
}

impl Block<'_> {
    /// Partial distances of all queries to the block's cells; reports the hits; returns `N`.
    #[expect(
        clippy::too_many_lines,
        reason = "an inner loop: its parts share registers and buffers"
    )]
    #[inline(always)]
    unsafe fn scan<L: Lanes, const N: usize>(&self, hits: &mut dyn Hits) -> usize {
        let finest = &self.grids[0].shape;
        let cell = self.row * finest.width + self.column;
        // SAFETY: as promised by the caller; `column + N <= width`.
        unsafe {
            let mut sums = [[L::splat(0.0); TILE_VECTORS]; N];
            for (n, sums) in sums.iter_mut().enumerate() {
                let sq_norm = L::splat(*self.image.sq_norms.get_unchecked(cell + n));
                let mut held = [sq_norm; TILE_VECTORS];
                for (grid, scratch) in self.grids.iter().zip(&self.scratch.levels).skip(1) {
                    let blend = scratch.blend.as_ptr();
                    let tap = grid.columns.get_unchecked(self.column + n);
                    let first = blend.add(tap.first * TILE_VECTORS * L::WIDTH);
                    let weight = L::splat((1.0 - tap.second_weight) as f32);
                    for (vector, sum) in held.iter_mut().enumerate() {
                        *sum = L::load(first.add(vector * L::WIDTH)).mul_add(weight, *sum);
                    }
                    if tap.second_weight != 0.0 {
                        let second = blend.add(tap.second * TILE_VECTORS * L::WIDTH);
                        let weight = L::splat(tap.second_weight as f32);
                        for (vector, sum) in held.iter_mut().enumerate() {
                            *sum = L::load(second.add(vector * L::WIDTH)).mul_add(weight, *sum);
                        }
                    }
                }
                *sums = held;
            }
            let features = self.image.levels[0].as_ptr().add(cell * finest.channels);
            add_products(
                self.tile.levels[0].as_ptr(),
                finest.channels,
                features,
                finest.channels,
                &mut sums,
            );

            let limits = self.limits.as_ptr().cast::<f32>(); // `Cell<f32>` has the layout of `f32`
            let limits = [
                L::load(limits),
                L::load(limits.add(L::WIDTH)),
                L::load(limits.add(2 * L::WIDTH)),
            ];
            let mut within = [0; N];
            for (within, sums) in within.iter_mut().zip(&sums) {
                for (sum, limit) in sums.iter().zip(limits) {
                    *within |= sum.not_above(limit);
                }
            }
            if within.iter().any(|&mask| mask != 0) {
                for n in 0..N {
                    if within[n] != 0 {
                        let mut values = [0.0; MAX_TILE];
                        for (vector, sum) in sums[n].iter().enumerate() {
                            sum.store(values.as_mut_ptr().add(vector * L::WIDTH));
                        }
                        report(
                            &values[..TILE_VECTORS * L::WIDTH],
                            cell + n,
                            self.limits,
                            hits,
                        );
                    }
                }
            }
        }
        N
    }
}

/// The rare path: reports the queries of one cell whose partial distance is within the limit.
#[cold]
fn report(values: &[f32], cell: usize, limits: &Limits, hits: &mut dyn Hits) {
    for (lane, &s) in values.iter().enumerate() {
        if is_not_above(s, limits[lane].get()) {
            hits.hit(lane, cell, s);
        }
    }
}
