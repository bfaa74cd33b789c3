//! How coarse levels are brought to the resolution of the finest one.

use super::level::LevelData;
use super::shape::{LevelShape, PyramidShape};
use crate::names::named;

/// How a coarse level is brought to the resolution of the finest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upsample {
    /// Bilinear interpolation with half-pixel centres (`align_corners=False`).
    Bilinear,
    /// Each coarse cell is repeated (nearest-neighbour upsampling).
    Block,
}

named!(Upsample, "upsample", { Bilinear => "bilinear", Block => "block" });

/// The two coarse rows (or columns) that a fine one is interpolated from; the weight of `first` is
/// `1 - second_weight`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tap {
    pub first: usize,
    pub second: usize,
    pub second_weight: f64,
}

impl Tap {
    /// One tap for each of `fine` positions over `coarse` ones; `coarse` divides `fine`.
    pub(crate) fn table(upsample: Upsample, fine: usize, coarse: usize) -> Vec<Self> {
        let ratio = fine / coarse;
        (0..fine)
            .map(|position| match upsample {
                Upsample::Block => Self {
                    first: position / ratio,
                    second: position / ratio,
                    second_weight: 0.0,
                },
                Upsample::Bilinear => {
                    // Half-pixel centres; positions outside the outermost centres take the edge.
                    // In whole numbers, so that equal places have equal weights at every ratio.
                    let halves = (2 * position + 1)
                        .saturating_sub(ratio)
                        .min(2 * ratio * (coarse - 1));
                    let first = halves / (2 * ratio);
                    let second_weight = (halves % (2 * ratio)) as f64 / (2 * ratio) as f64;
                    let second = if second_weight > 0.0 {
                        first + 1
                    } else {
                        first
                    };
                    Self {
                        first,
                        second,
                        second_weight,
                    }
                }
            })
            .collect()
    }
}

/// One level as the matcher sees it: its shape, and where each fine row and column comes from.
#[derive(Clone, Debug)]
pub(crate) struct LevelGrid {
    pub shape: LevelShape,
    pub rows: Vec<Tap>,
    pub columns: Vec<Tap>,
}

impl LevelGrid {
    /// The four cells under a fine position; fewer different ones where a weight is 0.
    pub(crate) fn corners(&self, row: usize, column: usize) -> [usize; 4] {
        let (r, c) = (self.rows[row], self.columns[column]);
        let (first, second) = (r.first * self.shape.width, r.second * self.shape.width);
        [
            first + c.first,
            first + c.second,
            second + c.first,
            second + c.second,
        ]
    }

    /// Their weights, which sum to 1.
    pub(crate) fn corner_weights(&self, row: usize, column: usize) -> [f64; 4] {
        let (down, across) = (
            self.rows[row].second_weight,
            self.columns[column].second_weight,
        );
        [
            (1.0 - down) * (1.0 - across),
            (1.0 - down) * across,
            down * (1.0 - across),
            down * across,
        ]
    }

    /// The feature at a fine position, in float32, from the values of this level.
    pub(crate) fn interpolate_into(
        &self,
        values: &[f32],
        row: usize,
        column: usize,
        feature: &mut Vec<f32>,
    ) {
        let channels = self.shape.channels;
        let [a, b, c, d] = self
            .corners(row, column)
            .map(|at| &values[at * channels..][..channels]);
        let (down, across) = (
            self.rows[row].second_weight as f32,
            self.columns[column].second_weight as f32,
        );
        feature.clear();
        if down == 0.0 && across == 0.0 {
            feature.extend_from_slice(a);
            return;
        }
        feature.extend(
            a.iter()
                .zip(b)
                .zip(c.iter().zip(d))
                .map(|((a, b), (c, d))| {
                    let (top, bottom) = (a + across * (b - a), c + across * (d - c));
                    top + down * (bottom - top)
                }),
        );
    }
}

/// A pyramid shape together with the way its levels are upsampled: what a search needs to know
/// about every image.
#[derive(Clone, Debug)]
pub struct PyramidContext {
    shape: PyramidShape,
    pub(crate) grids: Vec<LevelGrid>,
}

impl PyramidContext {
    /// Tabulates the interpolation of each level.
    #[must_use]
    pub fn new(shape: PyramidShape, upsample: Upsample) -> Self {
        let finest = shape.finest();
        let grids = shape
            .levels
            .iter()
            .map(|&level| LevelGrid {
                shape: level,
                rows: Tap::table(upsample, finest.height, level.height),
                columns: Tap::table(upsample, finest.width, level.width),
            })
            .collect();
        Self { shape, grids }
    }

    /// The shape of each image.
    #[must_use]
    pub const fn shape(&self) -> &PyramidShape {
        &self.shape
    }
}

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
    let blend = |[a, b, c, d]: [f64; 4]| {
        let top = a + columns.second_weight * (b - a);
        let bottom = c + columns.second_weight * (d - c);
        top + rows.second_weight * (bottom - top)
    };
    if let LevelData::F32(values) = level
        && !is_one
    {
        // What is nearly always stored is blended where it lies.
        let [a, b, c, d] = corners.map(|cell| &values[cell * channels..][..channels]);
        let cells = a.iter().zip(b).zip(c.iter().zip(d));
        feature.extend(cells.map(|((a, b), (c, d))| blend([*a, *b, *c, *d].map(f64::from))));
        return;
    }
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
            *a = blend([*a, *b, *c, *d]);
        }
        feature.truncate(start + channels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bilinear_taps_have_half_pixel_centres() {
        let taps = Tap::table(Upsample::Bilinear, 4, 2);
        let at: Vec<f64> = taps
            .iter()
            .map(|t| t.first as f64 + t.second_weight)
            .collect();
        assert_eq!(at, [0.0, 0.25, 0.75, 1.0]);
        assert_eq!(taps[3].second, 1);
        assert_eq!(
            Tap::table(Upsample::Bilinear, 3, 1),
            vec![
                Tap {
                    first: 0,
                    second: 0,
                    second_weight: 0.0
                };
                3
            ]
        );
    }

    #[test]
    fn block_taps_repeat() {
        let firsts: Vec<usize> = Tap::table(Upsample::Block, 6, 2)
            .iter()
            .map(|t| t.first)
            .collect();
        assert_eq!(firsts, [0, 0, 0, 1, 1, 1]);
    }

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
}
