//! A gallery image made ready for scanning: decoded, centred, scaled, and its norms.

use crate::pyramid::{LevelData, LevelGrid, Tap};

/// Centred features of one gallery image, and the norms that the scan and its error bound need.
#[derive(Default)]
pub(crate) struct PreparedImage {
    /// `(feature - mean) * scale` of each level, at its own resolution.
    pub levels: Vec<Vec<f32>>,
    /// Squared norm of the upsampled, concatenated feature at each fine cell.
    pub sq_norms: Vec<f32>,
    /// The largest norm of a cell of each level (not upsampled).
    pub max_norms: Vec<f32>,
    blended: Vec<f32>,
    row_norms: Vec<f32>,
    row_products: Vec<f32>,
}

impl PreparedImage {
    /// Panics unless every buffer has the size that the kernels rely on.
    pub(super) fn check(&self, grids: &[LevelGrid]) {
        assert_eq!(self.levels.len(), grids.len());
        for (level, grid) in self.levels.iter().zip(grids) {
            assert_eq!(level.len(), grid.shape.values());
        }
        assert_eq!(self.sq_norms.len(), grids[0].shape.cells());
    }
}

/// The portable body, vectorised by the compiler for the instruction set of its caller.
#[inline(always)]
pub(super) fn prepare_image(
    grids: &[LevelGrid],
    levels: &[LevelData<'_>],
    means: &[Vec<f32>],
    scale: f32,
    prepared: &mut PreparedImage,
) {
    let PreparedImage {
        levels: centred,
        sq_norms,
        max_norms,
        blended,
        row_norms,
        row_products,
    } = prepared;
    centred.resize_with(grids.len(), Vec::new);
    max_norms.clear();
    sq_norms.clear();
    sq_norms.resize(grids[0].shape.cells(), 0.0);
    for (((grid, data), mean), centred) in grids.iter().zip(levels).zip(means).zip(centred) {
        let channels = grid.shape.channels;
        centred.resize(grid.shape.values(), 0.0);
        let width = grid.shape.width;
        // By the row, which stays in the cache between the two steps.
        for (row, centred) in centred.chunks_exact_mut(width * channels).enumerate() {
            data.decode_cells_into(channels, row * width, width, centred);
            for cell in centred.chunks_exact_mut(channels) {
                for (value, mean) in cell.iter_mut().zip(mean) {
                    *value = (*value - mean) * scale;
                }
            }
        }
        let largest = centred
            .chunks_exact(channels)
            .map(|cell| dot(cell, cell))
            .fold(0.0, f32::max);
        max_norms.push(largest.sqrt());
        add_sq_norms(grid, centred, sq_norms, blended, row_norms, row_products);
    }
}

/// Adds one level's share to the squared norms of the upsampled features. A fine cell is
/// `a x + b y` of two neighbours of a vertically blended row, so its squared norm follows from
/// `x.x`, `y.y` and `x.y` without upsampling the columns.
#[inline(always)]
fn add_sq_norms(
    grid: &LevelGrid,
    level: &[f32],
    sq_norms: &mut [f32],
    blended: &mut Vec<f32>,
    row_norms: &mut Vec<f32>,
    row_products: &mut Vec<f32>,
) {
    let (width, channels) = (grid.shape.width, grid.shape.channels);
    let row_values = width * channels;
    let mut held: Option<Tap> = None;
    for (tap, sq_norms) in grid
        .rows
        .iter()
        .zip(sq_norms.chunks_exact_mut(grid.columns.len()))
    {
        if held != Some(*tap) {
            held = Some(*tap);
            let first = &level[tap.first * row_values..][..row_values];
            let row = if tap.second_weight == 0.0 {
                first
            } else {
                let second = &level[tap.second * row_values..][..row_values];
                let (a, b) = ((1.0 - tap.second_weight) as f32, tap.second_weight as f32);
                blended.clear();
                blended.extend(first.iter().zip(second).map(|(x, y)| a * x + b * y));
                blended.as_slice()
            };
            row_norms.clear();
            row_norms.extend(row.chunks_exact(channels).map(|cell| dot(cell, cell)));
            row_products.clear();
            row_products.extend(
                row.chunks_exact(channels)
                    .zip(row[channels..].chunks_exact(channels))
                    .map(|(x, y)| dot(x, y)),
            );
        }
        for (column, sq_norm) in grid.columns.iter().zip(sq_norms) {
            let (a, b) = (
                (1.0 - column.second_weight) as f32,
                column.second_weight as f32,
            );
            *sq_norm += a * a * row_norms[column.first];
            if b != 0.0 {
                *sq_norm +=
                    b * b * row_norms[column.second] + 2.0 * a * b * row_products[column.first];
            }
        }
    }
}

/// Inner product with sixteen partial sums, which is a shape that compilers vectorise.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let (x_chunks, y_chunks) = (x.chunks_exact(16), y.chunks_exact(16));
    let tail: f32 = x_chunks
        .remainder()
        .iter()
        .zip(y_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (x, y) in x_chunks.zip(y_chunks) {
        for i in 0..16 {
            sums[i] += x[i] * y[i];
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0] + tail
}
