//! The steps that follow: the finer levels, for the cells that are still in question.

use super::inputs::{CascadeImage, LevelCounts, TileQueries};
use super::level_cells::{LevelCells, dots, take_products};
use super::patch::{Packed4Queries, Patch};
use super::plan::{CascadePlan, Child};
use super::scratch::CascadeScratch;
use crate::kernels::simd::Lanes;
use crate::kernels::tile::Limits;

/// Adds one level to the sums of the entries, and keeps those that are still of interest: products
/// are taken once for each cell of the level, and interpolated.
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`.
#[expect(
    clippy::too_many_lines,
    reason = "an inner loop: its parts share registers and buffers"
)]
#[inline(always)]
pub(super) unsafe fn refine<L: Lanes, const CELLS: usize>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    level: usize,
    tile: TileQueries<'_>,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut LevelCounts,
) {
    let grid = &plan.grids[level];
    let (shape, fine_width) = (grid.shape, grid.columns.len());
    let CascadeScratch {
        entries: [entries, _],
        level_cells,
        flags,
        wanted,
        products,
        ..
    } = scratch;
    let level_cells = &mut level_cells[level];
    level_cells.reserve(shape.cells(), shape.channels);
    let centred_image = &image.centred_image;
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
        let mean = &centred_image.means[level][..shape.channels];
        for &cell in &*wanted {
            let (cells, channels) = (centred_image.levels[level], shape.channels);
            level_cells.centre(cells, (mean, centred_image.scale), channels, cell..cell + 1);
        }
        let from = tile
            .queries
            .level(level)
            .as_ptr()
            .add(patch.vector * L::WIDTH);
        let (values, to) = (level_cells.values.as_ptr(), products.as_mut_ptr());
        take_products::<L, CELLS>(from, shape.channels, values, wanted, to);

        let limit = patch.limit::<L>(tile.limits, level, 1.0);
        let sq_norms = image.coarse.sq_norms[level].as_ptr();
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
            let within = sum.not_above(limit);
            if within != 0 && patch.around.is_near(row, column, within) {
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
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`.
#[expect(
    clippy::too_many_lines,
    reason = "an inner loop: its parts share registers and buffers"
)]
#[inline(always)]
pub(super) unsafe fn refine_nested<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    level: usize,
    tile: TileQueries<'_>,
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut LevelCounts,
) {
    let (shape, parent) = (plan.grids[level].shape, plan.grids[level + 1].shape);
    let (tall, wide) = (shape.height / parent.height, shape.width / parent.width);
    let children = &plan.children[level];
    let CascadeScratch {
        entries: [entries, found],
        level_cells,
        ..
    } = scratch;
    let level_cells = &mut level_cells[level];
    level_cells.reserve(shape.cells(), shape.channels);
    let centred_image = &image.centred_image;
    let mean = &centred_image.means[level][..wide * shape.channels];
    found.len = 0;
    // SAFETY: as promised by the caller; the children of cells of the coarser level lie within this one,
    // each in one of them, so that there is room for all.
    unsafe {
        let limit = patch.limit::<L>(tile.limits, level, 1.0);
        let queries = tile
            .queries
            .level(level)
            .as_ptr()
            .add(patch.vector * L::WIDTH);
        for at in 0..entries.len {
            let before = entries.sums::<L>(at);
            let (top, left) = (
                entries.rows[at] as usize * tall,
                entries.columns[at] as usize * wide,
            );
            let first = top * shape.width + left;
            for row in 0..tall {
                let start = first + row * shape.width;
                let (cells, run) = (centred_image.levels[level], start..start + wide);
                level_cells.centre_and_measure(
                    cells,
                    (mean, centred_image.scale),
                    shape.channels,
                    run,
                );
            }
            let found = &mut *found;
            let mut push =
                |child: &Child, sum: L| found.push(top + child.row, left + child.column, sum);
            let family = Family {
                queries,
                level_cells,
                channels: shape.channels,
                first,
                before,
                limit,
            };
            let (packed4, rest) = children.as_chunks::<4>();
            for four in packed4 {
                family.add(four, &mut push);
            }
            for child in rest {
                family.add(&[*child], &mut push);
            }
        }
        let n_cells = (entries.len * tall * wide) as u64;
        counts.products[level] += n_cells;
        counts.vectors[level] += n_cells;
        counts.pairs[level] += n_cells * patch.n_queries;
    }
    scratch.entries.swap(0, 1);
}

/// What the children of one entry have in common.
struct Family<'a, L> {
    queries: *const f32,
    level_cells: &'a LevelCells,
    channels: usize,
    first: usize,
    before: L,
    limit: L,
}

impl<L: Lanes> Family<'_, L> {
    /// Adds a level to the sums of `N` children, and tells of those that are still of interest.
    ///
    /// # Safety
    /// As for `SearchPatches` in `descend.rs`; the children must exist, and be centred and measured.
    #[inline(always)]
    unsafe fn add<const N: usize>(&self, children: &[Child; N], mut found: impl FnMut(&Child, L)) {
        // SAFETY: as promised by the caller.
        unsafe {
            let cells = children.map(|child| self.first + child.offset);
            let values = self.level_cells.values.as_ptr();
            let products = dots::<L, N>(self.queries, self.channels, values, cells);
            for ((child, cell), product) in children.iter().zip(cells).zip(products) {
                let sq_norm = L::splat(*self.level_cells.sq_norms.get_unchecked(cell));
                let sum = self.before.add(sq_norm).add(product);
                if sum.not_above(self.limit) != 0 {
                    found(child, sum);
                }
            }
        }
    }
}

/// As [`refine_nested`], where the patch has few different queries on this level: each of them is
/// compared with the four cells in an entry at once.
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`.
#[inline(always)]
pub(super) unsafe fn refine_packed4<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    level: usize,
    (limits, queries): (&Limits, &Packed4Queries),
    patch: &Patch,
    scratch: &mut CascadeScratch,
    counts: &mut LevelCounts,
) {
    let (shape, parent) = (plan.grids[level].shape, plan.grids[level + 1].shape);
    let (tall, wide) = (shape.height / parent.height, shape.width / parent.width);
    let CascadeScratch {
        entries: [entries, found],
        packed4,
        ..
    } = scratch;
    let packed4 = &mut packed4[level];
    packed4.reserve(parent.cells(), shape.channels);
    let centred_image = &image.centred_image;
    let mean = &centred_image.means[level][..wide * shape.channels];
    found.len = 0;
    // SAFETY: as promised by the caller; the four cells lie within this level, and each in one of the
    // coarser cells, so that there is room for all.
    unsafe {
        let limit = queries.limits(patch.limit::<L>(limits, level, 1.0));
        for at in 0..entries.len {
            let (row, column) = (entries.rows[at] as usize, entries.columns[at] as usize);
            let (top, left) = (row * tall, column * wide);
            let (values, sq_norms) = packed4.centre(
                row * parent.width + column,
                centred_image.levels[level],
                (mean, centred_image.scale),
                shape.channels,
                (top..top + tall).map(|row| row * shape.width + left),
            );
            let before = entries.sums::<L>(at).permute(&queries.packing);
            // Four sums, as each multiplication waits for the one before it.
            let zero = L::splat(0.0);
            let mut sums = [before.add(L::repeat(sq_norms)), zero, zero, zero];
            let mut query = queries.queries.as_ptr();
            let (whole, rest) = values.as_chunks::<4>();
            for fours in whole {
                for (n, four) in fours.iter().enumerate() {
                    let query = L::load(query.add(n * L::WIDTH));
                    sums[n] = query.mul_add(L::repeat(four), sums[n]);
                }
                query = query.add(4 * L::WIDTH);
            }
            for four in rest {
                sums[0] = L::load(query).mul_add(L::repeat(four), sums[0]);
                query = query.add(L::WIDTH);
            }
            let sum = sums[0].add(sums[1]).add(sums[2].add(sums[3]));
            let within = sum.not_above(limit);
            if within == 0 {
                continue;
            }
            for (index, unpacking) in queries.unpacking.iter().enumerate() {
                if within & (FIRST_OF_FOUR << index) != 0 {
                    let child = plan.children[level][index];
                    found.push(top + child.row, left + child.column, sum.permute(unpacking));
                }
            }
        }
        counts.products[level] += entries.len as u64;
        counts.vectors[level] += entries.len as u64;
        counts.pairs[level] += 4 * entries.len as u64 * patch.n_queries;
    }
    scratch.entries.swap(0, 1);
}

/// The first of each four lanes.
const FIRST_OF_FOUR: u32 = 0x1111;
