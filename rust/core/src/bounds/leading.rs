//! The directions of the cascade's leading coordinates ([`crate::kernels::cascade::leading`]).

use super::pca::{principal_directions, skew};
use crate::kernels::InstructionSet;
use crate::kernels::cascade::{LeadingDirections, N_DIRECTIONS, UNIT};
use crate::pyramid::LevelGrid;

/// Cells that the directions are fitted on.
const SAMPLE: usize = 128;

/// The directions in which the centred cells of a query image vary most, for each level but the coarsest.
pub(crate) fn leading_directions(
    set: InstructionSet,
    grids: &[LevelGrid],
    centred: &[Vec<f32>],
) -> LeadingDirections {
    let finer = grids[..grids.len() - 1].iter().zip(centred);
    let fit = |(grid, centred): (&LevelGrid, &Vec<f32>)| {
        let (cells, channels) = (grid.shape.cells(), grid.shape.channels);
        let n = cells.min(SAMPLE);
        let mut sample = Vec::with_capacity(n * channels);
        for at in 0..n {
            sample.extend_from_slice(&centred[at * cells / n * channels..][..channels]);
        }
        let n_directions = N_DIRECTIONS.min(channels);
        let (directions, _) = principal_directions(set, &sample, channels, n_directions);
        let mut packed = vec![0.0; channels * set.width()];
        for (lane, direction) in directions.iter().enumerate() {
            for (channel, value) in direction.iter().enumerate() {
                packed[channel * set.width() + lane] = *value as f32;
            }
        }
        // Directions that are not orthonormal enough for the proof make way for none.
        if skew(&packed, set.width(), n_directions) > 16.0 * f64::from(UNIT) {
            packed.fill(0.0);
        }
        packed
    };
    LeadingDirections::new(finer.map(fit).collect())
}
