//! Cells of one image that have the same features, such as those of an even background.
//!
//! Equal cells are equally far from everything. Where a search has to compare ties one by one, one
//! distance serves all of them.

use crate::pyramid::{LevelData, LevelGrid};

/// For each fine cell an earlier one with the same upsampled features, or itself. Not all equal cells
/// are found, only those that are joined by neighbours; two cells with the same duplicate are equal.
pub(super) fn duplicates(grids: &[LevelGrid], levels: &[LevelData<'_>]) -> Vec<u32> {
    let regions: Vec<Vec<u32>> = grids
        .iter()
        .zip(levels)
        .map(|(grid, level)| regions(grid, level))
        .collect();
    let width = grids[0].shape.width;
    let same = |cell: usize, other: usize| {
        grids.iter().zip(&regions).all(|(grid, region)| {
            blend(grid, region, cell / width, cell % width)
                == blend(grid, region, other / width, other % width)
        })
    };
    join(width, grids[0].shape.cells(), same)
}

/// `x + weight (y - x)`; the weight is 0 where `x` and `y` are equal.
type Blend<T> = (T, T, f64);

/// How a fine position is made of the regions of a level. Equal blends are equal features, since a
/// blend of equals is what it is made of, exactly.
fn blend(grid: &LevelGrid, region: &[u32], row: usize, column: usize) -> Blend<Blend<u32>> {
    fn of<T: PartialEq>(first: T, second: T, weight: f64) -> Blend<T> {
        let weight = if first == second { 0.0 } else { weight };
        (first, second, weight)
    }
    let (rows, columns) = (grid.rows[row], grid.columns[column]);
    let across = |row: usize| {
        let at = row * grid.shape.width;
        of(
            region[at + columns.first],
            region[at + columns.second],
            columns.second_weight,
        )
    };
    of(across(rows.first), across(rows.second), rows.second_weight)
}

/// The same for the cells of one level at its own resolution.
fn regions(grid: &LevelGrid, level: &LevelData<'_>) -> Vec<u32> {
    let channels = grid.shape.channels;
    let same = |cell: usize, other: usize| level.same_cells(channels, cell, other);
    join(grid.shape.width, grid.shape.cells(), same)
}

fn join(width: usize, cells: usize, same: impl Fn(usize, usize) -> bool) -> Vec<u32> {
    let mut duplicates: Vec<u32> = Vec::with_capacity(cells);
    for cell in 0..cells {
        let duplicate = if !cell.is_multiple_of(width) && same(cell, cell - 1) {
            duplicates[cell - 1]
        } else if cell >= width && same(cell, cell - width) {
            duplicates[cell - width]
        } else {
            cell as u32
        };
        duplicates.push(duplicate);
    }
    duplicates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pyramid::{PyramidContext, PyramidShape, Upsample};

    #[test]
    fn an_even_region_is_one_and_its_border_is_not() {
        let shape = PyramidShape::new(&[(4, 6, 1), (2, 3, 1)]).unwrap();
        let context = PyramidContext::new(shape, Upsample::Bilinear);
        let mut fine = [0.5_f32; 24];
        fine[5] = 1.0;
        let coarse = [0.1_f32, 0.1, 0.9, 0.1, 0.1, 0.9];
        let found = duplicates(
            &context.grids,
            &[LevelData::F32(&fine), LevelData::F32(&coarse)],
        );
        // Columns 0 to 2 see only the left two coarse columns; 3 and 4 blend; column 5 sees the right
        // one, where the first fine row differs.
        let row =
            |first: u32, blend: u32, next: u32, last: u32| [first, first, first, blend, next, last];
        assert_eq!(found[..6], row(0, 3, 4, 5));
        assert_eq!(found[6..12], row(0, 3, 4, 11));
        assert_eq!(found[12..18], row(0, 3, 4, 11));
        assert_eq!(found[18..], row(0, 3, 4, 11));
    }
}
