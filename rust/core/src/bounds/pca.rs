//! Orthonormal directions in which rows of features vary most.

use crate::kernels::InstructionSet;
use crate::kernels::product::multiply;

/// Orthonormal directions that carry nearly as much of the variance as any, and the share of it
/// that the first 1, 2, … of them carry. By orthogonal iteration: unlike a full decomposition it
/// costs little where there are many channels, and nothing depends on how far it has converged.
pub(crate) fn principal_directions(
    set: InstructionSet,
    rows: &[f32],
    channels: usize,
    n_directions: usize,
) -> (Vec<Vec<f64>>, Vec<f64>) {
    const ITERATIONS: usize = 8;
    let n_rows = rows.len() / channels;
    let columns: Vec<f32> = (0..channels)
        .flat_map(|channel| rows[channel..].iter().step_by(channels).copied())
        .collect();
    let covariance = multiply(set, &columns, rows, n_rows, channels);
    let apply = |directions: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let packed: Vec<f32> = (0..channels)
            .flat_map(|channel| directions.iter().map(move |d| d[channel] as f32))
            .collect();
        let product = multiply(set, &covariance, &packed, channels, n_directions);
        (0..n_directions)
            .map(|at| {
                let column = product[at..].iter().step_by(n_directions);
                column.map(|&v| f64::from(v)).collect()
            })
            .collect()
    };
    let mut directions = vec![Vec::new(); n_directions];
    orthonormalise(&mut directions, channels);
    for _ in 0..ITERATIONS {
        directions = apply(&directions);
        orthonormalise(&mut directions, channels);
    }
    let total: f64 = (0..channels)
        .map(|channel| f64::from(covariance[channel * channels + channel]))
        .sum();
    let mut sum = 0.0;
    let shares = directions
        .iter()
        .zip(apply(&directions))
        .map(|(direction, applied)| {
            sum += dot(direction, &applied);
            sum / total
        })
        .collect();
    (directions, shares)
}

/// Gram-Schmidt, twice, which is enough for orthogonality to rounding. What depends on the vectors
/// before it (or is empty) makes way for one without a pattern.
pub(crate) fn orthonormalise(vectors: &mut [Vec<f64>], len: usize) {
    let mut state = 1_u64;
    let mut random = || {
        // Knuth's MMIX generator: any vector does that is not special.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    for at in 0..vectors.len() {
        let (before, vector) = vectors.split_at_mut(at);
        let vector = &mut vector[0];
        // Never more than a few times: at most `len` vectors are asked for.
        for _ in 0..32 {
            let norm = dot(vector, vector).sqrt();
            if norm > 0.0 {
                scale_by(vector, 1.0 / norm);
                for _ in 0..2 {
                    for other in before.iter() {
                        let along = dot(vector, other);
                        vector
                            .iter_mut()
                            .zip(other)
                            .for_each(|(v, o)| *v -= along * o);
                    }
                }
                let norm = dot(vector, vector).sqrt();
                if norm > 1e-4 {
                    scale_by(vector, 1.0 / norm);
                    break;
                }
            }
            *vector = (0..len).map(|_| random()).collect();
        }
    }
}

/// Frobenius norm of `B^T B - I`, for a basis in the first `n_directions` columns of rows of `stride`.
pub(crate) fn skew(basis: &[f32], stride: usize, n_directions: usize) -> f64 {
    let mut sum = 0.0;
    let columns: Vec<Vec<f64>> = (0..n_directions)
        .map(|at| {
            let column = basis[at..].iter().step_by(stride);
            column.map(|&v| f64::from(v)).collect()
        })
        .collect();
    for (i, x) in columns.iter().enumerate() {
        for (j, y) in columns[..=i].iter().enumerate() {
            let product = dot(x, y) - if i == j { 1.0 } else { 0.0 };
            sum += if i == j { 1.0 } else { 2.0 } * product * product;
        }
    }
    sum.sqrt()
}

fn scale_by(vector: &mut [f64], factor: f64) {
    for value in vector {
        *value *= factor;
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0_f64; 8];
    for (x, y) in x.chunks(8).zip(y.chunks(8)) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
    sums.iter().sum()
}
