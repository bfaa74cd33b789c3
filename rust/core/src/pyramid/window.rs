//! Position windows: which cells of a gallery image a query cell is compared with.

use super::shape::{LevelShape, PyramidShape};
use crate::error::{Error, Result};
use std::ops::Range;

/// Which cells of a gallery image a query cell is compared with: those whose place is not far from its
/// own.
///
/// A window has a radius for each level, in cells of that level. A cell of the finest level lies in one
/// cell of each level; two cells are compared if on every level the cells that they lie in are not more
/// than the radius of that level apart, in rows and in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// For each row of the finest level, the rows that are compared with it. Neither their beginnings
    /// nor their ends decrease from row to row.
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
}

impl Window {
    /// The window with these radii, one for each level, finest first; `None` is any distance. There is
    /// no window if everything is within it.
    ///
    /// # Errors
    /// [`Error::Parameter`] when there is not one radius for each level.
    pub fn new(shape: &PyramidShape, radii: &[Option<usize>]) -> Result<Option<Self>> {
        let levels = shape.levels();
        if radii.len() != levels.len() {
            return Err(Error::parameter(
                "window",
                format!(
                    "window: expected one number, or one for each of {} levels, got {}",
                    levels.len(),
                    radii.len()
                ),
            ));
        }
        let along = |length: fn(&LevelShape) -> usize| {
            let fine = length(&levels[0]);
            let levels: Vec<_> = radii.iter().zip(levels.iter().map(length)).collect();
            (0..fine).map(move |at| near(at, fine, &levels)).collect()
        };
        let window = Self {
            rows: along(|level| level.height),
            columns: along(|level| level.width),
        };
        let is_everything = |ranges: &[Range<usize>]| {
            let n = ranges.len();
            ranges.iter().all(|range| *range == (0..n))
        };
        let is_none = is_everything(&window.rows) && is_everything(&window.columns);
        Ok((!is_none).then_some(window))
    }

    /// For each row of the finest level, the rows that are compared with it.
    #[must_use]
    pub fn rows(&self) -> &[Range<usize>] {
        &self.rows
    }

    /// The same for columns.
    #[must_use]
    pub fn columns(&self) -> &[Range<usize>] {
        &self.columns
    }

    /// The number of cells of a gallery image that every cell is compared with at least: one at a
    /// corner has the fewest.
    #[must_use]
    pub fn fewest_cells(&self) -> usize {
        let fewest = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).min().unwrap_or(0);
        fewest(&self.rows) * fewest(&self.columns)
    }

    /// The number of cells of a gallery image that any cell is compared with at most.
    pub(crate) fn most_cells(&self) -> usize {
        let most = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).max().unwrap_or(0);
        most(&self.rows) * most(&self.columns)
    }

    /// Whether it is one for levels of this height and width.
    pub(crate) fn fits(&self, finest: &LevelShape) -> bool {
        (self.rows.len(), self.columns.len()) == (finest.height, finest.width)
    }

    /// How many cells of a gallery image a cell is compared with.
    pub(crate) fn n_cells(&self, cell: usize) -> usize {
        let (row, column) = self.place(cell);
        self.rows[row].len() * self.columns[column].len()
    }

    /// Whether a query cell is compared with a gallery cell.
    pub(crate) fn contains(&self, query: usize, cell: usize) -> bool {
        let ((row, column), (other_row, other_column)) = (self.place(query), self.place(cell));
        self.rows[row].contains(&other_row) && self.columns[column].contains(&other_column)
    }

    /// The smallest area that holds all gallery cells that any of some cells is compared with.
    pub(crate) fn around(&self, cells: impl Iterator<Item = usize>) -> Area {
        let mut area: Option<Area> = None;
        for cell in cells {
            let (row, column) = self.place(cell);
            let (rows, columns) = (self.rows[row].clone(), self.columns[column].clone());
            area = Some(match area {
                None => Area { rows, columns },
                Some(area) => Area {
                    rows: join(&area.rows, &rows),
                    columns: join(&area.columns, &columns),
                },
            });
        }
        area.unwrap_or_default()
    }

    const fn place(&self, cell: usize) -> (usize, usize) {
        (cell / self.columns.len(), cell % self.columns.len())
    }
}

/// A rectangle of cells of the finest level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Area {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
}

impl Area {
    /// All cells of a level.
    pub(crate) const fn all(level: &LevelShape) -> Self {
        Self {
            rows: 0..level.height,
            columns: 0..level.width,
        }
    }

    /// Whether a cell lies in it.
    pub(crate) fn contains(&self, row: usize, column: usize) -> bool {
        self.rows.contains(&row) && self.columns.contains(&column)
    }
}

/// The rows (or columns) that are compared with the one at `at`, of `fine` on the finest level.
fn near(at: usize, fine: usize, levels: &[(&Option<usize>, usize)]) -> Range<usize> {
    let mut near = 0..fine;
    for &(radius, n) in levels {
        if let Some(radius) = *radius {
            let (ratio, own) = (fine / n, at / (fine / n));
            let last = own.saturating_add(radius).min(n - 1);
            near.start = near.start.max(own.saturating_sub(radius) * ratio);
            near.end = near.end.min((last + 1) * ratio);
        }
    }
    near
}

fn join(one: &Range<usize>, other: &Range<usize>) -> Range<usize> {
    one.start.min(other.start)..one.end.max(other.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> PyramidShape {
        PyramidShape::new(&[(4, 8, 1), (2, 4, 1)]).unwrap()
    }

    #[test]
    fn radii_are_in_cells_of_their_level_and_all_hold() {
        let window = Window::new(&shape(), &[Some(1), None]).unwrap().unwrap();
        assert_eq!(window.rows(), [0..2, 0..3, 1..4, 2..4]);
        assert_eq!(window.fewest_cells(), 4);
        let window = Window::new(&shape(), &[None, Some(0)]).unwrap().unwrap();
        assert_eq!(window.rows(), [0..2, 0..2, 2..4, 2..4]);
        assert_eq!(window.columns()[5], 4..6);
        let both = Window::new(&shape(), &[Some(1), Some(0)]).unwrap().unwrap();
        assert_eq!(both.rows(), [0..2, 0..2, 2..4, 2..4]);
        assert_eq!(both.columns()[5], 4..6);
        assert!(both.contains(8 + 5, 8 + 4) && !both.contains(8 + 5, 8 + 6));
        assert!(!both.contains(8 + 5, 2 * 8 + 4));
    }

    #[test]
    fn a_window_larger_than_the_grid_is_none() {
        for radii in [[Some(7), None], [None, Some(3)], [Some(usize::MAX), None]] {
            assert_eq!(Window::new(&shape(), &radii).unwrap(), None);
        }
        let window = Window::new(&shape(), &[Some(6), None]).unwrap().unwrap();
        assert_eq!(window.rows()[0], 0..4);
        assert_eq!(window.columns()[0], 0..7);
    }

    #[test]
    fn an_area_holds_all_that_its_cells_are_compared_with() {
        let window = Window::new(&shape(), &[Some(1), None]).unwrap().unwrap();
        let area = window.around([0, 8 + 2].into_iter());
        assert_eq!((area.rows, area.columns), (0..3, 0..4));
        assert_eq!(window.n_cells(8 + 2), 9);
    }
}
