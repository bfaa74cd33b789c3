//! A tile: rows that are compared with picks together.

use super::order::{Boundary, comes_first};
use crate::bounds::{PcaProjection, TINY};
use crate::kernels::InstructionSet;
use crate::kernels::TILE_VECTORS;
use crate::kernels::flat::{
    ProjectedSlice, ProjectedTile, RowBound, Survivor, scan_listed, scan_rows,
};
use std::ops::Range;

/// More values than this are compared in float64 only: directions take their square in memory.
const MAX_VALUES: usize = 8192;

/// How rows are compared.
pub(super) struct Space {
    /// Of a row.
    pub n_values: usize,
    pub set: InstructionSet,
    /// Leading coordinates; without them every pair is compared in float64.
    pub pca: Option<PcaProjection>,
}

impl Space {
    /// For rows like these. The coordinates decide only what is compared: what they leave out is no
    /// nearer than what is known. So others, of other rows, lead to the same distances.
    pub(super) fn fit(
        set: InstructionSet,
        n_values: usize,
        n_rows: usize,
        row: impl Fn(usize, &mut Vec<f32>),
    ) -> Self {
        let fits = n_values <= MAX_VALUES && n_rows > 0;
        let pca = fits.then(|| PcaProjection::fit(set, n_values, n_rows, row));
        Self {
            n_values,
            set,
            pca: pca.flatten(),
        }
    }
}

/// The rows that were picked.
#[derive(Default)]
pub(super) struct Picked {
    /// Their numbers, in the order in which they were picked.
    pub rows: Vec<usize>,
    values: Vec<f32>,
    leading: Vec<f32>,
    bounds: Vec<RowBound>,
}

impl Picked {
    pub(super) fn push(&mut self, space: &Space, row: usize, values: &[f32]) {
        self.rows.push(row);
        self.values.extend_from_slice(values);
        if let Some(projection) = &space.pca {
            if let Some(rows) = projection.project_rows(space.set, values) {
                self.leading.extend(rows.leading);
                self.bounds.extend(rows.bounds);
            } else {
                // Too far off for the proof: near to everything, for all that the filters can tell.
                let len = self.leading.len() + projection.n_leading();
                self.leading.resize(len, 0.0);
                self.bounds.push(RowBound {
                    sq_norm: f32::NEG_INFINITY,
                    rests: [0.0; 2],
                });
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Values of all picks, or of those after some.
    pub(super) fn values_after(&self, n_picks: usize, n_values: usize) -> &[f32] {
        &self.values[n_picks * n_values..]
    }

    fn values(&self, pick: usize, n_values: usize) -> &[f32] {
        &self.values[pick * n_values..][..n_values]
    }
}

/// What one thread needs to compare.
#[derive(Default)]
pub(super) struct CompareScratch {
    /// For levels of an image.
    pub decoded: Vec<f32>,
    lists: [Vec<u32>; TILE_VECTORS],
    found: Vec<Survivor>,
    /// Picks and lanes that are to be compared.
    pairs: Vec<(usize, usize)>,
    /// Pairs that each stage looked at: the two filters, float64.
    pub counts: [u64; 3],
}

/// What is shown to tiles.
pub(super) struct Show<'a> {
    pub space: &'a Space,
    pub picked: &'a Picked,
    /// Rows beyond it need not be shown any more.
    pub boundary: Boundary,
}

/// Rows whose squared distance to the nearest pick they have seen is known.
pub(super) struct RowTile {
    lanes: Vec<Lane>,
    n_values: usize,
    /// Row-major.
    values: Vec<f32>,
    /// Leading coordinates, unless one of the rows is too far off for the proof.
    leading: Option<ProjectedTile>,
    /// Of the lane that comes first among those that are live.
    best: Option<(f64, usize)>,
}

/// One row of a tile.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    pub row: usize,
    /// Squared distance to the nearest of the picks it has seen.
    pub sq: f64,
    /// How many picks it has seen.
    pub seen: u32,
    /// Whether it may still be picked in this round.
    pub live: bool,
    /// Squared norm, centred and scaled.
    sq_norm: f64,
}

impl Lane {
    pub(super) const fn new(row: usize, sq: f64, seen: u32) -> Self {
        Self {
            row,
            sq,
            seen,
            live: true,
            sq_norm: 0.0,
        }
    }
}

impl RowTile {
    /// Rows with their values, row-major.
    pub(super) fn new(space: &Space, mut lanes: Vec<Lane>, values: Vec<f32>) -> Self {
        let projected = space.pca.as_ref().and_then(|projection| {
            let projected = projection.project(space.set, &values)?;
            let m = projection.n_leading();
            let mut leading = ProjectedTile::new(space.set, m);
            for (at, lane) in lanes.iter_mut().enumerate() {
                lane.sq_norm = projected.sq_norms[at];
                leading.set(at, &projected.leading[at * m..][..m], projected.rests[at]);
                leading.limits[at] = limit(projection, lane);
            }
            Some(leading)
        });
        let mut tile = Self {
            lanes,
            n_values: space.n_values,
            values,
            leading: projected,
            best: None,
        };
        tile.set_best();
        tile
    }

    pub(super) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The rows that may still be picked, with their values.
    pub(super) fn live(&self) -> impl Iterator<Item = (Lane, &[f32])> {
        let rows = self
            .lanes
            .iter()
            .zip(self.values.chunks_exact(self.n_values));
        rows.filter(|(lane, _)| lane.live)
            .map(|(lane, values)| (*lane, values))
    }

    /// The live row that comes first, and its squared distance.
    pub(super) const fn best(&self) -> Option<(f64, usize)> {
        self.best
    }

    pub(super) fn values(&self, row: usize) -> &[f32] {
        let at = self.lanes.iter().position(|lane| lane.row == row);
        &self.values[at.expect("the row is of this tile") * self.n_values..][..self.n_values]
    }

    /// Shows some picks to all live rows. A row that comes to lie beyond the boundary is left
    /// there, with what it had seen before.
    pub(super) fn show(
        &mut self,
        show: &Show<'_>,
        picks: Range<usize>,
        scratch: &mut CompareScratch,
    ) {
        if self.best.is_none() {
            return;
        }
        let set = show.space.set;
        let mut changed = false;
        if let (Some(projection), Some(leading)) = (&show.space.pca, &self.leading) {
            let CompareScratch {
                lists,
                pairs,
                found,
                counts,
                ..
            } = scratch;
            let m = projection.n_leading();
            let leadings = ProjectedSlice {
                leading: &show.picked.leading[picks.start * m..picks.end * m],
                bounds: &show.picked.bounds[picks.clone()],
            };
            let [first, second] = projection.filters();
            scan_rows(set, leading, leadings, first, lists);
            counts[0] += (picks.len() * self.lanes.len()) as u64;
            let width = set.tile() / TILE_VECTORS;
            pairs.clear();
            for (vector, listed) in lists.iter().enumerate().filter(|(_, l)| !l.is_empty()) {
                scan_listed(set, (leading, vector), leadings, second, listed, found);
                counts[1] += (listed.len() * width) as u64;
                for &(pick, mut which) in &*found {
                    while which != 0 {
                        let lane = vector * width + which.trailing_zeros() as usize;
                        pairs.push((picks.start + pick as usize, lane));
                        which &= which - 1;
                    }
                }
            }
            for &(pick, lane) in &*pairs {
                changed |= self.compare(show, pick, lane, &picks);
            }
            counts[2] += pairs.len() as u64;
        } else {
            for pick in picks.clone() {
                for lane in 0..self.lanes.len() {
                    changed |= self.compare(show, pick, lane, &picks);
                }
            }
            scratch.counts[2] += (picks.len() * self.lanes.len()) as u64;
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.live) {
            lane.seen = lane.seen.max(picks.end as u32);
        }
        if changed {
            self.set_best();
        }
    }

    /// Compares a pick, of some that are shown, with a row; whether that changed anything.
    fn compare(&mut self, show: &Show<'_>, pick: usize, lane: usize, shown: &Range<usize>) -> bool {
        let Some(known) = self.lanes.get_mut(lane).filter(|lane| lane.live) else {
            return false;
        };
        let values = &self.values[lane * self.n_values..][..self.n_values];
        let sq = sq_l2(values, show.picked.values(pick, self.n_values));
        if sq >= known.sq {
            return false;
        }
        known.sq = sq;
        if !show.boundary.holds(sq, known.row) {
            known.live = false;
            known.seen = known.seen.max(shown.start as u32);
        }
        if let (Some(projection), Some(leading)) = (&show.space.pca, &mut self.leading) {
            leading.limits[lane] = if known.live {
                limit(projection, known)
            } else {
                f32::NEG_INFINITY
            };
        }
        true
    }

    fn set_best(&mut self) {
        let live = self.lanes.iter().filter(|lane| lane.live);
        let live = live.map(|lane| (lane.sq, lane.row));
        self.best = live.reduce(|x, y| if comes_first(x, y) { x } else { y });
    }
}

/// The largest partial distance of a pick that may be nearer to a row than those it has seen; see
/// [`crate::bounds`], `projection.rs`. `1e-7` is more than a float64 distance is wrong by, relatively.
fn limit(projection: &PcaProjection, lane: &Lane) -> f32 {
    let scaled = lane.sq * projection.centering().sq_scale();
    let limit = scaled * (1.0 + 1e-7) + 2.0 * TINY;
    ((limit - lane.sq_norm * (1.0 - projection.slack())) as f32).next_up()
}

/// Squared L2 distance in float64. Value `i` goes to the partial sum `i % 8`; the sums are added as
/// `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
pub(super) fn sq_l2(x: &[f32], y: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    let (x_runs, x_tail) = x.as_chunks::<8>();
    let (y_runs, y_tail) = y.as_chunks::<8>();
    let square = |x: f32, y: f32| {
        let difference = f64::from(x) - f64::from(y);
        difference * difference
    };
    for (x, y) in x_runs.iter().zip(y_runs) {
        for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
            *sum += square(x, y);
        }
    }
    for ((sum, &x), &y) in sums.iter_mut().zip(x_tail).zip(y_tail) {
        *sum += square(x, y);
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
