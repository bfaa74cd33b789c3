//! How images of a shape are gone through; the same for all images.

use crate::pyramid::{Area, LevelGrid, LevelShape, Tap};
use std::ops::Range;

/// How images of a shape are gone through.
pub(crate) struct CascadePlan<'a> {
    pub grids: &'a [LevelGrid],
    /// Whether every fine cell lies in one cell of each level (block upsampling). Levels are then
    /// summed up on their own grids, each cell for all the finer cells in it; otherwise on the
    /// finest grid.
    pub nested: bool,
    /// Fine rows by the rows of the coarsest level that they lie between.
    pub bands: Vec<Band>,
    /// The same for columns.
    pub segments: Vec<Band>,
    /// Where the fine rows and columns of each level come from.
    pub(super) taps: Vec<(Vec<FastTap>, Vec<FastTap>)>,
    /// For each level but the coarsest, the cells of it that lie in one cell of the next coarser level,
    /// when levels are nested.
    pub(super) children: Vec<Vec<Child>>,
}

/// A cell among those that lie in one coarser cell, as seen from the first of them.
#[derive(Clone, Copy)]
pub(super) struct Child {
    pub row: usize,
    pub column: usize,
    /// How many cells after the first it is.
    pub offset: usize,
}

impl<'a> CascadePlan<'a> {
    /// The shape of the coarsest level.
    pub(crate) const fn coarsest(&self) -> LevelShape {
        self.grids[self.grids.len() - 1].shape
    }

    pub(crate) fn new(grids: &'a [LevelGrid]) -> Self {
        let is_nested = |taps: &[Tap], coarse: usize| {
            let ratio = taps.len() / coarse;
            let mut taps = taps.iter().enumerate();
            taps.all(|(fine, tap)| tap.second_weight == 0.0 && tap.first == fine / ratio)
        };
        let coarsest = &grids[grids.len() - 1];
        let children = |pair: &[LevelGrid]| {
            let (shape, parent) = (pair[0].shape, pair[1].shape);
            let (tall, wide) = (shape.height / parent.height, shape.width / parent.width);
            let child = |(row, column)| Child {
                row,
                column,
                offset: row * shape.width + column,
            };
            let places = (0..tall).flat_map(|row| (0..wide).map(move |column| (row, column)));
            places.map(child).collect()
        };
        Self {
            grids,
            nested: grids.iter().all(|grid| {
                is_nested(&grid.rows, grid.shape.height)
                    && is_nested(&grid.columns, grid.shape.width)
            }),
            children: grids.windows(2).map(children).collect(),
            bands: Band::table(&coarsest.rows),
            segments: Band::table(&coarsest.columns),
            taps: grids
                .iter()
                .map(|grid| {
                    let rows = FastTap::table(&grid.rows, grid.shape.width);
                    (rows, FastTap::table(&grid.columns, 1))
                })
                .collect(),
        }
    }
}

/// An area of gallery images, and what lies in it on the coarser levels.
pub(crate) struct PlannedArea {
    /// On the finest level.
    pub area: Area,
    /// Places in [`CascadePlan::bands`] and [`CascadePlan::segments`].
    pub(super) bands: Range<usize>,
    pub(super) segments: Range<usize>,
    /// Columns of the coarsest level that the area is interpolated from.
    pub(super) columns: Range<usize>,
    /// For each level, its cells that fine cells of the area lie in.
    pub(super) levels: Vec<Area>,
    /// For each row of the area, and for each column, the lanes whose queries are compared with it, as
    /// bits; empty where all queries are compared with all cells.
    row_lanes: Vec<u32>,
    column_lanes: Vec<u32>,
}

impl PlannedArea {
    /// The area around the windows of some lanes, which may have none.
    pub(crate) fn new(plan: &CascadePlan<'_>, area: Area, windows: &[Option<Area>]) -> Self {
        let (finest, coarsest) = (plan.grids[0].shape, plan.grids.len() - 1);
        let part = |bands: &[Band], fine: &Range<usize>| {
            let first = bands.partition_point(|band| band.fine.end <= fine.start);
            first..bands.partition_point(|band| band.fine.start < fine.end)
        };
        let coarser =
            |fine: &Range<usize>, ratio: usize| fine.start / ratio..fine.end.div_ceil(ratio);
        let levels = plan.grids.iter().map(|grid| Area {
            rows: coarser(&area.rows, finest.height / grid.shape.height),
            columns: coarser(&area.columns, finest.width / grid.shape.width),
        });
        let columns = &plan.grids[coarsest].columns;
        Self {
            bands: part(&plan.bands, &area.rows),
            segments: part(&plan.segments, &area.columns),
            columns: columns[area.columns.start].first..columns[area.columns.end - 1].second + 1,
            levels: levels.collect(),
            row_lanes: lanes_of(windows, area.rows.clone(), |window| &window.rows),
            column_lanes: lanes_of(windows, area.columns.clone(), |window| &window.columns),
            area,
        }
    }

    /// Panics unless it lies within the grids of a plan.
    pub(super) fn check(&self, plan: &CascadePlan<'_>) {
        let (finest, coarsest) = (plan.grids[0].shape, plan.grids[plan.grids.len() - 1].shape);
        assert!(self.area.rows.end <= finest.height && self.area.columns.end <= finest.width);
        assert!(self.bands.end <= plan.bands.len() && self.segments.end <= plan.segments.len());
        assert!(self.columns.end <= coarsest.width);
        assert_eq!(self.levels.len(), plan.grids.len());
        let coarse = &self.levels[self.levels.len() - 1];
        assert!(coarse.rows.end <= coarsest.height && coarse.columns.end <= coarsest.width);
    }

    /// Whether a fine cell is compared with any of the queries in some lanes.
    #[inline(always)]
    pub(super) fn is_near(&self, row: usize, column: usize, lanes: u32) -> bool {
        self.row_lanes.is_empty()
            || self.row_lanes[row - self.area.rows.start]
                & self.column_lanes[column - self.area.columns.start]
                & lanes
                != 0
    }

    /// Number of cells of a level that fine cells of the area lie in.
    pub(crate) fn n_cells(&self, level: usize) -> usize {
        let area = &self.levels[level];
        area.rows.len() * area.columns.len()
    }
}

/// For each row (or column) of an area the lanes whose windows hold it, as bits.
fn lanes_of(
    windows: &[Option<Area>],
    rows: Range<usize>,
    of: fn(&Area) -> &Range<usize>,
) -> Vec<u32> {
    if windows.is_empty() {
        return Vec::new();
    }
    let holds = |window: &Option<Area>, row| window.as_ref().is_some_and(|w| of(w).contains(&row));
    let lanes = |row: usize| {
        let lanes = windows.iter().enumerate();
        lanes
            .map(|(lane, window)| u32::from(holds(window, row)) << lane)
            .sum()
    };
    rows.map(lanes).collect()
}

/// Fine rows (or columns) between the same two coarse ones.
pub(crate) struct Band {
    pub fine: Range<usize>,
    pub first: usize,
    pub second: usize,
}

impl Band {
    fn table(taps: &[Tap]) -> Vec<Self> {
        let mut bands: Vec<Self> = Vec::new();
        for (fine, tap) in taps.iter().enumerate() {
            match bands.last_mut() {
                Some(band) if band.first == tap.first => {
                    band.fine.end = fine + 1;
                    band.second = band.second.max(tap.second);
                }
                _ => bands.push(Self {
                    fine: fine..fine + 1,
                    first: tap.first,
                    second: tap.second,
                }),
            }
        }
        bands
    }
}

/// A [`Tap`] as the kernels want it.
#[derive(Clone, Copy)]
pub(super) struct FastTap {
    pub first: usize,
    /// From the first cell to the second: 0 where they are the same.
    pub step: usize,
    pub first_weight: f32,
    pub second_weight: f32,
}

impl FastTap {
    /// `stride` is the number of cells from one row, or column, to the next.
    fn table(taps: &[Tap], stride: usize) -> Vec<Self> {
        let fast = |tap: &Tap| Self {
            first: tap.first * stride,
            step: (tap.second - tap.first) * stride,
            first_weight: (1.0 - tap.second_weight) as f32,
            second_weight: tap.second_weight as f32,
        };
        taps.iter().map(fast).collect()
    }
}
