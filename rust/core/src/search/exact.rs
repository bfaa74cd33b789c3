//! The one place where a distance that a user sees is computed: in float64, from the stored values,
//! in a fixed order. What kernels, tiles and threads do can therefore not change a result.

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
