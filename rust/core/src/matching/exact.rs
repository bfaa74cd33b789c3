//! The one place where a distance that a user sees is computed: in float64, from the stored values,
//! in a fixed order. What kernels, tiles and threads do can therefore not change a result.

use crate::pyramid::{LevelData, LevelGrid};

/// Upsampled feature of one cell, all levels one after the other.
pub(crate) fn upsample_into(
    grids: &[LevelGrid],
    levels: &[LevelData<'_>],
    cell: usize,
    feature: &mut Vec<f64>,
) {
    let width = grids[0].shape.width;
    let (row, column) = (cell / width, cell % width);
    feature.clear();
    for (grid, level) in grids.iter().zip(levels) {
        let channels = grid.shape.channels;
        match level {
            LevelData::F32(values) => blend_into(grid, row, column, feature, |at, channel| {
                f64::from(values[at * channels..][..channels][channel])
            }),
            LevelData::F16(values) => blend_into(grid, row, column, feature, |at, channel| {
                values[at * channels..][..channels][channel].to_f64()
            }),
        }
    }
}

/// Appends the channels of one level, blended across, then down. Each blend is `a + w (b - a)`, so
/// that cells with equal features give these features exactly, whatever the weights.
#[inline]
fn blend_into(
    grid: &LevelGrid,
    row: usize,
    column: usize,
    feature: &mut Vec<f64>,
    value: impl Fn(usize, usize) -> f64,
) {
    let (rows, columns) = (grid.rows[row], grid.columns[column]);
    let at = |row: usize, column: usize| row * grid.shape.width + column;
    let first = at(rows.first, columns.first);
    if rows.second == rows.first && columns.second == columns.first {
        feature.extend((0..grid.shape.channels).map(|channel| value(first, channel)));
    } else {
        let (right, below) = (
            at(rows.first, columns.second),
            at(rows.second, columns.first),
        );
        let last = at(rows.second, columns.second);
        feature.extend((0..grid.shape.channels).map(|channel| {
            let (a, b) = (value(first, channel), value(right, channel));
            let (c, d) = (value(below, channel), value(last, channel));
            let top = a + columns.second_weight * (b - a);
            let bottom = c + columns.second_weight * (d - c);
            top + rows.second_weight * (bottom - top)
        }));
    }
}

/// Squared L2 distance, with eight partial sums in a fixed order.
pub(crate) fn sq_l2(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (x_chunks, y_chunks) = (x.chunks_exact(8), y.chunks_exact(8));
    let tail: f64 = x_chunks
        .remainder()
        .iter()
        .zip(y_chunks.remainder())
        .map(|(a, b)| (a - b) * (a - b))
        .sum();
    for (x, y) in x_chunks.zip(y_chunks) {
        for i in 0..8 {
            let difference = x[i] - y[i];
            sums[i] += difference * difference;
        }
    }
    ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])) + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pyramid::{PyramidContext, PyramidShape, Upsample};

    #[test]
    fn upsampling_blends_four_cells() {
        let shape = PyramidShape::new(&[(4, 4, 1), (2, 2, 1)]).unwrap();
        let context = PyramidContext::new(shape, Upsample::Bilinear);
        let fine = [0.0_f32; 16];
        let coarse = [0.0_f32, 4.0, 8.0, 12.0];
        let mut feature = Vec::new();
        upsample_into(
            &context.grids,
            &[LevelData::F32(&fine), LevelData::F32(&coarse)],
            5,
            &mut feature,
        );
        // Row 1 and column 1 lie at coarse 0.25: 0.25 * 4 across, 0.25 * 8 down.
        assert_eq!(feature, [0.0, 3.0]);
        upsample_into(
            &context.grids,
            &[LevelData::F32(&fine), LevelData::F32(&coarse)],
            15,
            &mut feature,
        );
        assert_eq!(feature, [0.0, 12.0]);
    }

    #[test]
    fn sq_l2_sums_every_element() {
        for n in 0..40 {
            let x: Vec<f64> = (0..n).map(f64::from).collect();
            let y: Vec<f64> = (0..n).map(|v| 2.0 * f64::from(v)).collect();
            let expected: f64 = x.iter().map(|v| v * v).sum();
            assert_eq!(sq_l2(&x, &y), expected, "n = {n}");
        }
    }
}
