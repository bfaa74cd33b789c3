//! Picking among the rows of a round.

use super::candidates::{CompareScratch, Picked, RowTile, Show, Space};
use super::order::{Boundary, comes_first};
use crate::cancel::Cancel;
use crate::error::Result;

/// The rows of a round have this many values at most: a quarter of a gigabyte.
const ROUND_VALUES: usize = 1 << 26;

/// Values by which the length of a round is estimated.
const SAMPLE: usize = 8192;

/// Picks under way.
pub(super) struct Choosing {
    pub space: Space,
    pub picked: Picked,
    /// How many there are to be.
    count: usize,
    /// Squared distance of the farthest row, once all are picked.
    pub sq_radius: Option<f64>,
    pub scratch: CompareScratch,
}

impl Choosing {
    /// After the first pick.
    pub(super) fn new(space: Space, count: usize, first: usize, values: &[f32]) -> Self {
        let mut picked = Picked::default();
        picked.push(&space, first, values);
        Self {
            space,
            picked,
            count,
            sq_radius: None,
            scratch: CompareScratch::default(),
        }
    }

    /// Picks among active rows as long as the first of all rows is one of them.
    pub(super) fn pick_round(
        &mut self,
        boundary: Boundary,
        tiles: &mut [RowTile],
        cancel: Cancel<'_>,
        report: &dyn Fn(usize),
    ) -> Result<()> {
        loop {
            cancel.check()?;
            let best = tiles.iter().enumerate();
            let best = best.filter_map(|(at, tile)| tile.best().map(|best| (at, best)));
            let Some((at, (sq, row))) =
                best.reduce(|x, y| if comes_first(x.1, y.1) { x } else { y })
            else {
                break;
            };
            if self.picked.len() == self.count {
                self.sq_radius = Some(sq);
                break;
            }
            self.picked.push(&self.space, row, tiles[at].values(row));
            let show = Show {
                space: &self.space,
                picked: &self.picked,
                boundary,
            };
            let last = show.picked.len() - 1..show.picked.len();
            for tile in &mut *tiles {
                tile.show(&show, last.clone(), &mut self.scratch);
            }
            if self.picked.len().is_multiple_of(64) {
                report(self.picked.len());
            }
        }
        report(self.picked.len());
        Ok(())
    }
}

/// Which rows belong to a round.
pub(super) struct RoundLength {
    /// How many, about.
    pub n_rows: usize,
    /// Of every so many rows one is asked how far it is.
    pub step: usize,
}

impl RoundLength {
    /// For so many rows in all, of so many values, unless a number is given. Long rounds show less in
    /// vain, short ones have fewer active rows. On real features anything from a hundredth to a
    /// tenth of all rows takes about the same time.
    pub(super) fn new(n_rows: usize, n_values: usize, given: Option<usize>) -> Self {
        let usual = || {
            (n_rows / 32)
                .max(4096)
                .min((ROUND_VALUES / n_values).max(64))
        };
        Self {
            n_rows: given.unwrap_or_else(usual),
            step: n_rows.div_ceil(SAMPLE),
        }
    }

    /// The distance that about so many rows reach, by a sample.
    pub(super) fn reach(&self, sample: &mut [f64]) -> f64 {
        let at = (self.n_rows / self.step).min(sample.len() - 1);
        let (_, reach, _) = sample.select_nth_unstable_by(at, |x, y| y.total_cmp(x));
        reach.max(f64::from_bits(1)) // what coincides with a pick is never picked
    }
}
