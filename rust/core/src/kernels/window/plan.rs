//! What is compared within a window, and what that is interpolated from; the same for all images.

use super::layout::{PAD, WindowLayout};
use super::parts::LevelParts;
use crate::kernels::instruction_set::InstructionSet;
use crate::kernels::tile::NO_QUERY;
use crate::pyramid::{LevelGrid, Window};
use std::ops::Range;

/// More coarse columns than these, one or two of each coarse level, are not blended at once.
pub(super) const MAX_TERMS: usize = 8;

/// How cells are compared within a window.
pub(crate) struct WindowPlan<'a> {
    pub layout: WindowLayout<'a>,
    pub(super) window: &'a Window,
    /// The instruction set of the kernels.
    pub set: InstructionSet,
    /// For each phase the shifts of its queries. Where a lane is nearer to the border, some of them lie beyond.
    pub(super) shifts: Vec<Range<isize>>,
    /// Of each coarse level.
    pub(super) coarse: Vec<LevelParts>,
    /// The coarse columns that a fine one lies between, for each phase.
    pub(super) terms: Vec<Vec<Term>>,
    /// The leftmost gallery column, seen from phase 0, and where its values and those of the columns after
    /// it are in a row of norms.
    pub(super) first_column: isize,
    pub(super) column_at: Vec<usize>,
}

/// One of the coarse columns that the fine columns of a phase lie between.
pub(super) struct Term {
    /// Which coarse level.
    pub level: usize,
    /// Where its blends begin in [`LevelProducts::blends`](super::products::LevelProducts), at the first shift.
    pub blends: usize,
    /// For each lane.
    pub weights: Vec<f32>,
}

impl<'a> WindowPlan<'a> {
    /// The plan for pyramids on these grids; None where these do not suit, or the window is too wide.
    pub(crate) fn new(
        set: InstructionSet,
        grids: &'a [LevelGrid],
        window: &'a Window,
    ) -> Option<Self> {
        let layout = WindowLayout::new(grids)?;
        let n_phases = layout.n_phases;
        let phases = 0..n_phases;
        let shifts: Vec<Range<isize>> = phases
            .clone()
            .map(|phase| shifts_of(window, phase, n_phases))
            .collect();
        let coarse: Vec<LevelParts> = grids[layout.n_fine..]
            .iter()
            .map(|grid| LevelParts::new(grid, &layout, &shifts))
            .collect();
        let columns = || shifts.iter().zip(0..);
        let first_column = columns()
            .map(|(shifts, phase)| phase + shifts.start)
            .min()?;
        let last_column = columns().map(|(shifts, phase)| phase + shifts.end).max()? - 1;
        let lane = |column: isize| column.div_euclid(n_phases.cast_signed()).unsigned_abs();
        let reach = lane(first_column).max(lane(last_column));
        let n_terms: usize = coarse.iter().map(|level| level.n_taps).sum();
        let reach = coarse
            .iter()
            .map(|level| level.reach)
            .fold(reach, usize::max);
        if n_terms > MAX_TERMS || reach > PAD {
            return None;
        }
        let terms = |phase: usize| {
            let levels = coarse.iter().enumerate();
            let of_level = |(level, parts): (usize, &LevelParts)| {
                let taps = parts.taps[phase].iter();
                let term = |tap: &super::parts::PhaseTap| Term {
                    level,
                    blends: (PAD + (tap.blend + shifts[phase].start) as usize * layout.stride)
                        .wrapping_add_signed(tap.lanes),
                    weights: tap.weights.clone(),
                };
                taps.map(term).collect::<Vec<_>>()
            };
            levels.flat_map(of_level).collect()
        };
        Some(Self {
            window,
            set: layout.set_for(set),
            terms: phases.map(terms).collect(),
            coarse,
            first_column,
            column_at: (first_column..=last_column)
                .map(|column| layout.padded_at(column))
                .collect(),
            shifts,
            layout,
        })
    }

    /// The grids that it was made for.
    pub(crate) const fn grids(&self) -> &'a [LevelGrid] {
        self.layout.grids
    }

    /// Whether columns are blended, not repeated.
    pub(crate) fn is_blended(&self) -> bool {
        self.coarse.iter().any(|parts| parts.n_taps == 2)
    }

    /// The fine cells in the lanes of a row, phase by phase, or [`NO_QUERY`].
    pub(crate) fn cells_of(&self, row: usize) -> impl Iterator<Item = u32> {
        let (n_phases, n_lanes) = (self.layout.n_phases, self.layout.n_lanes);
        let (stride, first) = (self.layout.stride, row * n_phases * n_lanes);
        let lanes = (0..n_phases).flat_map(move |phase| (0..stride).map(move |lane| (phase, lane)));
        lanes.map(move |(phase, lane)| {
            let cell = first + lane * n_phases + phase;
            if lane < n_lanes {
                cell as u32
            } else {
                NO_QUERY
            }
        })
    }
}

/// The shifts of all queries of a phase.
fn shifts_of(window: &Window, phase: usize, n_phases: usize) -> Range<isize> {
    let columns = window.columns().iter().enumerate();
    let of_phase = columns.skip(phase).step_by(n_phases);
    of_phase.fold(0..1, |shifts, (column, near)| {
        let (start, end) = (near.start.cast_signed(), near.end.cast_signed());
        let column = column.cast_signed();
        shifts.start.min(start - column)..shifts.end.max(end - column)
    })
}
