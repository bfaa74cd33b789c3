//! Spheres that hold all cells of a level.

use crate::pyramid::LevelData;

/// A sphere that holds all cells of one level.
#[derive(Clone, Debug)]
pub(crate) struct Sphere {
    pub centre: Vec<f32>,
    pub radius: f64,
}

impl Sphere {
    pub(crate) fn around(level: LevelData<'_>, channels: usize) -> Self {
        let n_cells = level.len() / channels;
        let mut sums = vec![0.0_f64; channels];
        let mut cell_values = Vec::with_capacity(channels);
        for cell in 0..n_cells {
            cell_values.clear();
            level.append_cell(channels, cell, &mut cell_values);
            for (sum, value) in sums.iter_mut().zip(&cell_values) {
                *sum += value;
            }
        }
        let centre: Vec<f32> = sums
            .iter()
            .map(|sum| (sum / n_cells as f64) as f32)
            .collect();
        let mut largest = 0.0_f64;
        for cell in 0..n_cells {
            cell_values.clear();
            level.append_cell(channels, cell, &mut cell_values);
            let mut sq_norm = 0.0;
            for (value, centre) in cell_values.iter().zip(&centre) {
                let from_centre = value - f64::from(*centre);
                sq_norm += from_centre * from_centre;
            }
            largest = largest.max(sq_norm);
        }
        Self {
            centre,
            radius: largest.sqrt() * (1.0 + 1e-6),
        }
    }
}
