//! Some rows of a query image, packed.

use super::layout::norm_above;
use super::plan::WindowPlan;
use crate::kernels::prepare::dot;
use crate::pyramid::Tap;
use std::ops::Range;

/// Some rows of a query image, packed.
pub(crate) struct QueryBand<'a> {
    pub(super) plan: &'a WindowPlan<'a>,
    /// Of the finest level.
    pub rows: Range<usize>,
    /// The centred levels of the query image.
    pub(super) centred: &'a [Vec<f32>],
    pub(super) coarse: Vec<QueryRows>,
    /// `[row][phase][lane]`: a norm that the finest level does not exceed, multiplied by -2.
    pub(super) rests: Vec<f32>,
}

/// The rows of a coarse level that some fine rows are interpolated from.
pub(super) struct QueryRows {
    pub first: usize,
    /// `[row][part][channel][lane]`, multiplied by -2.
    pub values: Vec<f32>,
    /// For each row, the rows of the gallery's level that it is compared with.
    pub near: Vec<Range<usize>>,
}

impl<'a> QueryBand<'a> {
    /// Packs some rows of the finest level of a centred query image.
    ///
    /// # Panics
    /// When the levels are not those of the plan, or there are no such rows.
    pub(crate) fn new(
        plan: &'a WindowPlan<'a>,
        centred: &'a [Vec<f32>],
        rows: Range<usize>,
    ) -> Self {
        assert_eq!(centred.len(), plan.grids().len());
        for (grid, values) in plan.grids().iter().zip(centred) {
            assert_eq!(values.len(), grid.shape.values());
        }
        let coarse = plan.layout.n_fine..plan.grids().len();
        Self {
            coarse: coarse
                .map(|level| QueryRows::new(plan, level, &centred[level], &rows))
                .collect(),
            rests: rests_of(plan, centred, &rows),
            plan,
            rows,
            centred,
        }
    }
}

impl QueryRows {
    fn new(plan: &WindowPlan<'_>, level: usize, centred: &[f32], fine: &Range<usize>) -> Self {
        let (layout, grid) = (&plan.layout, &plan.grids()[level]);
        let rows = grid.rows[fine.start].first..grid.rows[fine.end - 1].second + 1;
        let row_values = grid.shape.width * grid.shape.channels;
        let mut values = vec![0.0; rows.len() * layout.packed_len(&grid.shape) / grid.shape.height];
        let from = &centred[rows.start * row_values..rows.end * row_values];
        layout.pack(from, &grid.shape, -2.0, &mut values);
        let near = |row: usize| {
            let is_under = |tap: &Tap| tap.first == row || tap.second == row;
            let over = fine.clone().filter(|&at| is_under(&grid.rows[at]));
            let taps = over.map(|at| {
                let near = &plan.window.rows()[at];
                grid.rows[near.start].first..grid.rows[near.end - 1].second + 1
            });
            let join = |a: Range<usize>, b: Range<usize>| a.start.min(b.start)..a.end.max(b.end);
            taps.reduce(join).unwrap_or(0..0)
        };
        Self {
            first: rows.start,
            values,
            near: rows.map(near).collect(),
        }
    }
}

fn rests_of(plan: &WindowPlan<'_>, centred: &[Vec<f32>], rows: &Range<usize>) -> Vec<f32> {
    let (layout, channels) = (&plan.layout, plan.layout.fine_channels());
    let mut rests = vec![0.0; rows.len() * layout.row_lanes()];
    for (row, rests) in rows.clone().zip(rests.chunks_exact_mut(layout.row_lanes())) {
        for (phase, rests) in rests.chunks_exact_mut(layout.stride).enumerate() {
            for (lane, rest) in rests.iter_mut().take(layout.n_lanes).enumerate() {
                let cell = (row * layout.n_lanes + lane) * layout.n_phases + phase;
                let levels = plan.grids()[..layout.n_fine].iter().zip(centred);
                let sq_norms = levels.map(|(grid, values)| {
                    let channels = grid.shape.channels;
                    let values = &values[cell * channels..][..channels];
                    dot(values, values)
                });
                *rest = -2.0 * norm_above(sq_norms.sum(), channels);
            }
        }
    }
    rests
}
