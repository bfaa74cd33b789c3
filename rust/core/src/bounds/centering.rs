//! Centering: features less a mean, times a power of two, so that a common offset costs float32 no
//! precision and nothing overflows.

use super::sphere::Sphere;
use crate::kernels::CentredImage;
use crate::pyramid::{LevelData, LevelGrid, decode_into};
use std::sync::OnceLock;

/// Where a gallery and its copies keep what they are centred by, for searches that keep centred images.
pub(crate) type CenteringSlot = OnceLock<Centering>;

/// What features are centred and scaled by.
#[derive(Clone, Debug)]
pub(crate) struct Centering {
    /// The mean feature of each level.
    pub means: Vec<Vec<f32>>,
    /// A power of two that brings the largest centred value near 1.
    pub scale: f32,
}

impl Centering {
    /// That of some levels, each given by its values, row-major, and its number of channels.
    pub(crate) fn fit<'a>(levels: impl Iterator<Item = (&'a [f32], usize)>) -> Self {
        let mut means = Vec::new();
        let mut largest = 0.0_f64;
        for (values, channels) in levels {
            let cells = || values.chunks_exact(channels);
            let mut sums = vec![0.0_f64; channels];
            for cell in cells() {
                for (sum, value) in sums.iter_mut().zip(cell) {
                    *sum += f64::from(*value);
                }
            }
            let n_cells = values.len() / channels;
            let mean = |sum| (sum / n_cells as f64) as f32;
            let mean: Vec<f32> = sums.into_iter().map(mean).collect();
            for cell in cells() {
                for (value, mean) in cell.iter().zip(&mean) {
                    largest = largest.max((f64::from(*value) - f64::from(*mean)).abs());
                }
            }
            means.push(mean);
        }
        let scale = scale_of(largest);
        Self { means, scale }
    }

    /// That of images, each given by the spheres around its levels.
    pub(crate) fn of_spheres(images: &[&[Sphere]]) -> Self {
        let (mut means, mut largest) = (Vec::new(), 0.0_f64);
        for level in 0..images.first().map_or(0, |levels| levels.len()) {
            let spheres = || images.iter().map(|levels| &levels[level]);
            let mut sums = vec![0.0_f64; images[0][level].centre.len()];
            for sphere in spheres() {
                for (sum, value) in sums.iter_mut().zip(&sphere.centre) {
                    *sum += f64::from(*value);
                }
            }
            let mean = |sum| (sum / images.len() as f64) as f32;
            let mean: Vec<f32> = sums.into_iter().map(mean).collect();
            for sphere in spheres() {
                let norm = sq_norm(&sphere.centre, &mean).sqrt() + sphere.radius;
                largest = largest.max(norm);
            }
            means.push(mean);
        }
        let scale = scale_of(largest);
        Self { means, scale }
    }

    /// A gallery image, to be centred and scaled.
    pub(crate) fn centred_image<'a>(&'a self, levels: &'a [LevelData<'a>]) -> CentredImage<'a> {
        CentredImage {
            levels,
            means: &self.means,
            scale: self.scale,
        }
    }

    /// The square of the scale: what squared distances are multiplied by.
    pub(crate) fn sq_scale(&self) -> f64 {
        f64::from(self.scale).powi(2)
    }
}

/// A power of two that brings a magnitude near 1, within what float32 can hold; features that equal their
/// mean have any scale.
fn scale_of(largest: f64) -> f32 {
    let exponent = if largest > 0.0 {
        (-largest.log2().floor()).clamp(-120.0, 120.0)
    } else {
        0.0
    };
    exponent.exp2() as f32
}

/// A query image, centred and scaled.
pub(crate) struct CentredQuery {
    centering: Centering,
    /// The mean of each level, once for each cell of a row.
    row_means: Vec<Vec<f32>>,
    /// Norm of each cell of each level.
    pub norms: Vec<Vec<f32>>,
    /// The values of each level.
    pub levels: Vec<Vec<f32>>,
}

impl CentredQuery {
    /// A query image, centred by its own means.
    pub(crate) fn new(grids: &[LevelGrid], levels: &[LevelData<'_>]) -> Self {
        let levels = decoded(levels);
        let values = levels.iter().map(Vec::as_slice);
        let centering = Centering::fit(values.zip(grids.iter().map(|grid| grid.shape.channels)));
        Self::of(grids, levels, centering)
    }

    /// A query image, centred as a gallery is.
    pub(crate) fn centred_by(
        centering: &Centering,
        grids: &[LevelGrid],
        levels: &[LevelData<'_>],
    ) -> Self {
        Self::of(grids, decoded(levels), centering.clone())
    }

    fn of(grids: &[LevelGrid], mut levels: Vec<Vec<f32>>, centering: Centering) -> Self {
        let scale = f64::from(centering.scale);
        let mut norms = Vec::with_capacity(grids.len());
        for (values, mean) in levels.iter_mut().zip(&centering.means) {
            let cells = values.chunks_exact(mean.len());
            norms.push(
                cells
                    .map(|cell| (sq_norm(cell, mean).sqrt() * scale) as f32)
                    .collect(),
            );
            for cell in values.chunks_exact_mut(mean.len()) {
                for (value, mean) in cell.iter_mut().zip(mean) {
                    *value = ((f64::from(*value) - f64::from(*mean)) * scale) as f32;
                }
            }
        }
        let means = grids.iter().zip(&centering.means);
        let row_means = means.map(|(grid, mean)| mean.repeat(grid.shape.width));
        Self {
            row_means: row_means.collect(),
            centering,
            norms,
            levels,
        }
    }

    /// A gallery image, to be centred and scaled as this query image is.
    pub(crate) fn centred_image<'a>(&'a self, levels: &'a [LevelData<'a>]) -> CentredImage<'a> {
        CentredImage {
            levels,
            means: &self.row_means,
            scale: self.centering.scale,
        }
    }

    /// A norm that no cell of the query image exceeds, centred and scaled, for each level.
    pub(crate) fn query_max_norms(&self) -> Vec<f32> {
        let levels = self.norms.iter();
        levels
            .map(|norms| norms.iter().copied().fold(0.0, f32::max).next_up())
            .collect()
    }

    /// A norm that no cell of a gallery image exceeds, centred and scaled, for each level.
    pub(crate) fn max_norms(&self, spheres: &[Sphere]) -> Vec<f32> {
        let levels = spheres.iter().zip(&self.centering.means);
        levels
            .map(|(sphere, mean)| {
                let centre = sphere.centre.iter().zip(mean);
                let sq_norm: f64 = centre
                    .map(|(centre, mean)| (f64::from(*centre) - f64::from(*mean)).powi(2))
                    .sum();
                let norm = (sq_norm.sqrt() + sphere.radius) * (1.0 + 1e-6);
                // A value that is too large for float32 before it is scaled has no bound.
                if norm < f64::from(f32::MAX) {
                    (norm * f64::from(self.centering.scale)) as f32
                } else {
                    f32::INFINITY
                }
            })
            .collect()
    }

    /// Squared norm of an upsampled, concatenated feature of the query, once centred and scaled.
    pub(crate) fn sq_norm(&self, feature: &[f64]) -> f64 {
        let mut sums = [0.0_f64; 8];
        let mut rest = feature;
        for mean in &self.centering.means {
            let values = rest.split_off(..mean.len()).unwrap_or_default();
            for (values, mean) in values.chunks(8).zip(mean.chunks(8)) {
                for ((sum, value), mean) in sums.iter_mut().zip(values).zip(mean) {
                    *sum += (value - f64::from(*mean)).powi(2);
                }
            }
        }
        let sum: f64 = sums.iter().sum();
        sum * self.centering.sq_scale()
    }

    /// Surely contains the partial distance of a pair whose exact squared distance is `sq_l2`, for a
    /// query whose centred and scaled squared norm is `sq_norm`. The float64 distance is rounded by
    /// the magnitude of the values as they are stored; these are floats of 24 bits, which cannot
    /// differ by less than `2^-24` of it, so that the relative error stays far below `1e-7`.
    pub(crate) fn interval(&self, sq_l2: f64, sq_norm: f64) -> (f32, f32) {
        let scaled = sq_l2 * self.centering.sq_scale();
        let (s, error) = (scaled - sq_norm, 1e-7 * (scaled + sq_norm));
        (
            ((s - error) as f32).next_down(),
            ((s + error) as f32).next_up(),
        )
    }
}

fn decoded(levels: &[LevelData<'_>]) -> Vec<Vec<f32>> {
    let decode = |level: &LevelData<'_>| {
        let mut values = Vec::new();
        decode_into(level, 0..level.len(), &mut values);
        values
    };
    levels.iter().map(decode).collect()
}

/// `|row - mean|^2`, with eight partial sums, which is a shape that compilers vectorise.
pub(crate) fn sq_norm(row: &[f32], mean: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    for (row, mean) in row.chunks(8).zip(mean.chunks(8)) {
        for ((sum, value), mean) in sums.iter_mut().zip(row).zip(mean) {
            let centred = f64::from(*value) - f64::from(*mean);
            *sum += centred * centred;
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pyramid::{PyramidBatch, PyramidContext, PyramidShape, Upsample};
    use crate::{DType, Gallery};

    /// Searches cannot tell: their error bounds are hardly ever met, so that a norm too small is not seen.
    #[test]
    fn no_cell_exceeds_the_norms_of_its_image() {
        let shape = PyramidShape::new(&[(4, 6, 3), (2, 3, 1)]).unwrap();
        let context = PyramidContext::new(shape.clone(), Upsample::Bilinear);
        let values = |len: u16, offset: f32| -> Vec<f32> {
            let value = |at| offset + f32::from(at * 37 % 11) * if at % 5 == 0 { 9.0 } else { 1.0 };
            (0..len).map(value).collect()
        };
        // Near the query's mean, far from it, and at it: there nothing but the radius counts.
        for offset in [0.0, 1e3, -1e6] {
            let (fine, coarse) = (values(72, offset), values(6, offset));
            let levels = vec![LevelData::F32(&fine), LevelData::F32(&coarse)];
            let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
            let images = PyramidBatch::new(shape.clone(), 1, levels.clone()).unwrap();
            gallery.add(&images, &["a".into()]).unwrap();
            for query_offset in [offset, 0.5] {
                let (fine, coarse) = (values(72, query_offset), values(6, query_offset));
                let query = [LevelData::F32(&fine), LevelData::F32(&coarse)];
                let centred = CentredQuery::new(&context.grids, &query);
                let image = gallery.image("a").unwrap();
                let spheres = image.spheres(&context.grids);
                for (level, max_norm) in centred.max_norms(spheres).into_iter().enumerate() {
                    let channels = context.grids[level].shape.channels;
                    let norm = |cell| {
                        let mut values = Vec::new();
                        levels[level].append_cell(channels, cell, &mut values);
                        let pairs = values.iter().zip(&centred.centering.means[level]);
                        let sum: f64 = pairs.map(|(v, mean)| (v - f64::from(*mean)).powi(2)).sum();
                        sum.sqrt() * f64::from(centred.centering.scale)
                    };
                    let cells = context.grids[level].shape.cells();
                    let largest = (0..cells).map(norm).fold(0.0, f64::max);
                    assert!(
                        f64::from(max_norm) >= largest,
                        "level {level}: {max_norm} < {largest}"
                    );
                    assert!(query_offset != offset || f64::from(max_norm) < 2.1 * largest);
                }
            }
        }
    }
}
