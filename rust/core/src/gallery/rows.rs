//! The upsampled, concatenated features of a gallery's images.

use super::selection::Selection;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::parallel::for_each;
use crate::pyramid::{LevelData, LevelGrid, PyramidContext, append_row, n_features, too_many};

/// The same, for images of a selection, one after the other; on several threads.
///
/// # Errors
/// [`Error::Parameter`] for a rank that is not in the selection; [`Error::Resources`] when there is not
/// enough memory; [`Error::Interrupted`].
pub fn of_images(
    context: &PyramidContext,
    selection: &Selection,
    ranks: &[u32],
    cancel: Cancel<'_>,
) -> Result<Vec<f32>> {
    check_ranks(selection, ranks)?;
    let (cells, n_features) = (context.shape().finest().cells(), n_features(context));
    let mut rows = Vec::new();
    let len = [cells, n_features]
        .into_iter()
        .try_fold(ranks.len(), usize::checked_mul)
        .filter(|len| rows.try_reserve_exact(*len).is_ok());
    rows.resize(len.ok_or_else(too_many)?, 0.0);
    let images = rows.chunks_mut((cells * n_features).max(1)).zip(ranks);
    for_each(images.collect(), None, cancel, |(rows, rank)| {
        let levels = selection.image(*rank).levels();
        let (mut scratch, mut row) = (Vec::new(), Vec::new());
        for (cell, out) in rows.chunks_exact_mut(n_features).enumerate() {
            row.clear();
            append_row(&context.grids, &levels, cell, &mut scratch, &mut row);
            out.copy_from_slice(&row);
        }
        Ok(())
    })?;
    Ok(rows)
}

/// The levels of images of a selection, decoded: for each level the images, one after the other.
///
/// # Errors
/// [`Error::Parameter`] for a rank that is not in the selection.
pub fn levels_of(
    context: &PyramidContext,
    selection: &Selection,
    ranks: &[u32],
) -> Result<Vec<Vec<f32>>> {
    check_ranks(selection, ranks)?;
    let shapes = context.shape().levels();
    let mut decoded: Vec<_> = shapes
        .iter()
        .map(|shape| vec![0.0_f32; ranks.len() * shape.values()])
        .collect();
    for (at, rank) in ranks.iter().enumerate() {
        let levels = selection.image(*rank).levels();
        for ((level, shape), out) in levels.iter().zip(shapes).zip(&mut decoded) {
            level.decode_into(&mut out[at * shape.values()..][..shape.values()]);
        }
    }
    Ok(decoded)
}

fn check_ranks(selection: &Selection, ranks: &[u32]) -> Result<()> {
    match ranks.iter().find(|rank| !selection.contains(**rank)) {
        Some(rank) => Err(Error::parameter(
            "ranks",
            format!("image {rank} is not among those searched"),
        )),
        None => Ok(()),
    }
}

/// The rows of some images of a gallery, by number: image after image, cell after cell. They are
/// computed when they are asked for, and never all held.
pub(crate) struct Rows<'a> {
    grids: &'a [LevelGrid],
    images: Vec<(u32, Vec<LevelData<'a>>)>,
    cells: usize,
    n_features: usize,
    /// `(n_features, n_projected)`, row-major.
    projection: Option<Vec<f64>>,
    n_values: usize,
}

impl<'a> Rows<'a> {
    /// With a projection, `(n_features, n)` and row-major, rows are the products with it, summed in
    /// float64 in the order of the features, and rounded once more.
    pub(crate) fn new(
        context: &'a PyramidContext,
        selection: &'a Selection,
        projection: Option<&[f32]>,
    ) -> Self {
        let n_features = n_features(context);
        let images = selection.images();
        Self {
            grids: &context.grids,
            images: images.map(|(rank, image)| (rank, image.levels())).collect(),
            cells: context.shape().finest().cells(),
            n_features,
            projection: projection.map(|matrix| matrix.iter().map(|&v| f64::from(v)).collect()),
            n_values: projection.map_or(n_features, |matrix| matrix.len() / n_features),
        }
    }

    /// The same rows, of images that have other ranks, in order, among more images.
    pub(crate) fn with_ranks(mut self, ranks: &[u32]) -> Self {
        for ((rank, _), &other) in self.images.iter_mut().zip(ranks) {
            *rank = other;
        }
        self
    }

    /// The number that a row has among those of all images that there are ranks of.
    pub(crate) fn number_in_whole(&self, row: usize) -> usize {
        let (rank, cell) = self.place(row);
        rank as usize * self.cells + cell as usize
    }

    /// The row that has a number among those of all images, if there is such a one.
    pub(crate) fn find_in_whole(&self, number: usize) -> Option<usize> {
        let rank = u32::try_from(number / self.cells).ok()?;
        self.find(rank, (number % self.cells) as u32)
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.images.len() * self.cells
    }

    /// Values of each, projected where they are.
    pub(crate) const fn n_values(&self) -> usize {
        self.n_values
    }

    /// The image's rank and the cell.
    pub(crate) fn place(&self, row: usize) -> (u32, u32) {
        let (rank, _) = self.images[row / self.cells];
        (rank, (row % self.cells) as u32)
    }

    /// The row at a place, if there is such a one.
    pub(crate) fn find(&self, rank: u32, cell: u32) -> Option<usize> {
        let found = self.images.binary_search_by_key(&rank, |(rank, _)| *rank);
        let image = found.ok().filter(|_| (cell as usize) < self.cells)?;
        Some(image * self.cells + cell as usize)
    }

    /// Appends a row as distances are taken to it.
    pub(crate) fn append(&self, row: usize, scratch: &mut Vec<f32>, rows: &mut Vec<f32>) {
        let start = rows.len();
        self.append_whole(row, scratch, rows);
        if let Some(matrix) = &self.projection {
            let mut sums = vec![0.0_f64; self.n_values];
            for (&value, weights) in rows[start..].iter().zip(matrix.chunks_exact(self.n_values)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    *sum += f64::from(value) * weight;
                }
            }
            rows.truncate(start);
            rows.extend(sums.iter().map(|&sum| sum as f32));
        }
    }

    /// Appends a row as it is, not projected.
    pub(crate) fn append_whole(&self, row: usize, scratch: &mut Vec<f32>, rows: &mut Vec<f32>) {
        let (_, levels) = &self.images[row / self.cells];
        append_row(self.grids, levels, row % self.cells, scratch, rows);
    }

    /// Values of a row that is not projected.
    pub(crate) const fn n_features(&self) -> usize {
        self.n_features
    }
}
