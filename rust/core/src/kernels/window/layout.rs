//! Where the cells of pyramids on some grids lie in vectors; the same for all instruction sets and windows.

use crate::kernels::instruction_set::InstructionSet;
use crate::pyramid::{LevelGrid, LevelShape};

/// Lanes are rounded up to a multiple of this.
const LANES: usize = 8;

/// So many lanes to either side may be looked at.
pub(super) const PAD: usize = 4;

/// Where cells lie in vectors.
pub(crate) struct WindowLayout<'a> {
    pub(super) grids: &'a [LevelGrid],
    /// So many levels have the size of the finest one; the others are coarse.
    pub(super) n_fine: usize,
    /// Fine columns for each of the coarsest level.
    pub(super) n_phases: usize,
    /// Columns of the coarsest level.
    pub(super) n_lanes: usize,
    /// The same, rounded up to whole vectors.
    pub(super) stride: usize,
}

impl<'a> WindowLayout<'a> {
    /// The layout of pyramids on these grids; None if there are no coarse levels, or the columns of the coarsest
    /// would leave most lanes empty.
    pub(crate) fn new(grids: &'a [LevelGrid]) -> Option<Self> {
        let (finest, coarsest) = (grids[0].shape, grids[grids.len() - 1].shape);
        let is_fine = |grid: &&LevelGrid| grid.shape.cells() == finest.cells();
        let n_fine = grids.iter().take_while(is_fine).count();
        let n_lanes = coarsest.width;
        let stride = n_lanes.next_multiple_of(LANES);
        (n_fine < grids.len() && 2 * n_lanes >= stride).then_some(Self {
            grids,
            n_fine,
            n_phases: finest.width / n_lanes,
            n_lanes,
            stride,
        })
    }

    /// The widest vectors, up to those of a set, of which lanes are a multiple.
    pub(super) fn set_for(&self, set: InstructionSet) -> InstructionSet {
        let sets = InstructionSet::available().into_iter().rev();
        let mut fits =
            sets.filter(|other| *other <= set && self.stride.is_multiple_of(other.width()));
        fits.next().unwrap_or(InstructionSet::Portable)
    }

    /// Lanes of a row.
    pub(super) const fn row_lanes(&self) -> usize {
        self.n_phases * self.stride
    }

    /// Values of a row of norms of an image, which has room for what lies outside.
    pub(super) const fn padded_row(&self) -> usize {
        self.n_phases * (self.stride + 2 * PAD)
    }

    /// Where the value of a fine column, seen from lane 0, is in such a row.
    pub(super) fn padded_at(&self, column: isize) -> usize {
        let n_phases = self.n_phases.cast_signed();
        let phase = column.rem_euclid(n_phases) as usize;
        let lane = column.div_euclid(n_phases);
        (phase * (self.stride + 2 * PAD) + PAD).wrapping_add_signed(lane)
    }

    /// Channels of all levels of the finest size.
    pub(super) fn fine_channels(&self) -> usize {
        let fine = self.grids[..self.n_fine].iter();
        fine.map(|grid| grid.shape.channels).sum()
    }

    /// Columns of a level for each of the coarsest level.
    pub(super) const fn n_parts(&self, level: &LevelShape) -> usize {
        level.width / self.n_lanes
    }

    /// Values of a coarse level when packed.
    pub(super) const fn packed_len(&self, level: &LevelShape) -> usize {
        level.height * self.n_parts(level) * level.channels * self.stride
    }

    /// Packs whole rows of a level as `[row][part][channel][lane]`, multiplied by `factor`.
    #[inline(always)]
    pub(super) fn pack(&self, from: &[f32], level: &LevelShape, factor: f32, to: &mut [f32]) {
        let (n_parts, channels) = (self.n_parts(level), level.channels);
        let rows = from.chunks_exact(level.width * channels);
        for (row, to) in rows.zip(to.chunks_exact_mut(n_parts * channels * self.stride)) {
            for (part, to) in to.chunks_exact_mut(channels * self.stride).enumerate() {
                let cells = row.chunks_exact(channels).skip(part).step_by(n_parts);
                for (lane, cell) in cells.enumerate() {
                    for (to, value) in to[lane..].iter_mut().step_by(self.stride).zip(cell) {
                        *to = factor * value;
                    }
                }
            }
        }
    }
}

/// More than the norm of a few centred values, given the sum of their squares: they were rounded once, the
/// sum once for each of `channels`, and squares may have been too small for float32.
#[inline(always)]
pub(super) fn norm_above(sq_norm: f32, channels: usize) -> f32 {
    sq_norm.sqrt() * (1.0 + (channels + 16) as f32 * f32::EPSILON) + 1e-18
}
