//! The products of a patch with rows of the coarsest level, kept while the fine rows between them pass.

use super::inputs::CascadeImage;
use super::patch::{Corner, Patch};
use crate::kernels::simd::Lanes;

/// Makes sure that the products of all queries of the patch with one row of the coarsest level of the
/// gallery image are there, as far as the area around the patch needs them; returns the slot.
#[inline(always)]
pub(super) unsafe fn cached_row<L: Lanes>(
    image: &CascadeImage<'_>,
    width: usize,
    row: usize,
    patch: &mut Patch,
) -> usize {
    let slot = row % 2;
    if patch.held[slot] != row {
        patch.held[slot] = row;
        let (mut column, end) = (patch.around.columns.start, patch.around.columns.end);
        while column < end {
            // SAFETY: as promised by the caller; `column + N <= end`.
            unsafe {
                let products = image.coarse.products.as_ptr();
                let products = products.add((row * width + column) * L::WIDTH);
                let out = patch.rows[slot].as_mut_ptr().add(column * L::WIDTH);
                column += match end - column {
                    4.. => interpolate_row::<L, 4>(products, &patch.corners, out),
                    2.. => interpolate_row::<L, 2>(products, &patch.corners, out),
                    _ => interpolate_row::<L, 1>(products, &patch.corners, out),
                };
            }
        }
    }
    slot
}

/// The products of the queries of a patch with `N` cells, from those of the cells around them.
#[inline(always)]
unsafe fn interpolate_row<L: Lanes, const N: usize>(
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
