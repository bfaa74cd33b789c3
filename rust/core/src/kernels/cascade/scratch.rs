//! Working memory of the cascade, and the cells that are still in question.

use super::level_cells::{LevelCells, Packed4Cells};
use crate::kernels::simd::Lanes;
use crate::pyramid::{Area, LevelGrid};

/// Working memory of the cascade, kept between images.
#[derive(Default)]
pub(crate) struct CascadeScratch {
    pub(super) entries: [Entries; 2],
    pub(super) level_cells: Vec<LevelCells>,
    pub(super) packed4: Vec<Packed4Cells>,
    pub(super) surviving: Vec<u32>,
    /// Whether the products of a cell of a level are wanted; all false between uses.
    pub(super) flags: Vec<bool>,
    /// Cells that products are taken of, and the products.
    pub(super) wanted: Vec<usize>,
    pub(super) products: Vec<f32>,
    pub(super) order: Vec<u32>,
    /// For each cell of the coarsest level of the query, the largest limit of the patches in it, and
    /// the cells of the gallery image that may be within it.
    pub(super) corner_limits: Vec<f32>,
    pub(super) corner_cells: Vec<Vec<u32>>,
}

impl CascadeScratch {
    /// Forgets the cells of the last image, and makes room for vectors of `width` lanes.
    pub(super) fn start_image(&mut self, grids: &[LevelGrid], width: usize) {
        self.level_cells
            .resize_with(grids.len(), LevelCells::default);
        self.packed4.resize_with(grids.len(), Packed4Cells::default);
        self.level_cells.iter_mut().for_each(LevelCells::forget);
        self.packed4.iter_mut().for_each(Packed4Cells::forget);
        for entries in &mut self.entries {
            entries.reserve(grids[0].shape.cells(), width);
        }
    }
}

/// Cells that are still in question, and for each the sums of the levels so far, of all lanes.
#[derive(Default)]
pub(super) struct Entries {
    pub rows: Vec<u32>,
    pub columns: Vec<u32>,
    pub sums: Vec<f32>,
    pub len: usize,
}

impl Entries {
    fn reserve(&mut self, len: usize, width: usize) {
        if self.rows.len() < len {
            self.rows.resize(len, 0);
            self.columns.resize(len, 0);
        }
        if self.sums.len() < len * width {
            self.sums.resize(len * width, 0.0);
        }
    }

    /// Drops the entries outside of an area; sums have `width` lanes.
    pub fn keep_within(&mut self, area: &Area, width: usize) {
        let mut kept = 0;
        for at in 0..self.len {
            let (row, column) = (self.rows[at], self.columns[at]);
            if area.contains(row as usize, column as usize) {
                (self.rows[kept], self.columns[kept]) = (row, column);
                self.sums
                    .copy_within(at * width..(at + 1) * width, kept * width);
                kept += 1;
            }
        }
        self.len = kept;
    }

    /// # Safety
    /// There must be room, and the instruction set of `L` available.
    #[inline(always)]
    pub unsafe fn push<L: Lanes>(&mut self, row: usize, column: usize, sums: L) {
        debug_assert!(self.len < self.rows.len());
        // SAFETY: as promised by the caller.
        unsafe {
            *self.rows.get_unchecked_mut(self.len) = row as u32;
            *self.columns.get_unchecked_mut(self.len) = column as u32;
            sums.store(self.sums.as_mut_ptr().add(self.len * L::WIDTH));
        }
        self.len += 1;
    }

    /// # Safety
    /// `at` must be below `len`, and the instruction set of `L` available.
    #[inline(always)]
    pub unsafe fn sums<L: Lanes>(&self, at: usize) -> L {
        debug_assert!(at < self.len);
        // SAFETY: as promised by the caller; as many vectors were pushed.
        unsafe { L::load(self.sums.as_ptr().add(at * L::WIDTH)) }
    }
}
