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
    feature.clear();
    for (grid, level) in grids.iter().zip(levels) {
        blend_into(grid, level, cell / width, cell % width, feature);
    }
}

/// Appends the channels of one level, blended across, then down. Each blend is `a + w (b - a)`, so
/// that cells with equal features give these features exactly, whatever the weights.
fn blend_into(
    grid: &LevelGrid,
    level: &LevelData<'_>,
    row: usize,
    column: usize,
    feature: &mut Vec<f64>,
) {
    let channels = grid.shape.channels;
    let (rows, columns) = (grid.rows[row], grid.columns[column]);
    let corners = grid.corners(row, column);
    let is_one = rows.second == rows.first && columns.second == columns.first;
    let corners = if is_one { &corners[..1] } else { &corners[..] };
    // The cells to be blended, one after the other; the blend takes the place of the first.
    let start = feature.len();
    for &cell in corners {
        level.append_cell(channels, cell, feature);
    }
    if !is_one {
        let (a, rest) = feature[start..].split_at_mut(channels);
        let (b, rest) = rest.split_at(channels);
        let (c, d) = rest.split_at(channels);
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            let top = *a + columns.second_weight * (b - *a);
            let bottom = c + columns.second_weight * (d - c);
            *a = top + rows.second_weight * (bottom - top);
        }
        feature.truncate(start + channels);
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
