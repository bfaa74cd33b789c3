//! Picks over several galleries that together are one: those of [`super::pick`] on all, to the bit.
//!
//! A *shard* keeps what is known of its own rows ([`ShardRows`]); one place picks ([`Chooser`]). A
//! round is that of `k_center.rs`, but that shards bring their rows up to date, each down to a
//! boundary of its own, and send the active ones with their values. The first of these boundaries is
//! that of the round: a row that was not sent comes after the boundary of its shard, so after this one.
//! So the farthest of all rows is the first of the active ones that come before it, and the next
//! picks are found among these, without a shard being asked, as long as there are any.
//!
//! Rows have the numbers that they have in the whole, by which ties are decided. Filters of shards
//! and of the place that picks have other directions: they decide only what is compared (see
//! [`Space::fit`]), and the distance of a pair is the same float64 sum wherever it is taken.

use super::candidates::{Lane, RowTile, Space};
use super::choosing::{Choosing, RoundLength};
use super::options::check_values;
use super::order::Boundary;
use super::shard_rows::Front;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::kernels::InstructionSet;
use std::num::NonZero;

/// What picks among the fronts of all shards.
pub struct Chooser {
    choosing: Choosing,
    round: RoundLength,
    n_shards: usize,
}

/// How far the rows of a [`Front`] have come in a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Squared distance to the nearest pick that each has seen.
    pub sq: Vec<f64>,
    /// How many picks it has seen.
    pub seen: Vec<u32>,
}

/// All rows, of which some are picked.
#[derive(Clone, Debug)]
pub struct Whole<'a> {
    /// Number of shards.
    pub n_shards: NonZero<usize>,
    /// Number of rows of all shards.
    pub n_rows: NonZero<usize>,
    /// How many are to be picked.
    pub count: NonZero<usize>,
    /// Values of some rows of all shards, row-major, as they are compared.
    pub sample: &'a [f32],
    /// The instruction set of the kernels; the best of this machine when `None`.
    pub instruction_set: Option<InstructionSet>,
    /// Rows that are brought up to date together; what is picked does not depend on it.
    pub round: Option<NonZero<usize>>,
}

impl Chooser {
    /// After the first pick: a row's number and its values.
    ///
    /// # Errors
    /// [`Error::Parameter`] when the pick has no values, or the sample has not all values of a row.
    pub fn new(whole: &Whole<'_>, first: usize, values: &[f32]) -> Result<Self> {
        let n_values = values.len();
        if n_values == 0 {
            return Err(Error::parameter("values", "values: expected one at least"));
        }
        check_values(whole.sample, n_values)?;
        let set = whole.instruction_set.unwrap_or_else(InstructionSet::best);
        let n_sample = whole.sample.len() / n_values;
        let space = Space::fit(set, n_values, n_sample, |row, values| {
            values.extend_from_slice(&whole.sample[row * n_values..][..n_values]);
        });
        Ok(Self {
            choosing: Choosing::new(space, whole.count.get(), first, values),
            round: RoundLength::new(whole.n_rows.get(), n_values, whole.round.map(NonZero::get)),
            n_shards: whole.n_shards.get(),
        })
    }

    /// Of every so many rows a shard says how far it is.
    #[must_use]
    pub const fn step(&self) -> usize {
        self.round.step
    }

    /// How many rows a shard brings up to date, about.
    #[must_use]
    pub fn most(&self) -> usize {
        self.round.n_rows.div_ceil(self.n_shards)
    }

    /// How far the rows of the next round lie at least, by the samples of all shards.
    ///
    /// # Errors
    /// [`Error::Parameter`] when there is no value.
    pub fn reach(&self, sample: &mut [f64]) -> Result<f64> {
        if sample.is_empty() {
            return Err(Error::parameter(
                "sample",
                "sample: expected one value at least",
            ));
        }
        Ok(self.round.reach(sample))
    }

    /// The numbers of the rows that were picked, in this order.
    #[must_use]
    pub fn rows(&self) -> &[usize] {
        &self.choosing.picked.rows
    }

    /// Values of the picks after so many.
    #[must_use]
    pub fn values_after(&self, n_picks: usize) -> &[f32] {
        let n_picks = n_picks.min(self.choosing.picked.len());
        self.choosing
            .picked
            .values_after(n_picks, self.choosing.space.n_values)
    }

    /// Squared distance of the farthest row from its nearest pick, once all are picked.
    #[must_use]
    pub const fn sq_radius(&self) -> Option<f64> {
        self.choosing.sq_radius
    }

    /// Picks among the fronts of all shards; says for each how far its rows have come.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a row that lacks a value; [`Error::Interrupted`].
    pub fn choose(&mut self, fronts: &[Front], cancel: Cancel<'_>) -> Result<Vec<Shown>> {
        let n_values = self.choosing.space.n_values;
        for front in fronts {
            let n_rows = front.rows.len();
            if front.sq.len() != n_rows || front.values.len() != n_rows * n_values {
                let message = format!("values: expected {n_values} of each of {n_rows} rows");
                return Err(Error::parameter("values", message));
            }
        }
        if fronts.iter().all(|front| front.n_rows == 0) {
            self.choosing.sq_radius = Some(0.0);
            return Ok(vec![Shown::default(); fronts.len()]);
        }
        let seen = self.choosing.picked.len() as u32;
        let mut shown: Vec<Shown> = fronts
            .iter()
            .map(|front| Shown {
                sq: front.sq.clone(),
                seen: vec![seen; front.rows.len()],
            })
            .collect();
        let boundary = first_boundary(fronts);
        let (places, mut tiles) = self.tiles(fronts, boundary, seen);
        self.choosing
            .pick_round(boundary, &mut tiles, cancel, &|_| ())?;
        for (&(front, at), lane) in places.iter().zip(tiles.iter().flat_map(RowTile::lanes)) {
            (shown[front].sq[at], shown[front].seen[at]) = (lane.sq, lane.seen);
        }
        Ok(shown)
    }

    /// The rows that come before a boundary: their front and place there, and their tiles.
    fn tiles(
        &self,
        fronts: &[Front],
        boundary: Boundary,
        seen: u32,
    ) -> (Vec<(usize, usize)>, Vec<RowTile>) {
        let n_values = self.choosing.space.n_values;
        let all = fronts.iter().enumerate();
        let all = all.flat_map(|(number, front)| (0..front.rows.len()).map(move |at| (number, at)));
        let places: Vec<(usize, usize)> = all
            .filter(|&(front, at)| boundary.holds(fronts[front].sq[at], fronts[front].rows[at]))
            .collect();
        let tiles = places.chunks(self.choosing.space.set.tile()).map(|places| {
            let lanes = places.iter();
            let lanes = lanes
                .map(|&(front, at)| Lane::new(fronts[front].rows[at], fronts[front].sq[at], seen));
            let values = places.iter();
            let values =
                values.flat_map(|&(front, at)| &fronts[front].values[at * n_values..][..n_values]);
            RowTile::new(
                &self.choosing.space,
                lanes.collect(),
                values.copied().collect(),
            )
        });
        let tiles = tiles.collect();
        (places, tiles)
    }
}

/// The boundary that comes first. A shard without a front has none: all of its rows coincide with picks
/// or come after what was asked for.
fn first_boundary(fronts: &[Front]) -> Boundary {
    let all = fronts.iter().map(|front| Boundary {
        sq: front.boundary.0,
        row: front.boundary.1,
    });
    let first = all.reduce(|x, y| if x.holds(y.sq, y.row) { y } else { x });
    first.expect("there are fronts")
}
