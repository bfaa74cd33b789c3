//! How images of a shape are gone through; the same for all images.

use crate::pyramid::{LevelGrid, Tap};
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
