//! How wrong the float32 kernels can be.

use crate::kernels::MAX_TILE;
use crate::pyramid::LevelGrid;

/// A bound on the error of a partial distance that a kernel computed, for queries whose cells have
/// norms of at most `query_norms[level][lane]` and a gallery image whose cells have norms of at most
/// `image_norms[level]`. It is infinite or NaN where the float32 arithmetic could overflow.
///
/// Why it holds. Let `u = 2^-24`, `a_l` and `m_l` the norms. Interpolation weights are positive and
/// sum to 1, so upsampled norms, and all sums of absolute values that occur while `<u_p, v_q>` is
/// formed, are at most `a_l m_l` (Cauchy-Schwarz); those of `|v_q|^2` are at most `m_l^2`. Every
/// value passes through at most `depth` roundings, each a factor of `1 + u` at most: one for
/// centring the gallery, one for rounding the upsampled query, one per channel of a coarse level,
/// a handful for each of the two blends, one per level and one per channel of the finest level; those
/// of `|v_q|^2`, with eight partial sums, one per four channels more at most. The
/// standard bound `depth u / (1 - depth u)` then applies to the sums of absolute values; a hundredth
/// on top covers the denominator and the rounding of the norms themselves. A hundredth of `a_l^2`
/// covers the rounding of the float64 distances that decide the order: pairs that they cannot
/// distinguish must not be distinguished here. The last term covers underflow, where rounding is not relative.
pub(crate) fn error_bounds(
    grids: &[LevelGrid],
    query_norms: &[[f32; MAX_TILE]],
    image_norms: &[f32],
) -> [f32; MAX_TILE] {
    const UNIT: f32 = 1.0 / 16_777_216.0;
    let coarse = grids[1..]
        .iter()
        .map(|grid| grid.shape.channels)
        .max()
        .unwrap_or(0);
    let channels = grids[0].shape.channels + coarse;
    let depth = (channels + channels / 4 + 8 * grids.len() + 48) as f32;
    if depth * UNIT >= 0.005 {
        return [f32::INFINITY; MAX_TILE];
    }
    let (mut sums, mut norms) = ([0.0; MAX_TILE], [1.0; MAX_TILE]);
    for (query_norms, &m) in query_norms.iter().zip(image_norms) {
        let m = 1.001 * m;
        for ((sum, norm), &a) in sums.iter_mut().zip(&mut norms).zip(query_norms) {
            *sum += 2.0 * m * m + 2.0 * a * m + 0.01 * a * a;
            *norm += a + m;
        }
    }
    for (sum, norm) in sums.iter_mut().zip(norms) {
        *sum = 1.01 * depth * UNIT * *sum + 1e-35 * norm;
    }
    sums
}
