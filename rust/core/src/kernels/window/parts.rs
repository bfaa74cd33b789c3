//! The columns of a coarse level by parts: which of its products are taken, and how they are blended.

use super::layout::WindowLayout;
use crate::pyramid::{LevelGrid, Tap};
use std::ops::Range;

/// Products of the cells of a part with gallery cells of the level, some columns away.
#[derive(Clone, Copy)]
pub(super) struct PartProduct {
    /// Of the query.
    pub part: usize,
    /// Of the gallery image.
    pub of_part: usize,
    /// How many lanes farther right that is.
    pub lanes: isize,
}

/// Where a phase finds one of the coarse columns that it lies between.
pub(super) struct PhaseTap {
    /// The blend of the gallery column in its own place; those of other shifts come before and after.
    pub blend: isize,
    /// How many lanes farther right the coarse column is.
    pub lanes: isize,
    /// For each lane.
    pub weights: Vec<f32>,
}

/// Two products that follow each other, blended for a fine column of the gallery.
pub(super) struct ColumnBlend {
    /// The first product.
    pub first: usize,
    /// `[tap][lane]`.
    pub weights: Vec<f32>,
}

/// A coarse level by parts.
pub(super) struct LevelParts {
    /// Columns for each of the coarsest level.
    pub n_parts: usize,
    /// A fine column lies between so many coarse ones: 1 or 2.
    pub n_taps: usize,
    /// By part, then by shift.
    pub products: Vec<PartProduct>,
    /// The products of each part.
    pub runs: Vec<Range<usize>>,
    /// By part, then by column.
    pub blends: Vec<ColumnBlend>,
    /// For each phase.
    pub taps: Vec<Vec<PhaseTap>>,
    /// How many lanes away that is at most.
    pub reach: usize,
}

impl LevelParts {
    /// The parts of a level, for queries whose phases have these shifts.
    pub fn new(grid: &LevelGrid, layout: &WindowLayout<'_>, shifts: &[Range<isize>]) -> Self {
        let columns = CoarseColumns::new(grid, layout);
        let n_phases = layout.n_phases.cast_signed();
        // The fine gallery columns, seen from lane 0, that each part is blended with.
        let mut near = vec![None::<Range<isize>>; columns.n_parts];
        for (phase, shifts) in (0..).zip(shifts) {
            for tap in 0..columns.n_taps {
                let (part, lanes) = columns.place(phase, tap);
                let own = phase - lanes * n_phases;
                let (start, end) = (own + shifts.start, own + shifts.end);
                near[part] = Some(match &near[part] {
                    Some(near) => near.start.min(start)..near.end.max(end),
                    None => start..end,
                });
            }
        }
        let mut parts = Self {
            n_parts: columns.n_parts,
            n_taps: columns.n_taps,
            products: Vec::new(),
            runs: Vec::new(),
            blends: Vec::new(),
            taps: Vec::new(),
            reach: 0,
        };
        let mut first_blends = Vec::new();
        for (part, near) in near.into_iter().enumerate() {
            // Where there are few phases, a part may have no share in any.
            let near = near.unwrap_or(0..0);
            first_blends.push(parts.blends.len().cast_signed() - near.start);
            parts.add_part(part, near, &columns);
        }
        for phase in 0..n_phases {
            let tap = |tap: usize| {
                let (part, lanes) = columns.place(phase, tap);
                PhaseTap {
                    blend: first_blends[part] + phase - lanes * n_phases,
                    lanes,
                    weights: columns.weights(phase, tap),
                }
            };
            parts.taps.push((0..columns.n_taps).map(tap).collect());
        }
        let products = parts.products.iter().map(|product| product.lanes);
        let lanes = products.chain(parts.taps.iter().flatten().map(|tap| tap.lanes));
        parts.reach = lanes.map(isize::unsigned_abs).max().unwrap_or(0);
        parts
    }

    /// Adds the products and the blends of a part with some fine columns.
    fn add_part(&mut self, part: usize, near: Range<isize>, columns: &CoarseColumns<'_>) {
        let start = self.products.len();
        if !near.is_empty() {
            let nearest = columns.first(near.start);
            let farthest = columns.first(near.end - 1) + self.n_taps.cast_signed() - 1;
            for column in nearest..=farthest {
                self.products.push(PartProduct {
                    part,
                    of_part: column.rem_euclid(self.n_parts.cast_signed()) as usize,
                    lanes: column.div_euclid(self.n_parts.cast_signed()),
                });
            }
            for column in near {
                let taps = 0..self.n_taps;
                self.blends.push(ColumnBlend {
                    first: start + (columns.first(column) - nearest) as usize,
                    weights: taps.flat_map(|tap| columns.weights(column, tap)).collect(),
                });
            }
        }
        self.runs.push(start..self.products.len());
    }
}

/// The coarse columns that fine columns lie between, as if both went on beyond the borders.
struct CoarseColumns<'a> {
    grid: &'a LevelGrid,
    n_phases: usize,
    n_parts: usize,
    stride: usize,
    n_taps: usize,
    /// Fine columns for each coarse one.
    ratio: isize,
}

impl<'a> CoarseColumns<'a> {
    fn new(grid: &'a LevelGrid, layout: &WindowLayout<'_>) -> Self {
        let is_blended = grid.columns.iter().any(|tap| tap.second_weight != 0.0);
        let n_parts = layout.n_parts(&grid.shape);
        Self {
            grid,
            n_phases: layout.n_phases,
            n_parts,
            stride: layout.stride,
            n_taps: if is_blended { 2 } else { 1 },
            ratio: (layout.n_phases / n_parts).cast_signed(),
        }
    }

    /// The first coarse column of a fine one, both seen from lane 0.
    const fn first(&self, column: isize) -> isize {
        if self.n_taps == 2 {
            (2 * column + 1 - self.ratio).div_euclid(2 * self.ratio)
        } else {
            column.div_euclid(self.ratio)
        }
    }

    /// The part that one of the coarse columns of a fine one belongs to, and how many lanes farther right it is.
    const fn place(&self, column: isize, tap: usize) -> (usize, isize) {
        let coarse = self.first(column) + tap.cast_signed();
        let n_parts = self.n_parts.cast_signed();
        (
            coarse.rem_euclid(n_parts) as usize,
            coarse.div_euclid(n_parts),
        )
    }

    /// The weight of one of the coarse columns of a fine one, in each lane; 0 for what lies beyond the border.
    fn weights(&self, column: isize, tap: usize) -> Vec<f32> {
        let weight = |lane: usize| {
            let fine = (lane * self.n_phases).cast_signed() + column;
            let coarse =
                (lane * self.n_parts).cast_signed() + self.first(column) + tap.cast_signed();
            let of = |taps: &Tap| {
                let is = |at: usize| isize::try_from(at) == Ok(coarse);
                match (is(taps.first), is(taps.second)) {
                    (true, true) => 1.0,
                    (true, false) => 1.0 - taps.second_weight,
                    (false, true) => taps.second_weight,
                    (false, false) => 0.0,
                }
            };
            let fine = usize::try_from(fine).ok();
            let taps = fine.and_then(|at| self.grid.columns.get(at));
            taps.map_or(0.0, of) as f32
        };
        (0..self.stride).map(weight).collect()
    }
}
