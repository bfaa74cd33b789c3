//! Inner products of vectors of queries with cells, and the product of two matrices.

use super::instruction_set::{InstructionSet, TILE_VECTORS};
use super::simd::{Kernel, Lanes, run_kernel};
use std::ops::Range;

/// `sums[cell][query] += <query, cell>`, for cells that start every `stride` values: the hottest
/// loop of the crate. Per channel it loads three vectors of queries, broadcasts `N` features and
/// issues `3 N` fused multiply-adds.
#[inline(always)]
pub(super) unsafe fn add_products<L: Lanes, const N: usize>(
    queries: *const f32,
    channels: usize,
    features: *const f32,
    stride: usize,
    sums: &mut [[L; TILE_VECTORS]; N],
) {
    // A copy that no pointer leads to is held in registers.
    let mut held = *sums;
    for channel in 0..channels {
        // SAFETY: as promised by the caller: `channels` tiles of queries, `N` cells of `channels`.
        unsafe {
            let at = queries.add(channel * TILE_VECTORS * L::WIDTH);
            let query: [L; TILE_VECTORS] = [
                L::load(at),
                L::load(at.add(L::WIDTH)),
                L::load(at.add(2 * L::WIDTH)),
            ];
            for (cell, sums) in held.iter_mut().enumerate() {
                let feature = L::splat(*features.add(cell * stride + channel));
                for (sum, query) in sums.iter_mut().zip(query) {
                    *sum = query.mul_add(feature, *sum);
                }
            }
        }
    }
    *sums = held;
}

/// `V` vectors of queries with some of `n_cells` cells; returns `V`.
#[inline(always)]
pub(super) unsafe fn strip<L: Lanes, const V: usize, const CELLS: usize>(
    queries: *const f32,
    stride: usize,
    channels: usize,
    features: &[f32],
    (cells, n_cells): (Range<usize>, usize),
    out: *mut f32,
) -> usize {
    let mut cell = cells.start;
    while cell < cells.end {
        // SAFETY: as promised by the caller; `cell + N <= cells.end`.
        unsafe {
            let features = features.as_ptr().add(cell * channels);
            let out = out.add(cell * L::WIDTH);
            cell += match cells.end - cell {
                left if left >= CELLS => {
                    block::<L, V, CELLS>(queries, stride, channels, features, n_cells, out)
                }
                4.. => block::<L, V, 4>(queries, stride, channels, features, n_cells, out),
                2.. => block::<L, V, 2>(queries, stride, channels, features, n_cells, out),
                _ => block::<L, V, 1>(queries, stride, channels, features, n_cells, out),
            };
        }
    }
    V
}

/// `V` vectors of queries with `N` cells; returns `N`.
#[inline(always)]
unsafe fn block<L: Lanes, const V: usize, const N: usize>(
    queries: *const f32,
    stride: usize,
    channels: usize,
    features: *const f32,
    n_cells: usize,
    out: *mut f32,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; N];
        for channel in 0..channels {
            let mut query = [L::splat(0.0); V];
            for (vector, query) in query.iter_mut().enumerate() {
                *query = L::load(queries.add(channel * stride + vector * L::WIDTH));
            }
            for (cell, sums) in sums.iter_mut().enumerate() {
                let feature = L::splat(*features.add(cell * channels + channel));
                for (sum, query) in sums.iter_mut().zip(query) {
                    *sum = query.mul_add(feature, *sum);
                }
            }
        }
        for (cell, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                sum.store(out.add((vector * n_cells + cell) * L::WIDTH));
            }
        }
    }
    N
}

/// The product of two row-major matrices: `left` of `n_inner` columns, `right` of `n_inner` rows and
/// `n_columns`. Each value passes through at most [`multiply_depth`] roundings.
pub(crate) fn multiply(
    set: InstructionSet,
    left: &[f32],
    right: &[f32],
    n_inner: usize,
    n_columns: usize,
) -> Vec<f32> {
    let n_rows = left.len() / n_inner;
    assert_eq!(left.len(), n_rows * n_inner);
    assert_eq!(right.len(), n_inner * n_columns);
    let width = set.tile();
    let mut product = vec![0.0; n_rows * n_columns];
    let mut packed = vec![0.0; n_inner * width];
    let mut out = vec![0.0; n_rows * width];
    for start in (0..n_columns).step_by(width) {
        let n = width.min(n_columns - start);
        for (to, from) in packed
            .chunks_exact_mut(width)
            .zip(right.chunks_exact(n_columns))
        {
            to[..n].copy_from_slice(&from[start..start + n]);
            to[n..].fill(0.0);
        }
        // SAFETY: `left` has whole rows, `packed` one tile per inner index, `out` one per row.
        unsafe {
            run_kernel(
                set,
                Multiply {
                    left,
                    packed: &packed,
                    n_inner,
                    out: &mut out,
                },
            );
        }
        for (to, from) in product
            .chunks_exact_mut(n_columns)
            .zip(out.chunks_exact(width))
        {
            to[start..start + n].copy_from_slice(&from[..n]);
        }
    }
    product
}

/// Values that [`multiply`] sums one after the other before it sums the sums.
const RUN: usize = 64;

/// See [`multiply`].
pub(crate) const fn multiply_depth(n_inner: usize) -> usize {
    RUN + n_inner.div_ceil(RUN) + 1
}

struct Multiply<'a> {
    left: &'a [f32],
    packed: &'a [f32],
    n_inner: usize,
    out: &'a mut [f32],
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let n_rows = self.left.len() / self.n_inner;
        let mut row = 0;
        while row < n_rows {
            // SAFETY: as promised by the caller; `row + n <= n_rows` for the `n` chosen.
            row += unsafe {
                let left = self.left.as_ptr().add(row * self.n_inner);
                let out = self.out.as_mut_ptr().add(row * TILE_VECTORS * L::WIDTH);
                let (packed, n_inner) = (self.packed.as_ptr(), self.n_inner);
                match n_rows - row {
                    4.. => multiply_block::<L, 4>(left, packed, n_inner, out),
                    2.. => multiply_block::<L, 2>(left, packed, n_inner, out),
                    _ => multiply_block::<L, 1>(left, packed, n_inner, out),
                }
            };
        }
    }
}

#[inline(always)]
unsafe fn multiply_block<L: Lanes, const N: usize>(
    left: *const f32,
    packed: *const f32,
    n_inner: usize,
    out: *mut f32,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let mut totals = [[L::splat(0.0); TILE_VECTORS]; N];
        for start in (0..n_inner).step_by(RUN) {
            let mut sums = [[L::splat(0.0); TILE_VECTORS]; N];
            let packed = packed.add(start * TILE_VECTORS * L::WIDTH);
            let n = RUN.min(n_inner - start);
            add_products(packed, n, left.add(start), n_inner, &mut sums);
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = sum.mul_add(L::splat(1.0), *total);
                }
            }
        }
        for (row, totals) in totals.iter().enumerate() {
            for (vector, total) in totals.iter().enumerate() {
                total.store(out.add((row * TILE_VECTORS + vector) * L::WIDTH));
            }
        }
    }
    N
}
