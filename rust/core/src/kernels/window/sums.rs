//! A band led through a gallery image: sums of coarse levels, and what they leave.

use super::band::QueryBand;
use super::image::WindowImage;
use super::layout::PAD;
use super::plan::MAX_TERMS;
use super::products::LevelProducts;
use crate::kernels::cascade::PatchHits;
use crate::kernels::instruction_set::TILE_VECTORS;
use crate::kernels::prepare::{CentredImage, centre_into, dot};
use crate::kernels::simd::{Kernel, Lanes, is_not_above, run_kernel};
use crate::kernels::tile::Limits;
use std::array::from_fn;

/// Working memory of [`search_band`], kept between images.
#[derive(Default)]
pub(crate) struct BandScratch {
    levels: Vec<LevelProducts>,
    /// For each lane of a row, the bound above which a pair is of no interest.
    limits: Vec<f32>,
    /// For each vector of a row and each shift, the sums of the coarse levels,
    sums: Vec<f32>,
    /// and the lanes that these do not rule out, as bits.
    left: Vec<u16>,
    /// The levels of the finest size, centred and scaled, as far as rows were needed,
    fine: Vec<Vec<f32>>,
    /// which is up to this one.
    end: usize,
}

/// An image as a band is compared with it.
#[derive(Clone, Copy)]
pub(crate) struct BandImage<'a> {
    pub prepared: &'a WindowImage,
    /// The finest levels are read from here.
    pub stored: CentredImage<'a>,
    /// How wrong partial distances can be.
    pub error: f32,
}

/// Compares a band with an image; returns how many pairs coarse levels left. The lanes of the band's rows, one
/// row after the other ([`WindowPlan::cells_of`]), lie in tiles in order, of which these are the limits.
///
/// [`WindowPlan::cells_of`]: super::WindowPlan::cells_of
///
/// # Panics
/// When there are too few tiles.
pub(crate) fn search_band(
    band: &QueryBand<'_>,
    image: &BandImage<'_>,
    limits: &[&Limits],
    scratch: &mut BandScratch,
    hits: &mut dyn PatchHits,
) -> u64 {
    let (plan, layout, prepared) = (band.plan, &band.plan.layout, image.prepared);
    image.stored.check(plan.grids());
    assert!(limits.len() * plan.set.tile() >= band.rows.len() * layout.row_lanes());
    let n_norms = plan.grids()[0].shape.height * layout.padded_row();
    assert_eq!(prepared.sq_norms.len(), n_norms);
    assert_eq!(prepared.fine_norms.len(), n_norms);
    let coarse = &plan.grids()[layout.n_fine..];
    assert_eq!(prepared.packed.len(), coarse.len());
    for (grid, packed) in coarse.iter().zip(&prepared.packed) {
        assert_eq!(packed.len(), layout.packed_len(&grid.shape) + 2 * PAD);
    }
    let n_shifts: usize = plan.shifts.iter().map(ExactSizeIterator::len).sum();
    scratch.limits.resize(layout.row_lanes(), 0.0);
    scratch.sums.resize(n_shifts * layout.stride, 0.0);
    let n_vectors = n_shifts * layout.stride / plan.set.width();
    scratch.left.resize(n_vectors, 0);
    scratch
        .levels
        .resize_with(coarse.len(), LevelProducts::default);
    let levels = scratch.levels.iter_mut().zip(&plan.coarse);
    for ((level, parts), queries) in levels.zip(&band.coarse) {
        level.start(parts, queries, layout.stride);
    }
    scratch.end = plan.window.rows()[band.rows.start].start;
    scratch.fine.resize_with(layout.n_fine, Vec::new);
    for (values, grid) in scratch.fine.iter_mut().zip(plan.grids()) {
        values.resize(grid.shape.values(), 0.0);
    }
    let mut n_left = 0;
    let kernel = SearchBand {
        band,
        image,
        limits,
        scratch,
        hits,
        n_left: &mut n_left,
    };
    // SAFETY: all sizes were checked; what a plan and a band hold fits their grids, as it was made from them.
    unsafe { run_kernel(plan.set, kernel) };
    n_left
}

/// See [`search_band`]; its parts rely on the sizes that are checked there.
struct SearchBand<'a> {
    band: &'a QueryBand<'a>,
    image: &'a BandImage<'a>,
    limits: &'a [&'a Limits],
    scratch: &'a mut BandScratch,
    hits: &'a mut dyn PatchHits,
    n_left: &'a mut u64,
}

impl Kernel for SearchBand<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(mut self) {
        let (band, plan, prepared) = (self.band, self.band.plan, self.image.prepared);
        for row in band.rows.clone() {
            for (level, products) in self.scratch.levels.iter_mut().enumerate() {
                // SAFETY: as promised by the caller.
                unsafe { products.take_row::<L>(band, prepared, level, row) };
            }
            self.centre_rows(plan.window.rows()[row].end);
            for near in plan.window.rows()[row].clone() {
                for (level, products) in self.scratch.levels.iter_mut().enumerate() {
                    // SAFETY: as promised by the caller; the row is in the window.
                    unsafe { products.blend_columns::<L>(band, level, near) };
                }
                self.take_limits::<L>(row);
                // SAFETY: as promised by the caller; there are so many terms.
                unsafe {
                    match plan.terms[0].len() {
                        1 => self.sum_up::<L, 1>(row, near),
                        2 => self.sum_up::<L, 2>(row, near),
                        3 => self.sum_up::<L, 3>(row, near),
                        4 => self.sum_up::<L, 4>(row, near),
                        5 => self.sum_up::<L, 5>(row, near),
                        6 => self.sum_up::<L, 6>(row, near),
                        7 => self.sum_up::<L, 7>(row, near),
                        _ => self.sum_up::<L, MAX_TERMS>(row, near),
                    }
                }
                self.finish::<L>(row, near);
            }
        }
    }
}

impl SearchBand<'_> {
    /// Centres and scales the finest levels up to a row, each row once.
    #[inline(always)]
    fn centre_rows(&mut self, end: usize) {
        let (image, rows) = (self.image.stored, self.scratch.end..end);
        for (level, values) in self.scratch.fine.iter_mut().enumerate() {
            let shape = self.band.plan.grids()[level].shape;
            let row = shape.width * shape.channels;
            let (start, len) = (rows.start * row, rows.len() * row);
            let stored = image.levels[level].slice(start, len);
            let values = &mut values[start..][..len];
            centre_into(stored, &image.means[level], image.scale, values);
        }
        self.scratch.end = end;
    }

    /// Sets the bounds above which pairs of a row are of no interest.
    #[inline(always)]
    fn take_limits<L: Lanes>(&mut self, row: usize) {
        let n_lanes = self.band.plan.layout.row_lanes();
        let first = (row - self.band.rows.start) * n_lanes / L::WIDTH;
        let limits = self.scratch.limits.chunks_exact_mut(L::WIDTH);
        for (vector, limits) in (first..).zip(limits) {
            let of = &self.limits[vector / TILE_VECTORS];
            let of = &of[vector % TILE_VECTORS * L::WIDTH..][..L::WIDTH];
            for (limit, of) in limits.iter_mut().zip(of) {
                *limit = of.get() + 2.0 * self.image.error;
            }
        }
    }

    /// Sums up the coarse levels for all shifts between two rows, and marks what they do not rule out.
    ///
    /// # Safety
    /// As for [`search_band`]; there must be `TERMS` terms.
    #[inline(always)]
    unsafe fn sum_up<L: Lanes, const TERMS: usize>(&mut self, row: usize, near: usize) {
        let (band, plan, layout) = (self.band, self.band.plan, &self.band.plan.layout);
        let scratch = &mut *self.scratch;
        let (stride, row_lanes) = (layout.stride, layout.row_lanes());
        let rests = &band.rests[(row - band.rows.start) * row_lanes..][..row_lanes];
        let norms = near * layout.padded_row()..(near + 1) * layout.padded_row();
        let sq_norms = self.image.prepared.sq_norms[norms.clone()].as_ptr();
        let fine_norms = self.image.prepared.fine_norms[norms].as_ptr();
        let (mut left, mut sums) = (scratch.left.as_mut_ptr(), scratch.sums.as_mut_ptr());
        let mut lane = 0;
        for ((phase, shifts), terms) in (0..).zip(&plan.shifts).zip(&plan.terms) {
            let first = (phase + shifts.start - plan.first_column) as usize;
            let columns = &plan.column_at[first..][..shifts.len()];
            for at in (0..stride).step_by(L::WIDTH) {
                // SAFETY: there are `TERMS` terms, and of each weights for all lanes, and blends for each shift,
                // at most `PAD` lanes outside; norms for each column, with as much room around; rests and
                // limits of a row; and room for the sums of each vector and shift.
                unsafe {
                    let weights: [L; TERMS] =
                        from_fn(|n| L::load(terms.get_unchecked(n).weights.as_ptr().add(at)));
                    let blends: [*const f32; TERMS] = from_fn(|n| {
                        let term = terms.get_unchecked(n);
                        let level = scratch.levels.get_unchecked(term.level);
                        level.blends.as_ptr().add(term.blends + at)
                    });
                    let rest = L::load(rests.as_ptr().add(lane));
                    let limit = L::load(scratch.limits.as_ptr().add(lane));
                    let mut from = 0;
                    for column in columns {
                        let mut sum = L::load(sq_norms.add(column + at));
                        for n in 0..TERMS {
                            sum = L::load(blends[n].add(from)).mul_add(weights[n], sum);
                        }
                        let norm = L::load(fine_norms.add(column + at));
                        sum.store(sums);
                        *left = norm.mul_add(rest, sum).not_above(limit) as u16;
                        from += stride;
                        (sums, left) = (sums.add(L::WIDTH), left.add(1));
                    }
                }
                lane += L::WIDTH;
            }
        }
    }

    /// Adds the finest level to the pairs that are left, and tells of those within the limits.
    #[inline(always)]
    fn finish<L: Lanes>(&mut self, row: usize, near: usize) {
        let (plan, layout) = (self.band.plan, &self.band.plan.layout);
        let width = layout.n_phases * layout.n_lanes;
        let row_vectors = (row - self.band.rows.start) * layout.row_lanes() / L::WIDTH;
        let mut at = 0;
        for (phase, shifts) in plan.shifts.iter().enumerate() {
            for first_lane in (0..layout.stride).step_by(L::WIDTH) {
                let vector = row_vectors + (phase * layout.stride + first_lane) / L::WIDTH;
                for shift in shifts.clone() {
                    let mut left = self.scratch.left[at];
                    while left != 0 {
                        let lane = left.trailing_zeros() as usize;
                        left &= left - 1;
                        let column = (first_lane + lane) * layout.n_phases + phase;
                        let other = column.wrapping_add_signed(shift);
                        if column < width && other < width {
                            let sum = self.scratch.sums[at * L::WIDTH + lane];
                            let cells = (row * width + column, near * width + other);
                            let lane = vector % TILE_VECTORS * L::WIDTH + lane;
                            self.finish_pair(cells, sum, (vector / TILE_VECTORS, lane));
                        }
                    }
                    at += 1;
                }
            }
        }
    }

    /// The same for one pair.
    #[inline(always)]
    fn finish_pair(
        &mut self,
        (query, cell): (usize, usize),
        sum: f32,
        (tile, lane): (usize, usize),
    ) {
        *self.n_left += 1;
        let mut product = 0.0;
        let levels = self.band.plan.grids().iter().zip(self.band.centred);
        for ((grid, queries), values) in levels.zip(&self.scratch.fine) {
            let channels = grid.shape.channels;
            let own = &queries[query * channels..][..channels];
            product += dot(own, &values[cell * channels..][..channels]);
        }
        let s = sum - 2.0 * product;
        if is_not_above(s, self.limits[tile][lane].get()) {
            self.hits.hit(tile, lane, cell, s);
        }
    }
}
