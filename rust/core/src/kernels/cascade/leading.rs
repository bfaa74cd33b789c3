//! Leading coordinates of the finer levels: a few numbers of each cell that bound what these levels add
//! to a distance, before any of their inner products is taken.
//!
//! The bound is that of `projection.rs` in [`crate::bounds`], which derives it, for each level but the
//! coarsest by itself and without `|u|^2`, which is the same for all cells. The directions are those in
//! which the query image varies most. Projecting is linear, so that coordinates are interpolated as
//! features are.
//!
//! # Why the bound holds in float32
//! `U` is `2^-24`, `a` and `m` the norms that no cell of the query and of the gallery image exceeds on
//! this level, `C` its channels. With the analysis of `projection.rs`, whose `e` (`skew`) is at most `16 U`
//! here and whose `depth` is at most `C + 16`:
//!
//! - `<Pu, Pv>` is the product of the coordinates within `(4.9 C + 100) U a m`.
//! - `|Pv|^2` is the sum of the squared coordinates within `(4.9 C + 100) U m^2`, and `|v|^2` was computed
//!   within `(1.25 C + 64) U m^2`, so that `sqrt(|v|^2 - |Pv|^2 + slack)` is not below `|v - Pv|` for a
//!   `slack` of `8 (C + 64) U m^2`. Likewise for `u`.
//! - The terms of the sum, in absolute values, are at most those of an inner product in full, and
//!   fewer.
//!
//! The error that the cascade allows for counts at least `(1.25 C + 64) U (2 a m + 2 m^2)` for a level
//! ([`crate::search`]): once for the norms, once for the sum, four times for the products of the
//! coordinates. [`ERRORS`] is more than that.

use crate::kernels::instruction_set::InstructionSet;
use crate::kernels::prepare::{CentredImage, NormScratch, add_sq_norms, centre_into};
use crate::kernels::product::strip;
use crate::kernels::simd::{Kernel, Lanes, run_kernel};
use crate::pyramid::LevelGrid;

/// Directions of each level.
pub(crate) const N_DIRECTIONS: usize = 4;

/// Values of each cell and level: its coordinates, and the norm of the rest.
const PER_LEVEL: usize = N_DIRECTIONS + 1;

/// How many times the error of a partial distance the error of the bound is, at most.
pub(super) const ERRORS: f32 = 8.0;

/// The directions of each level but the coarsest.
pub(crate) struct LeadingDirections {
    /// `[channel][lane]`: each of the first lanes holds a direction.
    pub(crate) packed: Vec<Vec<f32>>,
}

impl LeadingDirections {
    /// Directions that were packed: `[level][channel][lane]`.
    pub(crate) const fn new(packed: Vec<Vec<f32>>) -> Self {
        Self { packed }
    }

    /// Panics unless the directions are of these levels and this instruction set.
    pub(super) fn check(&self, grids: &[LevelGrid], set: InstructionSet) {
        assert_eq!(self.packed.len(), grids.len() - 1);
        for (packed, grid) in self.packed.iter().zip(grids) {
            assert_eq!(packed.len(), grid.shape.channels * set.width());
        }
    }
}

/// `2^-24`, half the distance of 1 from the next float32.
pub(crate) const UNIT: f32 = 1.0 / 16_777_216.0;

/// The leading coordinates of the cells of one image, on the finest grid.
#[derive(Default)]
pub(crate) struct LeadingCoordinates {
    /// `[level][coordinate, and last the rest][cell]`.
    pub(super) values: Vec<f32>,
    /// Squared norms, summed over the levels.
    pub sq_norms: Vec<f32>,
}

/// Working memory of [`LeadingCoordinates`].
#[derive(Default)]
pub(crate) struct ProjectionScratch {
    centred: Vec<f32>,
    norms: NormScratch,
    products: Vec<f32>,
    row: Vec<f32>,
}

impl LeadingCoordinates {
    /// Those of a query image; no cell of a level exceeds its `max_norm`.
    pub(crate) fn of(
        set: InstructionSet,
        grids: &[LevelGrid],
        image: CentredImage<'_>,
        directions: &LeadingDirections,
        max_norms: &[f32],
    ) -> Self {
        directions.check(grids, set);
        image.check(grids);
        let mut leading = Self::default();
        let kernel = ProjectLevels {
            grids,
            image,
            directions,
            max_norms,
            leading: &mut leading,
        };
        // SAFETY: all sizes were checked.
        unsafe { run_kernel(set, kernel) };
        leading
    }

    /// Number of values of each cell.
    pub(crate) const fn n_values(grids: &[LevelGrid]) -> usize {
        (grids.len() - 1) * PER_LEVEL
    }

    /// Panics unless there is a value of each kind for each cell.
    pub(super) fn check(&self, grids: &[LevelGrid]) {
        let cells = grids[0].shape.cells();
        assert_eq!(self.sq_norms.len(), cells);
        assert_eq!(self.values.len(), Self::n_values(grids) * cells);
    }

    /// The values of all cells, one after the other: of each level the coordinates, then the rest.
    pub(super) fn values(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.sq_norms.len())
    }

    /// Makes room for an image.
    fn start(&mut self, grids: &[LevelGrid]) {
        let cells = grids[0].shape.cells();
        self.sq_norms.clear();
        self.sq_norms.resize(cells, 0.0);
        self.values.resize(Self::n_values(grids) * cells, 0.0);
    }

    /// Adds a level, given its centred cells, and their squared norms on the finest grid.
    ///
    /// # Safety
    /// The instruction set of `L` must be available, the directions be packed for it, `centred` hold the
    /// level, and `sq_norms` a value for each cell.
    #[inline(always)]
    unsafe fn add_level<L: Lanes, const CELLS: usize>(
        &mut self,
        (level, grid): (usize, &LevelGrid),
        directions: &LeadingDirections,
        centred: &[f32],
        sq_norms: &[f32],
        max_norm: f32,
        scratch: &mut ProjectionScratch,
    ) {
        let (shape, cells) = (grid.shape, self.sq_norms.len());
        let values = &mut self.values[level * PER_LEVEL * cells..][..PER_LEVEL * cells];
        let ProjectionScratch { products, row, .. } = scratch;
        products.resize(shape.cells() * L::WIDTH, 0.0);
        // SAFETY: as promised by the caller; there is a vector of products for each cell.
        unsafe {
            let from = directions.packed[level].as_ptr();
            let (n, to) = (shape.cells(), products.as_mut_ptr());
            strip::<L, 1, CELLS>(from, L::WIDTH, shape.channels, centred, (0..n, n), to);
        }
        let lanes = |at: usize| at * L::WIDTH..at * L::WIDTH + N_DIRECTIONS;
        if shape.cells() == cells {
            for cell in 0..cells {
                for (value, product) in products[lanes(cell)].iter().enumerate() {
                    values[value * cells + cell] = *product;
                }
            }
        } else {
            let fine_width = grid.columns.len();
            row.resize(shape.width * N_DIRECTIONS, 0.0);
            for (at, tap) in grid.rows.iter().enumerate() {
                let (upper, lower) = ((1.0 - tap.second_weight) as f32, tap.second_weight as f32);
                for (column, row) in row.chunks_exact_mut(N_DIRECTIONS).enumerate() {
                    let first = &products[lanes(tap.first * shape.width + column)];
                    let second = &products[lanes(tap.second * shape.width + column)];
                    for ((row, first), second) in row.iter_mut().zip(first).zip(second) {
                        *row = upper * first + lower * second;
                    }
                }
                for (column, tap) in grid.columns.iter().enumerate() {
                    let (left, right) =
                        ((1.0 - tap.second_weight) as f32, tap.second_weight as f32);
                    for value in 0..N_DIRECTIONS {
                        let first = row[tap.first * N_DIRECTIONS + value];
                        let second = row[tap.second * N_DIRECTIONS + value];
                        values[value * cells + at * fine_width + column] =
                            left * first + right * second;
                    }
                }
            }
        }
        let slack = 8.0 * (shape.channels as f32 + 64.0) * UNIT * max_norm * max_norm;
        let (coordinates, rests) = values.split_at_mut(N_DIRECTIONS * cells);
        rests.copy_from_slice(sq_norms);
        for coordinates in coordinates.chunks_exact(cells) {
            for (rest, coordinate) in rests.iter_mut().zip(coordinates) {
                *rest -= coordinate * coordinate;
            }
        }
        for ((rest, total), sq_norm) in rests.iter_mut().zip(&mut self.sq_norms).zip(sq_norms) {
            *rest = (rest.max(0.0) + slack).sqrt() * (1.0 + 4.0 * UNIT);
            *total += sq_norm;
        }
    }
}

/// Adds all levels but the coarsest; leaves the squared norms of each on the finest grid in `sq_norms`.
///
/// # Safety
/// The instruction set of `L` must be available, and the sizes of `image` and `directions` have been
/// checked.
#[inline(always)]
pub(super) unsafe fn project_levels<L: Lanes, const CELLS: usize>(
    grids: &[LevelGrid],
    image: &CentredImage<'_>,
    directions: &LeadingDirections,
    max_norms: &[f32],
    scratch: &mut ProjectionScratch,
    sq_norms: &mut [Vec<f32>],
    leading: &mut LeadingCoordinates,
) {
    leading.start(grids);
    let levels = grids[..grids.len() - 1].iter().zip(sq_norms).enumerate();
    for (level, (grid, sq_norms)) in levels {
        let mut centred = std::mem::take(&mut scratch.centred);
        centred.resize(grid.shape.values(), 0.0);
        let mean = &image.means[level];
        centre_into(image.levels[level], mean, image.scale, &mut centred);
        sq_norms.clear();
        sq_norms.resize(grids[0].shape.cells(), 0.0);
        add_sq_norms(grid, &centred, sq_norms, &mut scratch.norms);
        let (level, max_norm) = ((level, grid), max_norms[level]);
        // SAFETY: as promised by the caller.
        unsafe {
            leading.add_level::<L, CELLS>(level, directions, &centred, sq_norms, max_norm, scratch);
        }
        scratch.centred = centred;
    }
}

/// See [`LeadingCoordinates::of`]; it relies on the sizes that are checked there.
struct ProjectLevels<'a> {
    grids: &'a [LevelGrid],
    image: CentredImage<'a>,
    directions: &'a LeadingDirections,
    max_norms: &'a [f32],
    leading: &'a mut LeadingCoordinates,
}

impl Kernel for ProjectLevels<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let mut scratch = ProjectionScratch::default();
        let mut sq_norms = vec![Vec::new(); self.grids.len() - 1];
        // SAFETY: as promised by the caller.
        unsafe {
            project_levels::<L, CELLS>(
                self.grids,
                &self.image,
                self.directions,
                self.max_norms,
                &mut scratch,
                &mut sq_norms,
                self.leading,
            );
        }
    }
}

#[cfg(test)]
mod tests;
