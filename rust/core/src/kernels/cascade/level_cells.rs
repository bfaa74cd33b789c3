//! The cells of a level of the gallery image, at its own resolution, and their inner products.

use crate::kernels::instruction_set::TILE_VECTORS;
use crate::kernels::prepare::{centre_into, dot};
use crate::kernels::simd::Lanes;
use crate::pyramid::LevelData;
use std::ops::Range;

/// Which cells are ready, and none of them once another image is begun.
#[derive(Default)]
struct UseMarks {
    /// The use in which each cell was made ready.
    marks: Vec<u32>,
    use_number: u32,
}

impl UseMarks {
    /// Makes room for so many cells, which are not ready unless they were marked.
    fn reserve(&mut self, n_cells: usize) {
        if self.marks.len() < n_cells {
            self.marks.resize(n_cells, 0);
        }
    }

    /// What was noted of one use is out of date in the next; 0 is no use.
    fn forget(&mut self) {
        self.use_number = self.use_number.wrapping_add(1);
        if self.use_number == 0 {
            self.marks.fill(0);
            self.use_number = 1;
        }
    }

    /// Marks a cell as ready; returns whether it was not.
    #[inline(always)]
    fn mark(&mut self, cell: usize) -> bool {
        let is_new = self.marks[cell] != self.use_number;
        self.marks[cell] = self.use_number;
        is_new
    }
}

/// The cells of one level of the gallery image, each centred when it is first asked for.
#[derive(Default)]
pub(super) struct LevelCells {
    pub values: Vec<f32>,
    pub sq_norms: Vec<f32>,
    ready: UseMarks,
}

impl LevelCells {
    /// Forgets the last image.
    pub fn forget(&mut self) {
        self.ready.forget();
    }

    /// Makes room for a level.
    pub fn reserve(&mut self, n_cells: usize, channels: usize) {
        self.ready.reserve(n_cells);
        if self.sq_norms.len() < n_cells {
            self.sq_norms.resize(n_cells, 0.0);
        }
        if self.values.len() < n_cells * channels {
            self.values.resize(n_cells * channels, 0.0);
        }
    }

    /// Makes sure that a run of cells is centred; returns whether it was not. Runs are always the same.
    #[inline(always)]
    pub fn centre(
        &mut self,
        cells: LevelData<'_>,
        (mean, scale): (&[f32], f32),
        channels: usize,
        run: Range<usize>,
    ) -> bool {
        let is_new = self.ready.mark(run.start);
        if is_new {
            let values = run.start * channels..run.end * channels;
            let out = &mut self.values[values.clone()];
            centre_into(cells.slice(values.start, values.len()), mean, scale, out);
        }
        is_new
    }

    /// Makes sure that a run of cells is centred, and their norms known.
    #[inline(always)]
    pub fn centre_and_measure(
        &mut self,
        cells: LevelData<'_>,
        centering: (&[f32], f32),
        channels: usize,
        run: Range<usize>,
    ) {
        if self.centre(cells, centering, channels, run.clone()) {
            let values = &self.values[run.start * channels..run.end * channels];
            let cells = values.chunks_exact(channels);
            for (sq_norm, cell) in self.sq_norms[run].iter_mut().zip(cells) {
                *sq_norm = dot(cell, cell);
            }
        }
    }
}

/// The cells of one level in fours: those that lie in one cell of the next coarser level, side by side.
#[derive(Default)]
pub(super) struct Packed4Cells {
    /// `[coarser cell][channel][cell]`.
    values: Vec<[f32; 4]>,
    sq_norms: Vec<[f32; 4]>,
    centred: Vec<f32>,
    ready: UseMarks,
}

impl Packed4Cells {
    /// Forgets the last image.
    pub fn forget(&mut self) {
        self.ready.forget();
    }

    /// Makes room for a level of as many fours.
    pub fn reserve(&mut self, n_fours: usize, channels: usize) {
        self.ready.reserve(n_fours);
        if self.sq_norms.len() < n_fours {
            self.sq_norms.resize(n_fours, [0.0; 4]);
        }
        if self.values.len() < n_fours * channels {
            self.values.resize(n_fours * channels, [0.0; 4]);
        }
        self.centred.resize(4 * channels, 0.0);
    }

    /// The values of four cells, centred if they were not, and their norms. The cells are those from
    /// each of `starts` on, as many as `mean` is for.
    #[inline(always)]
    pub fn centre(
        &mut self,
        at: usize,
        cells: LevelData<'_>,
        (mean, scale): (&[f32], f32),
        channels: usize,
        starts: impl Iterator<Item = usize>,
    ) -> (&[[f32; 4]], &[f32; 4]) {
        let values = &mut self.values[at * channels..][..channels];
        let sq_norms = &mut self.sq_norms[at];
        if self.ready.mark(at) {
            let runs = self.centred.chunks_exact_mut(mean.len());
            for (start, out) in starts.zip(runs) {
                let cells = cells.slice(start * channels, mean.len());
                centre_into(cells, mean, scale, out);
            }
            let (first, second) = self.centred.split_at(2 * channels);
            let (a, b) = first.split_at(channels);
            let (c, d) = second.split_at(channels);
            for ((((four, a), b), c), d) in values.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *four = [*a, *b, *c, *d];
            }
            *sq_norms = [a, b, c, d].map(|cell| dot(cell, cell));
        }
        (values, sq_norms)
    }
}

/// Inner products of the patch with some cells of one level, left as a vector for each cell of the level.
/// `queries` are those of the level, from the vector of the patch on.
///
/// # Safety
/// The instruction set of `L` must be available; `queries` must hold `channels` tiles (the last up to
/// the vector), `features` all wanted cells, and `products` a vector for each.
#[inline(always)]
pub(super) unsafe fn take_products<L: Lanes, const CELLS: usize>(
    queries: *const f32,
    channels: usize,
    features: *const f32,
    wanted: &[usize],
    products: *mut f32,
) {
    let mut at = 0;
    while at < wanted.len() {
        // SAFETY: as promised by the caller; `at + N <= wanted.len()`.
        unsafe {
            let cells = wanted.as_ptr().add(at);
            at += match wanted.len() - at {
                left if left >= CELLS => {
                    take::<L, CELLS>(queries, channels, features, cells, products)
                }
                4.. => take::<L, 4>(queries, channels, features, cells, products),
                2.. => take::<L, 2>(queries, channels, features, cells, products),
                _ => take::<L, 1>(queries, channels, features, cells, products),
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
    products: *mut f32,
) -> usize {
    // SAFETY: as promised by the caller.
    unsafe {
        let cells = *cells.cast::<[usize; N]>();
        let sums = dots::<L, N>(queries, channels, features, cells);
        for (sum, cell) in sums.iter().zip(cells) {
            sum.store(products.add(cell * L::WIDTH));
        }
    }
    N
}

/// Inner products of the patch with `N` cells of one level.
///
/// # Safety
/// As for [`take_products`].
#[inline(always)]
pub(super) unsafe fn dots<L: Lanes, const N: usize>(
    queries: *const f32,
    channels: usize,
    features: *const f32,
    cells: [usize; N],
) -> [L; N] {
    // SAFETY: as promised by the caller.
    unsafe {
        let starts = cells.map(|cell| features.add(cell * channels));
        let mut sums = [L::splat(0.0); N];
        for channel in 0..channels {
            let query = L::load(queries.add(channel * TILE_VECTORS * L::WIDTH));
            for (sum, feature) in sums.iter_mut().zip(starts) {
                *sum = query.mul_add(L::splat(*feature.add(channel)), *sum);
            }
        }
        sums
    }
}
