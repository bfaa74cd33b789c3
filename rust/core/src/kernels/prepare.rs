//! A gallery image made ready for scanning: decoded, centred, scaled, and its norms.

use super::instruction_set::InstructionSet;
use super::simd::{Kernel, Lanes, run_kernel};
use crate::pyramid::{LevelData, LevelGrid, Tap};

/// A gallery image, and how it is centred and scaled: as the query image that it is compared with.
#[derive(Clone, Copy)]
pub(crate) struct CentredImage<'a> {
    pub levels: &'a [LevelData<'a>],
    /// For each level the mean of one cell, or of a run of cells; see [`centre_into`].
    pub means: &'a [Vec<f32>],
    pub scale: f32,
}

impl CentredImage<'_> {
    /// Panics unless there is a value for each channel of each cell, and a mean.
    pub(super) fn check(&self, grids: &[LevelGrid]) {
        assert_eq!(
            (self.levels.len(), self.means.len()),
            (grids.len(), grids.len())
        );
        for ((grid, level), mean) in grids.iter().zip(self.levels).zip(self.means) {
            assert_eq!(level.len(), grid.shape.values());
            assert!(mean.len().is_multiple_of(grid.shape.channels));
        }
    }
}

/// Centred features of one gallery image, and the norms that the scan and its error bound need.
#[derive(Default)]
pub(crate) struct PreparedImage {
    /// `(feature - mean) * scale` of each level, at its own resolution.
    pub levels: Vec<Vec<f32>>,
    /// Squared norm of the upsampled, concatenated feature at each fine cell.
    pub sq_norms: Vec<f32>,
    /// The largest norm of a cell of each level (not upsampled).
    pub max_norms: Vec<f32>,
    scratch: NormScratch,
}

/// Working memory of [`add_sq_norms`].
#[derive(Default)]
pub(super) struct NormScratch {
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

/// Centres and scales one gallery image and computes its norms, into `prepared`.
pub(crate) fn prepare_image_into(
    set: InstructionSet,
    grids: &[LevelGrid],
    image: CentredImage<'_>,
    prepared: &mut PreparedImage,
) {
    let kernel = PrepareImage {
        grids,
        image,
        prepared,
    };
    // SAFETY: everything is indexed.
    unsafe { run_kernel(set, kernel) }
}

struct PrepareImage<'a> {
    grids: &'a [LevelGrid],
    image: CentredImage<'a>,
    prepared: &'a mut PreparedImage,
}

impl Kernel for PrepareImage<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            grids,
            image,
            prepared,
        } = self;
        let PreparedImage {
            levels: centred,
            sq_norms,
            max_norms,
            scratch,
        } = prepared;
        centred.resize_with(grids.len(), Vec::new);
        max_norms.clear();
        sq_norms.clear();
        sq_norms.resize(grids[0].shape.cells(), 0.0);
        for (((grid, data), mean), centred) in
            grids.iter().zip(image.levels).zip(image.means).zip(centred)
        {
            centred.resize(grid.shape.values(), 0.0);
            centre_into(*data, mean, image.scale, centred);
            max_norms.push(max_norm(grid, centred));
            add_sq_norms(grid, centred, sq_norms, scratch);
        }
    }
}

/// Decodes whole cells, centres and scales them. `mean` is the mean of as many cells as it has values
/// for, one or more, and is used again and again: long runs are what compilers vectorise.
#[inline(always)]
pub(super) fn centre_into(cells: LevelData<'_>, mean: &[f32], scale: f32, out: &mut [f32]) {
    let run = mean.len();
    if let LevelData::F32(values) = cells {
        for (out, values) in out.chunks_mut(run).zip(values.chunks(run)) {
            for ((out, value), mean) in out.iter_mut().zip(values).zip(mean) {
                *out = (value - mean) * scale;
            }
        }
        return;
    }
    cells.decode_into(out);
    for out in out.chunks_mut(run) {
        for (value, mean) in out.iter_mut().zip(mean) {
            *value = (*value - mean) * scale;
        }
    }
}

/// The largest norm of a cell of a level.
#[inline(always)]
fn max_norm(grid: &LevelGrid, level: &[f32]) -> f32 {
    let cells = level.chunks_exact(grid.shape.channels);
    let sq_norms = cells.map(|cell| dot(cell, cell));
    sq_norms.fold(0.0, f32::max).sqrt()
}

/// Adds one level's share to the squared norms of the upsampled features. A fine cell is
/// `a x + b y` of two neighbours of a vertically blended row, so its squared norm follows from
/// `x.x`, `y.y` and `x.y` without upsampling the columns.
#[inline(always)]
pub(super) fn add_sq_norms(
    grid: &LevelGrid,
    level: &[f32],
    sq_norms: &mut [f32],
    scratch: &mut NormScratch,
) {
    let NormScratch {
        blended,
        row_norms,
        row_products,
    } = scratch;
    let (width, channels) = (grid.shape.width, grid.shape.channels);
    if grid.shape.cells() == sq_norms.len() {
        for (cell, sq_norm) in level.chunks_exact(channels).zip(sq_norms) {
            *sq_norm += dot(cell, cell);
        }
        return;
    }
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

/// Inner product, with eight partial sums: most networks have a multiple of eight channels.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let (x_runs, x_tail) = x.as_chunks::<8>();
    let (y_runs, y_tail) = y.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (x, y) in x_runs.iter().zip(y_runs) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(x_tail).zip(y_tail) {
        *sum += x * y;
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
