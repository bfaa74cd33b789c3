//! Products of coarse cells, and their blends over rows and columns.

use super::band::{QueryBand, QueryRows};
use super::image::WindowImage;
use super::layout::PAD;
use super::parts::LevelParts;
use crate::kernels::simd::Lanes;
use std::ops::Range;

/// No row.
const NOTHING: usize = usize::MAX;

/// What was computed of a coarse level.
#[derive(Default)]
pub(super) struct LevelProducts {
    /// `[gallery row][product][lane]` of two coarse rows of the query, in the slot of their parity.
    slots: [Vec<f32>; 2],
    held: [usize; 2],
    /// Blended over the row of the query, for each gallery row that it is compared with,
    rows: Vec<f32>,
    first_row: usize,
    /// over the row of the gallery image,
    row: Vec<f32>,
    /// and over its columns: `[blend][lane]`, with room before and after.
    pub blends: Vec<f32>,
}

impl LevelProducts {
    /// Makes room, and forgets the last image.
    pub(super) fn start(&mut self, parts: &LevelParts, queries: &QueryRows, stride: usize) {
        let n_rows = queries.near.iter().map(Range::len).max().unwrap_or(0);
        let row = parts.products.len() * stride;
        for values in self.slots.iter_mut().chain([&mut self.rows]) {
            values.resize(n_rows * row, 0.0);
        }
        self.row.resize(row, 0.0);
        self.blends
            .resize(parts.blends.len() * stride + 2 * PAD, 0.0);
        self.held = [NOTHING; 2];
    }

    /// Blends the products of two coarse rows for a fine row of the query.
    ///
    /// # Safety
    /// The instruction set of `L` must be that of the plan, the level be `level` of the coarse ones, the image
    /// have been prepared for the band, and the fine row lie in it.
    #[inline(always)]
    pub(super) unsafe fn take_row<L: Lanes>(
        &mut self,
        band: &QueryBand<'_>,
        image: &WindowImage,
        level: usize,
        fine_row: usize,
    ) {
        let plan = band.plan;
        let grid = &plan.grids()[plan.layout.n_fine + level];
        let (tap, queries) = (grid.rows[fine_row], &band.coarse[level]);
        for row in [tap.first, tap.second] {
            if self.held[row % 2] != row {
                self.held[row % 2] = row;
                // SAFETY: as promised by the caller.
                unsafe { self.multiply::<L>(band, image, level, row) };
            }
        }
        let near = &plan.window.rows()[fine_row];
        let first_row = grid.rows[near.start].first;
        let n_rows = grid.rows[near.end - 1].second + 1 - first_row;
        let len = plan.coarse[level].products.len() * plan.layout.stride;
        self.first_row = first_row;
        let from = |row: usize| {
            let first = queries.near[row - queries.first].start;
            &self.slots[row % 2][(first_row - first) * len..][..n_rows * len]
        };
        let to = &mut self.rows[..n_rows * len];
        blend(
            from(tap.first),
            from(tap.second),
            tap.second_weight as f32,
            to,
        );
    }

    /// Takes the products of a coarse row of the query.
    ///
    /// # Safety
    /// As for [`take_row`](Self::take_row).
    #[inline(always)]
    unsafe fn multiply<L: Lanes>(
        &mut self,
        band: &QueryBand<'_>,
        image: &WindowImage,
        level: usize,
        row: usize,
    ) {
        let (plan, parts, queries) = (band.plan, &band.plan.coarse[level], &band.coarse[level]);
        let channels = plan.grids()[plan.layout.n_fine + level].shape.channels;
        let stride = plan.layout.stride;
        let part = channels * stride;
        let own = &queries.values[(row - queries.first) * parts.n_parts * part..];
        let packed = &image.packed[level];
        let out = self.slots[row % 2].chunks_exact_mut(parts.products.len() * stride);
        for (near, out) in queries.near[row - queries.first].clone().zip(out) {
            let gallery = PAD + near * parts.n_parts * part;
            for run in &parts.runs {
                let mut at = run.start;
                while at < run.end {
                    let products = &parts.products[at..run.end.min(at + 8)];
                    for vector in (0..stride).step_by(L::WIDTH) {
                        let places = |n: usize| {
                            let product = &products[n];
                            let place = gallery + product.of_part * part + vector;
                            place.wrapping_add_signed(product.lanes)
                        };
                        let queries = &own[products[0].part * part + vector..];
                        let job = (queries, &packed[..], stride, channels);
                        let to = &mut out[at * stride + vector..];
                        // SAFETY: a row of the query and one of the image have `channels` times `stride`
                        // values for each part; products lie at most `PAD` lanes outside.
                        unsafe {
                            match products.len() {
                                8 => multiply_add::<L, 8>(job, places, to),
                                7 => multiply_add::<L, 7>(job, places, to),
                                6 => multiply_add::<L, 6>(job, places, to),
                                5 => multiply_add::<L, 5>(job, places, to),
                                4 => multiply_add::<L, 4>(job, places, to),
                                3 => multiply_add::<L, 3>(job, places, to),
                                2 => multiply_add::<L, 2>(job, places, to),
                                _ => multiply_add::<L, 1>(job, places, to),
                            }
                        }
                    }
                    at += products.len();
                }
            }
        }
    }

    /// Blends what was taken for a fine row of the gallery image, and then for each of its fine columns.
    ///
    /// # Safety
    /// The instruction set of `L` must be that of the plan, and the row lie in the window of the row taken.
    #[inline(always)]
    pub(super) unsafe fn blend_columns<L: Lanes>(
        &mut self,
        band: &QueryBand<'_>,
        level: usize,
        fine_row: usize,
    ) {
        let (plan, parts, stride) = (band.plan, &band.plan.coarse[level], band.plan.layout.stride);
        let tap = plan.grids()[plan.layout.n_fine + level].rows[fine_row];
        let len = parts.products.len() * stride;
        let from = |row: usize| &self.rows[(row - self.first_row) * len..][..len];
        let weight = tap.second_weight as f32;
        blend(from(tap.first), from(tap.second), weight, &mut self.row);
        // SAFETY: a blend has whole vectors of `stride` lanes, once for each of its products.
        unsafe {
            let (row, mut to) = (self.row.as_ptr(), self.blends.as_mut_ptr().add(PAD));
            for blend in &parts.blends {
                let from = row.add(blend.first * stride);
                let weights = blend.weights.as_ptr();
                for at in (0..stride).step_by(L::WIDTH) {
                    let mut sum = L::load(from.add(at)).mul(L::load(weights.add(at)));
                    if parts.n_taps == 2 {
                        let other = L::load(from.add(stride + at));
                        sum = other.mul_add(L::load(weights.add(stride + at)), sum);
                    }
                    sum.store(to.add(at));
                }
                to = to.add(stride);
            }
        }
    }
}

/// Products of a vector of query cells with `N` vectors of gallery cells, at these places.
///
/// # Safety
/// Every channel of `queries`, and of each place, must have a vector, `stride` apart.
#[inline(always)]
unsafe fn multiply_add<L: Lanes, const N: usize>(
    (queries, packed, stride, channels): (&[f32], &[f32], usize, usize),
    places: impl Fn(usize) -> usize,
    to: &mut [f32],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let from: [*const f32; N] = std::array::from_fn(|n| packed.as_ptr().add(places(n)));
        let mut sums = [L::splat(0.0); N];
        for channel in 0..channels {
            let query = L::load(queries.as_ptr().add(channel * stride));
            for (sum, from) in sums.iter_mut().zip(from) {
                *sum = L::load(from.add(channel * stride)).mul_add(query, *sum);
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            sum.store(to.as_mut_ptr().add(n * stride));
        }
    }
}

/// `one` and `other` in one, as far as `weight` says.
#[inline(always)]
fn blend(one: &[f32], other: &[f32], weight: f32, to: &mut [f32]) {
    if weight == 0.0 {
        to.copy_from_slice(one);
        return;
    }
    let own = 1.0 - weight;
    for ((to, one), other) in to.iter_mut().zip(one).zip(other) {
        *to = own * one + weight * other;
    }
}
