//! The product of two matrices, with which flat galleries change coordinates.

use super::scan::add_products;
use super::{InstructionSet, Kernel, Lanes, TILE_VECTORS, run};

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
            run(
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
