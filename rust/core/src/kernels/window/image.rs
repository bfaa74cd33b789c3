//! A gallery image, made ready to be compared within windows.

use super::layout::{PAD, WindowLayout, norm_above};
use crate::kernels::instruction_set::InstructionSet;
use crate::kernels::prepare::{CentredImage, NormScratch, add_sq_norms, centre_into};
use crate::kernels::simd::{Kernel, Lanes, run_kernel};

/// What searches with a window keep of a gallery image: its coarse levels, centred, scaled and packed, and
/// norms. The finest level is read where it is stored.
#[derive(Debug, Default)]
pub(crate) struct WindowImage {
    /// For each coarse level `[row][part][channel][lane]`, with room before and after.
    pub(super) packed: Vec<Vec<f32>>,
    /// `[row][phase][lane]`, with room on both sides of the lanes: the squared norm of a cell, infinite for
    /// what lies outside.
    pub(super) sq_norms: Vec<f32>,
    /// The same for norms of the finest level, rounded up.
    pub(super) fine_norms: Vec<f32>,
}

impl WindowImage {
    /// Makes ready an image on the grids of a layout.
    ///
    /// # Panics
    /// When the image lies on other grids.
    pub(crate) fn new(
        set: InstructionSet,
        layout: &WindowLayout<'_>,
        image: CentredImage<'_>,
    ) -> Self {
        image.check(layout.grids);
        let mut prepared = Self::default();
        let kernel = PrepareWindowImage {
            layout,
            image,
            prepared: &mut prepared,
        };
        // SAFETY: everything is indexed.
        unsafe { run_kernel(set, kernel) };
        prepared
    }
}

struct PrepareWindowImage<'a> {
    layout: &'a WindowLayout<'a>,
    image: CentredImage<'a>,
    prepared: &'a mut WindowImage,
}

impl Kernel for PrepareWindowImage<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            layout,
            image,
            prepared,
        } = self;
        let mut all = vec![0.0; layout.grids[0].shape.cells()];
        let (mut fine, mut values) = (Vec::new(), Vec::new());
        let mut scratch = NormScratch::default();
        for (level, grid) in layout.grids.iter().enumerate() {
            values.resize(grid.shape.values(), 0.0);
            centre_into(
                image.levels[level],
                &image.means[level],
                image.scale,
                &mut values,
            );
            add_sq_norms(grid, &values, &mut all, &mut scratch);
            if level + 1 == layout.n_fine {
                fine.clone_from(&all);
            }
            if level >= layout.n_fine {
                let len = layout.packed_len(&grid.shape);
                let mut packed = vec![0.0; len + 2 * PAD];
                layout.pack(&values, &grid.shape, 1.0, &mut packed[PAD..][..len]);
                prepared.packed.push(packed);
            }
        }
        let channels = layout.fine_channels();
        for norm in &mut fine {
            *norm = norm_above(*norm, channels);
        }
        prepared.sq_norms = by_phases(layout, &all, f32::INFINITY);
        prepared.fine_norms = by_phases(layout, &fine, 0.0);
    }
}

/// A value for each cell where the lanes find it; `outside` stands around.
fn by_phases(layout: &WindowLayout<'_>, cells: &[f32], outside: f32) -> Vec<f32> {
    let width = layout.n_phases * layout.n_lanes;
    let mut values = vec![outside; cells.len() / width * layout.padded_row()];
    let rows = values.chunks_exact_mut(layout.padded_row());
    for (cells, to) in cells.chunks_exact(width).zip(rows) {
        for (column, value) in cells.iter().enumerate() {
            to[layout.padded_at(column.cast_signed())] = *value;
        }
    }
    values
}
