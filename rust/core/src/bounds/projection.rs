//! A few numbers of a feature that bound its distances: its projection on *leading directions*.
//!
//! Orthonormal directions split a distance, and the principal directions of some features carry most of
//! it. With `P` the projection on `m` of them, by Cauchy-Schwarz,
//!
//! ```text
//! |u - v|^2 = |u|^2 + |v|^2 - 2 <Pu, Pv> - 2 <u - Pu, v - Pv>
//!          >= |u|^2 + |v|^2 - 2 <Pu, Pv> - 2 |u - Pu| |v - Pv|
//! ```
//!
//! so that `m` leading coordinates and the norm of the rest bound a distance from below (partial
//! distance elimination: Bei and Gray 1985; with rotations, `ADSampling`, SIGMOD 2023,
//! and PDX, SIGMOD 2025). The directions decide only how fast a search is.
//!
//! This derivation stands for all that project. A flat gallery, whose rows have no coarse parts that
//! would bound the whole, is projected here: directions are fitted once, on a sample, and images that are
//! added later are expressed in them, however well they fit. The finer levels of pyramids are projected
//! in `kernels/cascade/leading.rs`, whole images by PyTorch in `python/knnspect/backends/torch/bounds.py`.
//!
//! # Why the bound holds in float32
//! Let `u'`, `v'` be `(u - mean) scale`, exactly; `scale` is a power of two, and distances between
//! them are those between `u` and `v`, times `scale^2`. Let `B` hold the directions as they are
//! stored, `e` a bound on the spectral norm of `B^T B - I` (the Frobenius norm, computed in float64),
//! `a = B^T u'` and `b = B^T v'`, and hats mark what is computed.
//!
//! - *Projecting.* A coordinate is a sum that passes through `depth` roundings at most, one of them
//!   that of `u - mean`, so it is wrong by at most `g sum |B_ij| |u'_i|` with `g = 1.01 depth 2^-24`;
//!   the vector, by Cauchy-Schwarz, by `d |u'|` with `d = 1.01 g sqrt(m)`, as `|B|_F^2 <= 1.01 m`.
//! - *Inner products.* `P = B (B^T B)^-1 B^T`, so `<Pu', Pv'>` is `<a, b>` within
//!   `e / (1 - e) |a| |b|`, and `<a, b>` is `<â, b̂>` within `(2 sqrt(1 + e) d + d^2) |u'| |v'|`:
//!   together within `c |u'| |v'|` for `c = 1.2 e + 2.4 d`, where both are below 0.01.
//! - *Rests.* Likewise `|Pu'|^2 >= |â|^2 - c |u'|^2`, so that `sqrt(|u'|^2 - |â|^2 + c |u'|^2)`,
//!   in float64 and rounded up, is not below `|u' - Pu'|`.
//! - *Evaluating.* A kernel adds `|v'|^2`, the product of the rests and `m` products, in that order.
//!   What it sums is, in absolute values, at most `|v'|^2 + 2.1 |u'| |v'|`, and passes through
//!   `m + 4` roundings.
//!
//! With `2 |u'| |v'| <= |u'|^2 + |v'|^2` all this is at most `slack (|u'|^2 + |v'|^2)`, where
//! `slack = c + 2.2 (m + 8) 2^-24`, which also covers rounding in float64. The part of `v` is taken
//! off its squared norm when it is stored, that of `u` is added to its limit. Norms of at most
//! [`MAX_NORM`] keep everything finite; [`TINY`] covers underflow, where rounding is not relative.

use super::centering::{Centering, sq_norm};
use super::pca::{principal_directions, skew};
use crate::kernels::InstructionSet;
use crate::kernels::flat::{Filter, RowBound};
use crate::kernels::product::{multiply, multiply_depth};
use std::sync::OnceLock;

/// Larger norms (of centred and scaled rows) are left to the exhaustive matcher.
const MAX_NORM: f64 = 1e15;

/// More than underflow can amount to, below what matters: rows are scaled to about 1.
pub(crate) const TINY: f64 = 1e-35;

/// Rows that the directions are fitted on.
const SAMPLE: usize = 2048;

/// More leading coordinates than this are never kept.
const MAX_LEADING: usize = 96;

/// The share of the variance that the coordinates of either filter are to carry.
const SHARES: [f64; 2] = [0.6, 0.88];

/// Where a gallery and its copies keep the coordinates; empty inside where none could be fitted.
pub(crate) type ProjectionSlot = OnceLock<Option<PcaProjection>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct PcaProjection {
    /// Of one level.
    centering: Centering,
    /// Directions as columns, `[channel][direction]`.
    basis: Vec<f32>,
    filters: [Filter; 2],
    /// See the module.
    slack: f64,
    /// The leading coordinates carry enough for searches to gain from them.
    pays: bool,
}

/// Rows in leading coordinates.
#[derive(Debug)]
pub(crate) struct Projected {
    /// Row-major.
    pub leading: Vec<f32>,
    /// Squared norm of each row, centred and scaled.
    pub sq_norms: Vec<f64>,
    /// For either filter, the norm of what its coordinates leave out, rounded up.
    pub rests: Vec<[f32; 2]>,
}

/// What searches keep of a gallery image: `m + 3` float32 values for each cell.
#[derive(Debug)]
pub(crate) struct ProjectedRows {
    pub leading: Vec<f32>,
    pub bounds: Vec<RowBound>,
}

impl PcaProjection {
    /// Coordinates for rows like these, of a number of channels; None where their magnitudes leave
    /// no room for the proof.
    pub(crate) fn fit(
        set: InstructionSet,
        channels: usize,
        n_rows: usize,
        row: impl Fn(usize, &mut Vec<f32>),
    ) -> Option<Self> {
        let n = n_rows.min(SAMPLE);
        let mut rows = Vec::new();
        for at in 0..n {
            row(
                (at as u128 * n_rows as u128 / n as u128) as usize,
                &mut rows,
            );
        }
        let centering = Centering::fit([(rows.as_slice(), channels)].into_iter());
        let (mean, scale) = (&centering.means[0], centering.scale);
        for row in rows.chunks_exact_mut(channels) {
            for (value, mean) in row.iter_mut().zip(mean) {
                *value = (*value - mean) * scale;
            }
        }
        let offset = mean.iter().map(|mean| (mean * scale).abs());
        if offset.fold(0.0, f32::max) > 1e30 || !rows.iter().all(|v| v.is_finite()) {
            return None;
        }

        let n_leading = MAX_LEADING
            .min(channels.div_ceil(2).next_multiple_of(8))
            .min(channels);
        let (basis, shares) = principal_directions(set, &rows, channels, n_leading);
        let enough = |share: f64| {
            let at = shares.iter().position(|&s| s >= share);
            at.map(|at| (at + 1).next_multiple_of(8).min(n_leading))
        };
        let pays = enough(SHARES[1]).is_some();
        let filters = SHARES.map(|share| enough(share).unwrap_or(n_leading));
        let m = filters[1];
        let basis: Vec<f32> = (0..channels)
            .flat_map(|channel| basis[..m].iter().map(move |b| b[channel] as f32))
            .collect();

        let unit = (-24.0_f64).exp2();
        let depth = (multiply_depth(channels) + 4) as f64;
        let projecting = 1.01 * 1.01 * depth * unit * (m as f64).sqrt();
        let skew = skew(&basis, m, m);
        let slack = 1.2 * skew + 2.4 * projecting + 2.2 * (m as f64 + 8.0) * unit;
        let filter = |index| Filter {
            index,
            n_leading: filters[index],
        };
        (skew < 0.01 && projecting < 0.01).then(|| Self {
            centering,
            basis,
            filters: [filter(0), filter(1)],
            slack,
            pays,
        })
    }

    /// Whether searches may gain from these coordinates.
    pub(crate) const fn pays(&self) -> bool {
        self.pays
    }

    /// The filters, the faster one first.
    pub(crate) const fn filters(&self) -> [Filter; 2] {
        self.filters
    }

    /// Number of leading coordinates.
    pub(crate) const fn n_leading(&self) -> usize {
        self.filters[1].n_leading
    }

    /// What all coordinates were centred and scaled by.
    pub(crate) const fn centering(&self) -> &Centering {
        &self.centering
    }

    /// See the module.
    pub(crate) const fn slack(&self) -> f64 {
        self.slack
    }

    /// Rows in these coordinates; None if one is too far off.
    pub(crate) fn project(&self, set: InstructionSet, rows: &[f32]) -> Option<Projected> {
        let (mean, scale) = (&self.centering.means[0], self.centering.scale);
        let channels = mean.len();
        let m = self.n_leading();
        let mut centred = Vec::with_capacity(rows.len());
        let mut sq_norms = Vec::with_capacity(rows.len() / channels);
        for row in rows.chunks_exact(channels) {
            centred.extend(row.iter().zip(mean).map(|(v, mean)| (v - mean) * scale));
            let sq_norm = sq_norm(row, mean) * self.centering.sq_scale();
            if sq_norm.is_nan() || sq_norm > MAX_NORM * MAX_NORM {
                return None;
            }
            sq_norms.push(sq_norm);
        }
        let leading = multiply(set, &centred, &self.basis, channels, m);
        let rests = leading
            .chunks_exact(m)
            .zip(&sq_norms)
            .map(|(leading, sq_norm)| {
                self.filters.map(|filter| {
                    let kept: f64 = leading[..filter.n_leading]
                        .iter()
                        .map(|&v| f64::from(v) * f64::from(v))
                        .sum();
                    let rest = sq_norm * (1.0 + self.slack) - kept + TINY;
                    (rest.max(0.0).sqrt() as f32).next_up()
                })
            })
            .collect();
        Some(Projected {
            leading,
            sq_norms,
            rests,
        })
    }

    /// The projected rows of a gallery image; None if one of them is too far off.
    pub(crate) fn project_rows(&self, set: InstructionSet, rows: &[f32]) -> Option<ProjectedRows> {
        let projected = self.project(set, rows)?;
        let bounds = projected
            .sq_norms
            .iter()
            .zip(&projected.rests)
            .map(|(sq_norm, &rests)| RowBound {
                sq_norm: ((sq_norm * (1.0 - self.slack) - TINY) as f32).next_down(),
                rests,
            })
            .collect();
        Some(ProjectedRows {
            leading: projected.leading,
            bounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::pca::orthonormalise;
    use super::*;

    /// Where next to nothing is left out, rounding decides.
    #[test]
    fn rests_are_not_below_what_the_coordinates_leave_out() {
        const CHANNELS: usize = 24;
        let mut rows = Vec::new();
        for row in 0..500_u16 {
            for channel in 0..CHANNELS {
                let (a, b) = (f32::from(row) * 0.37, f32::from(row) * 0.11);
                let c = channel as f32;
                let little = 1e-5 * (f32::from(row) * c).sin();
                rows.push(3.0 + a.sin() * (c + 1.0).sin() + b.cos() * (2.0 * c).cos() + little);
            }
        }
        for set in InstructionSet::available() {
            let append = |at: usize, to: &mut Vec<f32>| {
                to.extend_from_slice(&rows[at * CHANNELS..][..CHANNELS]);
            };
            let projection = PcaProjection::fit(set, CHANNELS, 500, append).unwrap();
            let m = projection.n_leading();
            let mut basis: Vec<Vec<f64>> = (0..m)
                .map(|at| {
                    let column = projection.basis[at..].iter().step_by(m);
                    column.map(|&v| f64::from(v)).collect()
                })
                .collect();
            orthonormalise(&mut basis, CHANNELS);
            let projected = projection.project(set, &rows).unwrap();
            for (row, rests) in rows.chunks_exact(CHANNELS).zip(&projected.rests) {
                let scale = f64::from(projection.centering.scale);
                let centred = row.iter().zip(&projection.centering.means[0]);
                let centred = centred.map(|(v, mean)| (f64::from(*v) - f64::from(*mean)) * scale);
                let mut left: Vec<f64> = centred.collect();
                let mut used = 0;
                for (filter, rest) in projection.filters.iter().zip(rests) {
                    for direction in &basis[used..filter.n_leading] {
                        let along = dot(&left, direction);
                        let pairs = left.iter_mut().zip(direction);
                        pairs.for_each(|(value, direction)| *value -= along * direction);
                    }
                    used = filter.n_leading;
                    let norm = dot(&left, &left).sqrt();
                    assert!(f64::from(*rest) >= norm, "{set:?}: {rest} < {norm}");
                    assert!(f64::from(*rest) <= norm + 0.05, "{set:?}: {rest}, {norm}");
                }
            }
        }
    }

    fn dot(x: &[f64], y: &[f64]) -> f64 {
        x.iter().zip(y).map(|(x, y)| x * y).sum()
    }
}
