//! The first step of a patch: the coarsest level, whose products are in the [`CoarseImage`](super::coarse::CoarseImage).

use super::coarse_rows::cached_row;
use super::inputs::{CascadeImage, LevelCounts, TileQueries};
use super::leading::{self, LeadingCoordinates};
use super::patch::Patch;
use super::plan::{CascadePlan, FastTap, PlannedArea};
use super::scratch::{CascadeScratch, Entries};
use crate::kernels::simd::{Lanes, MAX_WIDTH};
use crate::kernels::tile::Limits;
use crate::pyramid::Area;

/// The coarsest level, when fine cells lie between coarse ones: blocks first, then cells.
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`.
#[expect(
    clippy::too_many_lines,
    reason = "an inner loop: its parts share registers and buffers"
)]
#[inline(always)]
pub(super) unsafe fn filter_cells<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    limits: &Limits,
    patch: &mut Patch,
    scratch: &mut CascadeScratch,
    counts: &mut LevelCounts,
) {
    let coarsest = plan.grids.len() - 1;
    let grid = &plan.grids[coarsest];
    let (width, fine_width) = (grid.shape.width, grid.columns.len());
    let CascadeScratch {
        entries: [entries, _],
        surviving,
        products: lows,
        ..
    } = scratch;
    entries.len = 0;
    if lows.len() < width * L::WIDTH {
        lows.resize(width * L::WIDTH, 0.0);
    }
    let mut n_cells = 0;
    let (area, bands) = (patch.around.area.clone(), patch.around.bands.clone());
    for band in bands {
        // SAFETY: as promised by the caller; segments and bands lie within the grid.
        unsafe {
            let rows = plan.bands.get_unchecked(band);
            let held = [rows.first, rows.second].map(|row| {
                let slot = cached_row::<L>(image, width, row, patch);
                patch.rows[slot].as_ptr()
            });
            let limit = patch.limit::<L>(limits, coarsest, 4.0);
            filter_blocks(
                plan,
                image,
                (band, &patch.around),
                held,
                limit,
                lows,
                surviving,
            );
            if surviving.is_empty() {
                continue;
            }
            let limits = (
                patch.limit::<L>(limits, coarsest, 1.0),
                patch.limit::<L>(limits, 0, leading::ERRORS),
            );
            let sq_norms = image.coarse.sq_norms[coarsest].as_ptr();
            let (_, columns) = &plan.taps[coarsest];
            let (first, end) = (rows.fine.start, rows.fine.end);
            for row in first.max(area.rows.start)..end.min(area.rows.end) {
                let down = grid.rows.get_unchecked(row).second_weight as f32;
                let (upper, lower) = (L::splat(1.0 - down), L::splat(down));
                let blend = |column: usize| {
                    let [a, b] = held.map(|products| L::load(products.add(column * L::WIDTH)));
                    b.mul_add(lower, a.mul(upper))
                };
                for &index in &*surviving {
                    let segment = plan.segments.get_unchecked(index as usize);
                    let ends = (blend(segment.first), blend(segment.second));
                    let mut column = segment.fine.start.max(area.columns.start);
                    let end = segment.fine.end.min(area.columns.end);
                    n_cells += end - column;
                    while column < end {
                        let first = row * fine_width + column;
                        let cells = Cells {
                            taps: columns.as_ptr().add(column),
                            sq_norms: sq_norms.add(first),
                            first,
                        };
                        let found = |n: usize, sum: L, within: u32| {
                            if patch.around.is_near(row, column + n, within) {
                                entries.push(row, column + n, sum);
                            }
                        };
                        let leading = &image.coarse.leading;
                        column += match end - column {
                            4.. => filter_run::<L, 4>(ends, &cells, leading, patch, limits, found),
                            2.. => filter_run::<L, 2>(ends, &cells, leading, patch, limits, found),
                            _ => filter_run::<L, 1>(ends, &cells, leading, patch, limits, found),
                        };
                    }
                }
            }
        }
    }
    counts.vectors[coarsest] += n_cells as u64;
    counts.pairs[coarsest] += n_cells as u64 * patch.n_queries;
}

/// The segments of a band, in an area, that may hold something of interest, by the bounds for cells between the same
/// coarse cells; `held` are the products with the coarse rows above and below, `lows` has room for a row.
#[inline(always)]
unsafe fn filter_blocks<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    (band, around): (usize, &PlannedArea),
    held: [*const f32; 2],
    limit: L,
    lows: &mut [f32],
    surviving: &mut Vec<u32>,
) {
    let width = plan.grids[plan.grids.len() - 1].shape.width;
    let (rows, blocks) = (&plan.bands[band], band * plan.segments.len());
    surviving.clear();
    // SAFETY: as promised by the caller.
    unsafe {
        let [spreads, least] = [&image.coarse.spreads, &image.coarse.least_sq_norms]
            .map(|values| values.as_ptr().add(blocks));
        let sq_norms = [rows.first, rows.second]
            .map(|row| image.coarse.coarse_sq_norms.as_ptr().add(row * width));
        // The smallest products of each column, then of each block.
        for column in around.columns.clone() {
            let [first, second] = held.map(|products| L::load(products.add(column * L::WIDTH)));
            let low = lows.as_mut_ptr().add(column * L::WIDTH);
            first.min(second).store(low);
        }
        for index in around.segments.clone() {
            let segment = plan.segments.get_unchecked(index);
            let ends = [segment.first, segment.second];
            let [left, right] = ends.map(|end| L::load(lows.as_ptr().add(end * L::WIDTH)));
            let low = left.min(right).add(L::splat(*least.add(index)));
            let mut within = low.not_above(limit);
            if within == 0 {
                continue;
            }
            let [left, right] = ends.map(|end| {
                let corner = |row: usize| {
                    let product = L::load(held[row].add(end * L::WIDTH));
                    product.add(L::splat(*sq_norms[row].add(end)))
                };
                corner(0).min(corner(1))
            });
            let low = left.min(right).add(L::splat(-*spreads.add(index)));
            within &= low.not_above(limit);
            if within != 0 {
                surviving.push(index as u32);
            }
        }
    }
}

/// Consecutive fine cells of a row: where they lie between coarse ones, their norms of the coarsest
/// level, and the first of them.
struct Cells {
    taps: *const FastTap,
    sq_norms: *const f32,
    first: usize,
}

/// `N` cells of one row between the ends of a segment; calls `found` for those that may be of interest:
/// by their sum of the coarsest level, and if so by the leading coordinates of the finer ones; with the lanes to
/// which they may be.
#[inline(always)]
unsafe fn filter_run<L: Lanes, const N: usize>(
    (left, right): (L, L),
    cells: &Cells,
    leading: &LeadingCoordinates,
    patch: &Patch,
    limits: (L, L),
    mut found: impl FnMut(usize, L, u32),
) -> usize {
    // SAFETY: as promised by the caller; each leading value is there for all fine cells.
    unsafe {
        let mut sums = [left; N];
        let mut within = [0; N];
        for n in 0..N {
            let tap = &*cells.taps.add(n);
            let sum = left.mul_add(L::splat(tap.first_weight), L::splat(*cells.sq_norms.add(n)));
            sums[n] = right.mul_add(L::splat(tap.second_weight), sum);
            within[n] = sums[n].not_above(limits.0);
        }
        if within.iter().fold(0, |any, within| any | within) == 0 {
            return N;
        }
        let mut bounds = sums;
        let sq_norms = leading.sq_norms.as_ptr().add(cells.first);
        for (n, bound) in bounds.iter_mut().enumerate() {
            *bound = bound.add(L::splat(*sq_norms.add(n)));
        }
        let mut values = leading.values.as_ptr().wrapping_add(cells.first);
        for query in &patch.leading {
            let query = L::load(query.as_ptr());
            for (n, bound) in bounds.iter_mut().enumerate() {
                *bound = query.mul_add(L::splat(*values.add(n)), *bound);
            }
            values = values.wrapping_add(leading.sq_norms.len());
        }
        for n in 0..N {
            let within = within[n] & bounds[n].not_above(limits.1);
            if within != 0 {
                found(n, sums[n], within);
            }
        }
    }
    N
}

/// The coarsest level, when each fine cell lies in one coarse cell.
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`.
#[inline(always)]
pub(super) unsafe fn filter_nested<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    limits: &Limits,
    patch: &mut Patch,
    scratch: &mut CascadeScratch,
    counts: &mut LevelCounts,
) {
    let coarsest = plan.grids.len() - 1;
    let shape = plan.grids[coarsest].shape;
    let CascadeScratch {
        entries: [entries, _],
        corner_cells,
        ..
    } = scratch;
    entries.len = 0;
    let n_cells = patch.around.n_cells(coarsest) as u64;
    counts.vectors[coarsest] += n_cells;
    counts.pairs[coarsest] += n_cells * patch.n_queries;
    // SAFETY: as promised by the caller.
    unsafe {
        let sq_norms = image.coarse.coarse_sq_norms.as_ptr();
        if let [corner] = &patch.corners[..] {
            // All queries lie in one coarse cell, and differ only in their limits.
            let cells = &corner_cells[corner.cell];
            if cells.is_empty() {
                return;
            }
            let limit = patch.limit::<L>(limits, coarsest, 1.0);
            let products = image.coarse.products.as_ptr().add(corner.at);
            for &cell in cells {
                let cell = cell as usize;
                let sum = L::splat(*sq_norms.add(cell) + *products.add(cell * L::WIDTH));
                if sum.not_above(limit) != 0 {
                    let (row, column) = (cell / shape.width, cell % shape.width);
                    if patch.around.levels[coarsest].contains(row, column) {
                        entries.push(row, column, sum);
                    }
                }
            }
        } else {
            let limit = patch.limit::<L>(limits, coarsest, 1.0);
            let Area { rows, columns } = patch.around.levels[coarsest].clone();
            for row in rows {
                let slot = cached_row::<L>(image, shape.width, row, patch);
                let products = patch.rows[slot].as_ptr();
                for column in columns.clone() {
                    let sq_norm = L::splat(*sq_norms.add(row * shape.width + column));
                    let sum = L::load(products.add(column * L::WIDTH)).add(sq_norm);
                    if sum.not_above(limit) != 0 {
                        entries.push(row, column, sum);
                    }
                }
            }
        }
    }
}

/// For patches that lie in one coarse cell, the coarse cells of the gallery image that may be of
/// interest: as many patches at once as a vector has lanes.
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`.
#[inline(always)]
pub(super) unsafe fn filter_corners<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    tiles: &[TileQueries<'_>],
    patches: &[Patch],
    scratch: &mut CascadeScratch,
) {
    let coarsest = plan.grids.len() - 1;
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
                let limit = patch.limit::<L>(tiles[patch.tile].limits, coarsest, 1.0);
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
    let n_cells = plan.grids[coarsest].shape.cells();
    for start in (first..end).step_by(L::WIDTH) {
        for cell in 0..n_cells {
            // SAFETY: there is a vector of products for each vector of corners and each cell.
            let mut within = unsafe {
                let at = start * n_cells + cell * L::WIDTH;
                let products = L::load(image.coarse.products.as_ptr().add(at));
                let sq_norm = L::splat(*image.coarse.coarse_sq_norms.as_ptr().add(cell));
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

/// Makes some fine cells the entries of a patch, or when the levels are nested a cell of the coarsest level.
///
/// # Safety
/// As for `SearchPatches` in `descend.rs`; the cells must exist, and lie in the area around the patch.
#[inline(always)]
pub(super) unsafe fn push_cells<L: Lanes>(
    plan: &CascadePlan<'_>,
    image: &CascadeImage<'_>,
    (cell, fine_cells): (usize, &Area),
    patch: &mut Patch,
    entries: &mut Entries,
) {
    let grid = &plan.grids[plan.grids.len() - 1];
    let (fine, shape) = (plan.grids[0].shape, grid.shape);
    let (row, column) = (cell / shape.width, cell % shape.width);
    entries.len = 0;
    // SAFETY: as promised by the caller; the fine cells of a coarse one lie within the finest grid.
    unsafe {
        if plan.nested {
            let slot = cached_row::<L>(image, shape.width, row, patch);
            let products = L::load(patch.rows[slot].as_ptr().add(column * L::WIDTH));
            let sum = products.add(L::splat(image.coarse.coarse_sq_norms[cell]));
            entries.push(row, column, sum);
            return;
        }
        let sq_norms = &image.coarse.sq_norms[plan.grids.len() - 1];
        for row in fine_cells.rows.clone() {
            let down = grid.rows[row];
            let first = cached_row::<L>(image, shape.width, down.first, patch);
            let second = cached_row::<L>(image, shape.width, down.second, patch);
            for column in fine_cells.columns.clone() {
                let across = grid.columns[column];
                let blend = |slot: usize| {
                    let products = patch.rows[slot].as_ptr();
                    let left = L::load(products.add(across.first * L::WIDTH));
                    let right = L::load(products.add(across.second * L::WIDTH));
                    let weight = across.second_weight as f32;
                    right.mul_add(L::splat(weight), left.mul(L::splat(1.0 - weight)))
                };
                let weight = down.second_weight as f32;
                let upper = L::splat(sq_norms[row * fine.width + column]);
                let upper = blend(first).mul_add(L::splat(1.0 - weight), upper);
                let sum = blend(second).mul_add(L::splat(weight), upper);
                entries.push(row, column, sum);
            }
        }
    }
}
