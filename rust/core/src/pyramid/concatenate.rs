//! Upsampled, concatenated features as rows of float32: what a bank of rows holds, and what it is
//! asked for.

use super::batch::PyramidBatch;
use super::level::{LevelData, decode_into};
use super::shape::PyramidShape;
use super::upsample::{LevelGrid, PyramidContext};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use std::ops::Range;

/// The features of all cells of all images, row-major (image, row, column, channel): blended in
/// float64 and rounded once.
///
/// # Errors
/// [`Error::Shape`] when the batch has another shape than the context; [`Error::Resources`] when
/// there is not enough memory; [`Error::Interrupted`].
pub fn concatenate(
    batch: &PyramidBatch<'_>,
    context: &PyramidContext,
    cancel: Cancel<'_>,
) -> Result<Vec<f32>> {
    if batch.shape() != context.shape() {
        return Err(Error::shape(format!(
            "the pyramid is {}, {} was expected",
            batch.shape().describe(),
            context.shape().describe()
        )));
    }
    let cells = context.shape().finest().cells();
    let mut rows = Vec::new();
    let len = [cells, n_features(context)]
        .into_iter()
        .try_fold(batch.n_images(), usize::checked_mul);
    if len.is_none_or(|len| rows.try_reserve_exact(len).is_err()) {
        return Err(too_many());
    }
    let mut scratch = Vec::new();
    for image in 0..batch.n_images() {
        cancel.check()?;
        let levels = batch.image(image);
        for cell in 0..cells {
            append_row(&context.grids, &levels, cell, &mut scratch, &mut rows);
        }
    }
    Ok(rows)
}

pub(crate) fn too_many() -> Error {
    Error::Resources("not enough memory for the concatenated features".into())
}

/// Values of a row.
pub(crate) fn n_features(context: &PyramidContext) -> usize {
    context.shape().n_features()
}

/// Appends the concatenated features of some cells of a flat pyramid, decoded.
pub(crate) fn append_flat_rows(
    shape: &PyramidShape,
    levels: &[LevelData<'_>],
    cells: Range<usize>,
    rows: &mut Vec<f32>,
) {
    debug_assert!(shape.is_flat());
    if let [level] = levels {
        let channels = shape.finest().channels;
        decode_into(level, cells.start * channels..cells.end * channels, rows);
        return;
    }
    for cell in cells {
        for (level, shape) in levels.iter().zip(shape.levels()) {
            let values = cell * shape.channels..(cell + 1) * shape.channels;
            decode_into(level, values, rows);
        }
    }
}

/// Appends one upsampled, concatenated feature: what [`upsample_into`] gives, rounded. Cells are
/// blended where they lie, as every row of a gallery is wanted many times.
///
/// [`upsample_into`]: super::upsample::upsample_into
pub(crate) fn append_row(
    grids: &[LevelGrid],
    levels: &[LevelData<'_>],
    cell: usize,
    decoded: &mut Vec<f32>,
    rows: &mut Vec<f32>,
) {
    let width = grids[0].shape.width;
    let (row, column) = (cell / width, cell % width);
    for (grid, level) in grids.iter().zip(levels) {
        let channels = grid.shape.channels;
        let (down, across) = (grid.rows[row], grid.columns[column]);
        let corners = grid.corners(row, column);
        let is_one = down.second == down.first && across.second == across.first;
        let [a, b, c, d] = match level {
            LevelData::F32(values) => corners.map(|at| &values[at * channels..][..channels]),
            LevelData::F16(_) | LevelData::I8(_) => {
                decoded.resize(4 * channels, 0.0);
                let cells = decoded.chunks_exact_mut(channels).zip(corners);
                for (out, at) in cells.take(if is_one { 1 } else { 4 }) {
                    level.slice(at * channels, channels).decode_into(out);
                }
                [0, 1, 2, 3].map(|at| &decoded[at * channels..][..channels])
            }
        };
        if is_one {
            rows.extend_from_slice(a);
            continue;
        }
        let blend = |x: f64, y: f64, weight: f64| x + weight * (y - x);
        rows.extend(
            a.iter()
                .zip(b)
                .zip(c.iter().zip(d))
                .map(|((&a, &b), (&c, &d))| {
                    let top = blend(f64::from(a), f64::from(b), across.second_weight);
                    let bottom = blend(f64::from(c), f64::from(d), across.second_weight);
                    blend(top, bottom, down.second_weight) as f32
                }),
        );
    }
}
