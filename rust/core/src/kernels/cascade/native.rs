//! The cells of a level of the gallery image, at its own resolution, and their inner products.

use super::super::prepare::{centre_into, dot};
use super::super::{Lanes, TILE_VECTORS};
use crate::pyramid::LevelData;
use std::ops::Range;

/// The cells of one level of the gallery image, each centred when it is first asked for.
#[derive(Default)]
pub(super) struct NativeCells {
    pub values: Vec<f32>,
    pub sq_norms: Vec<f32>,
    /// The use in which each cell was centred.
    ready: Vec<u32>,
    use_number: u32,
    /// Whether some cells of this image were asked for.
    pub started: bool,
}

impl NativeCells {
    /// Makes ready for another image.
    pub fn start(&mut self, n_cells: usize, channels: usize) {
        self.started = true;
        if self.ready.len() < n_cells {
            self.ready.resize(n_cells, 0);
        }
        // What was noted of one use is out of date in the next; 0 is no use.
        self.use_number = self.use_number.wrapping_add(1);
        if self.use_number == 0 {
            self.ready.fill(0);
            self.use_number = 1;
        }
        if self.sq_norms.len() < n_cells {
            self.sq_norms.resize(n_cells, 0.0);
        }
        if self.values.len() < n_cells * channels {
            self.values.resize(n_cells * channels, 0.0);
        }
    }

    /// Centres all cells at once; their norms are not computed.
    #[inline(always)]
    pub fn centre_all(&mut self, cells: LevelData<'_>, mean: &[f32], scale: f32, channels: usize) {
        centre_into(cells, mean, scale, &mut self.values[..cells.len()]);
        self.ready[..cells.len() / channels].fill(self.use_number);
    }

    /// Makes sure that a run of cells is centred; returns whether it was not. Runs are always the same.
    #[inline(always)]
    pub fn centre(
        &mut self,
        cells: LevelData<'_>,
        mean: &[f32],
        scale: f32,
        channels: usize,
        run: Range<usize>,
    ) -> bool {
        let is_new = self.ready[run.start] != self.use_number;
        if is_new {
            self.ready[run.start] = self.use_number;
            let values = run.start * channels..run.end * channels;
            let out = &mut self.values[values.clone()];
            centre_into(cells.slice(values.start, values.len()), mean, scale, out);
        }
        is_new
    }

    /// Makes sure that a run of cells is centred, and their norms known.
    ///
    /// # Safety
    /// The instruction set of `L` must be available.
    #[inline(always)]
    pub unsafe fn centre_and_measure<L: Lanes>(
        &mut self,
        cells: LevelData<'_>,
        mean: &[f32],
        scale: f32,
        channels: usize,
        run: Range<usize>,
    ) {
        if self.centre(cells, mean, scale, channels, run.clone()) {
            let values = &self.values[run.start * channels..run.end * channels];
            let cells = values.chunks_exact(channels);
            for (sq_norm, cell) in self.sq_norms[run].iter_mut().zip(cells) {
                // SAFETY: the caller has the instruction set.
                *sq_norm = dot(cell, cell);
            }
        }
    }
}

/// Inner products of the patch with some cells of one level; of the cell `wanted[i]` they are left at
/// `place(i, wanted[i])`. `queries` are those of the level, from the vector of the patch on.
///
/// # Safety
/// The instruction set of `L` must be available; `queries` must hold `channels` tiles (the last up to
/// the vector), `features` all wanted cells, and `products` a vector at each place.
#[inline(always)]
pub(super) unsafe fn take_products<L: Lanes, const CELLS: usize>(
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
