//! The rows of a shard, of which some are picked elsewhere; see `chooser.rs`.

use super::candidates::{CompareScratch, Picked, RowTile, Show, Space};
use super::known::Known;
use super::options::{check_kept, check_projection, check_values};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::gallery::{Rows, Selection, verify};
use crate::kernels::InstructionSet;
use crate::parallel::n_threads;
use crate::pyramid::PyramidContext;
use std::num::NonZero;

/// How the rows of a shard are picked.
#[derive(Clone, Debug, Default)]
pub struct ShardOptions {
    /// The rank that each image has among all, in order.
    pub ranks: Vec<u32>,
    /// As [`super::PickOptions::kept`], of the images of the shard.
    pub kept: Option<Vec<bool>>,
    /// As [`super::PickOptions::projection`].
    pub projection: Option<Vec<f32>>,
    /// Number of threads; all that the process may use when `None`.
    pub threads: Option<NonZero<usize>>,
    /// The instruction set of the kernels; the best of this machine when `None`.
    pub instruction_set: Option<InstructionSet>,
}

/// The rows of a shard that may be picked next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Front {
    /// How many rows were brought up to date; none where all coincide with picks.
    pub n_rows: usize,
    /// How far they go: a squared distance, and the row that is the last one with it.
    pub boundary: (f64, usize),
    /// Those that still come before the boundary.
    pub rows: Vec<usize>,
    /// Their squared distances to the nearest pick.
    pub sq: Vec<f64>,
    /// Their values, row-major, projected where distances are.
    pub values: Vec<f32>,
}

/// What is known of a shard's rows.
pub struct ShardRows {
    context: PyramidContext,
    selection: Selection,
    options: ShardOptions,
    space: Space,
    picked: Picked,
    /// None before the first pick.
    known: Option<Known>,
    workers: Vec<CompareScratch>,
}

impl ShardRows {
    /// Those of the selected images.
    ///
    /// # Errors
    /// [`Error::Parameter`] when nothing is selected, or there are not as many ranks, or kept cells, as
    /// there are images, or the projection has not a whole number of columns, or none;
    /// [`Error::Store`] for an image of a folder that is damaged; and [`Error::Interrupted`].
    pub fn new(
        context: PyramidContext,
        selection: Selection,
        options: ShardOptions,
        cancel: Cancel<'_>,
    ) -> Result<Self> {
        check(&context, &selection, &options)?;
        verify(std::slice::from_ref(&selection), options.threads, cancel)?;
        let set = options.instruction_set.unwrap_or_else(InstructionSet::best);
        let rows = rows_of(&context, &selection, &options);
        let space = Space::fit(set, rows.n_values(), rows.len(), |row, values| {
            rows.append(row, &mut Vec::new(), values);
        });
        let workers = (0..n_threads(options.threads)).map(|_| CompareScratch::default());
        let workers = workers.collect();
        Ok(Self {
            context,
            selection,
            options,
            space,
            picked: Picked::default(),
            known: None,
            workers,
        })
    }

    /// Values of a row as it is compared.
    #[must_use]
    pub const fn n_values(&self) -> usize {
        self.space.n_values
    }

    /// Values of some rows, row-major: as they are compared, or as they are, not projected.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a row that is not of this shard.
    pub fn values(&self, numbers: &[usize], projected: bool) -> Result<Vec<f32>> {
        let rows = self.rows();
        let (mut scratch, mut values) = (Vec::new(), Vec::new());
        for &number in numbers {
            let row = row_of(&rows, number)?;
            if projected {
                rows.append(row, &mut scratch, &mut values);
            } else {
                rows.append_whole(row, &mut scratch, &mut values);
            }
        }
        Ok(values)
    }

    /// Values of at most so many rows, evenly spaced, as they are compared.
    #[must_use]
    pub fn sample_of_values(&self, most: usize) -> Vec<f32> {
        let rows = self.rows();
        let n = most.min(rows.len());
        let (mut scratch, mut values) = (Vec::new(), Vec::new());
        for at in 0..n {
            let row = (at as u128 * rows.len() as u128 / n as u128) as usize;
            rows.append(row, &mut scratch, &mut values);
        }
        values
    }

    /// Begins anew, after some picks, of which the values are given.
    ///
    /// # Errors
    /// [`Error::Parameter`] when there is no pick, or not all values of one; [`Error::Image`] for a
    /// projected row that is not finite; [`Error::Resources`] when there is not enough memory; and
    /// [`Error::Interrupted`].
    pub fn begin(&mut self, picks: &[f32], cancel: Cancel<'_>) -> Result<()> {
        if picks.is_empty() {
            return Err(Error::parameter("picks", "picks: expected one at least"));
        }
        self.check_values(picks)?;
        let rows = rows_of(&self.context, &self.selection, &self.options);
        let first = &picks[..self.space.n_values];
        let kept = self.options.kept.as_deref();
        let known = Known::new(&rows, first, kept, self.workers.len(), cancel)?;
        self.known = Some(known);
        self.picked = Picked::default();
        self.push(picks);
        Ok(())
    }

    /// Learns of the picks of a round, and how far the rows of this shard that took part have come.
    ///
    /// # Errors
    /// [`Error::Parameter`] before the first pick, for a row that is not of this shard, has seen more
    /// picks than there are, or lacks a value.
    pub fn advance(
        &mut self,
        picks: &[f32],
        numbers: &[usize],
        sq: &[f64],
        seen: &[u32],
    ) -> Result<()> {
        self.check_values(picks)?;
        if sq.len() != numbers.len() || seen.len() != numbers.len() {
            let n = numbers.len();
            let message = format!("sq, seen: expected values of {n} rows");
            return Err(Error::parameter("sq", message));
        }
        let rows = rows_of(&self.context, &self.selection, &self.options);
        let known = self.known.as_mut().ok_or_else(not_begun)?;
        let n_picks = self.picked.len() + picks.len() / self.space.n_values;
        if seen.iter().any(|&seen| seen as usize > n_picks) {
            let message = format!("seen: expected at most {n_picks} picks");
            return Err(Error::parameter("seen", message));
        }
        let at: Result<Vec<usize>> = numbers.iter().map(|&at| row_of(&rows, at)).collect();
        for ((row, &sq), &seen) in at?.into_iter().zip(sq).zip(seen) {
            known.set(row, sq, seen);
        }
        self.push(picks);
        Ok(())
    }

    /// The squared distances of every so many rows, as far as they are known.
    ///
    /// # Errors
    /// [`Error::Parameter`] before the first pick.
    pub fn sample(&self, step: NonZero<usize>) -> Result<Vec<f64>> {
        let known = self.known.as_ref().ok_or_else(not_begun)?;
        Ok(known.sample(step.get()))
    }

    /// Brings rows up to date that lie at least as far as the reach, or, where these are more than twice
    /// as many as asked for, the first of them; returns those that may be picked.
    ///
    /// # Errors
    /// [`Error::Parameter`] before the first pick; [`Error::Interrupted`].
    pub fn front(&mut self, reach: f64, most: NonZero<usize>, cancel: Cancel<'_>) -> Result<Front> {
        let rows = rows_of(&self.context, &self.selection, &self.options);
        let known = self.known.as_mut().ok_or_else(not_begun)?;
        let (boundary, front) = known.front(reach, most.get());
        let show = Show {
            space: &self.space,
            picked: &self.picked,
            boundary,
        };
        let tiles = known.bring_up_to_date(&rows, &show, &front, &mut self.workers, cancel)?;
        let row = match boundary.row {
            usize::MAX => usize::MAX,
            row => rows.number_in_whole(row),
        };
        let mut found = Front {
            n_rows: front.len(),
            boundary: (boundary.sq, row),
            ..Front::default()
        };
        for (lane, values) in tiles.iter().flat_map(RowTile::live) {
            found.rows.push(rows.number_in_whole(lane.row));
            found.sq.push(lane.sq);
            found.values.extend_from_slice(values);
        }
        Ok(found)
    }

    fn rows(&self) -> Rows<'_> {
        rows_of(&self.context, &self.selection, &self.options)
    }

    fn push(&mut self, picks: &[f32]) {
        for values in picks.chunks_exact(self.space.n_values) {
            // Their numbers are known where they are picked.
            self.picked.push(&self.space, usize::MAX, values);
        }
    }

    fn check_values(&self, values: &[f32]) -> Result<()> {
        check_values(values, self.space.n_values)
    }
}

fn rows_of<'a>(
    context: &'a PyramidContext,
    selection: &'a Selection,
    options: &'a ShardOptions,
) -> Rows<'a> {
    let rows = Rows::new(context, selection, options.projection.as_deref());
    rows.with_ranks(&options.ranks)
}

fn row_of(rows: &Rows<'_>, number: usize) -> Result<usize> {
    rows.find_in_whole(number).ok_or_else(|| {
        let message = format!("rows: there is no row {number} in this shard");
        Error::parameter("rows", message)
    })
}

fn check(context: &PyramidContext, selection: &Selection, options: &ShardOptions) -> Result<()> {
    let n = selection.len();
    if n == 0 || options.ranks.len() != n || !options.ranks.is_sorted_by(|x, y| x < y) {
        let message = format!("ranks: expected one for each of {n} images, in order");
        return Err(Error::parameter("ranks", message));
    }
    let rows = Rows::new(context, selection, None);
    check_kept(options.kept.as_deref(), rows.len())?;
    check_projection(options.projection.as_deref(), rows.n_features())
}

fn not_begun() -> Error {
    Error::parameter("picks", "picks: expected the first one before others")
}
