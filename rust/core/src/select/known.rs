//! What is known of rows while some are picked.

use super::candidates::{CompareScratch, Lane, RowTile, Show, sq_l2};
use super::order::Boundary;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::gallery::Rows;
use crate::parallel::run_tasks;

/// Picks that are shown at a time to rows that have not seen them.
const CHUNK: usize = 256;

/// Rows whose distances to the first pick are taken at a time.
const TASK: usize = 1024;

/// Of each row the squared distance to the nearest of the picks that it has seen, and how many these
/// are: the first ones.
pub(super) struct Known {
    sq: Vec<f64>,
    seen: Vec<u32>,
}

impl Known {
    /// After the first pick, whose values are given.
    pub(super) fn new(
        rows: &Rows<'_>,
        first: &[f32],
        kept: Option<&[bool]>,
        threads: usize,
        cancel: Cancel<'_>,
    ) -> Result<Self> {
        let n_rows = rows.len();
        let mut sq = Vec::new();
        let mut seen = Vec::new();
        if sq.try_reserve_exact(n_rows).is_err() || seen.try_reserve_exact(n_rows).is_err() {
            return Err(Error::Resources(format!(
                "not enough memory for the distances of {n_rows} rows"
            )));
        }
        sq.resize(n_rows, 0.0);
        seen.resize(n_rows, 1);
        let tasks: Vec<_> = sq.chunks_mut(TASK).enumerate().collect();
        let mut buffers = vec![(Vec::new(), Vec::new()); threads];
        run_tasks(&mut buffers, tasks, cancel, |(feature, row), (at, sq)| {
            for (number, sq) in (at * TASK..).zip(sq) {
                row.clear();
                rows.append(number, feature, row);
                *sq = sq_l2(row, first);
            }
        });
        cancel.check()?;
        if let Some(row) = sq.iter().position(|sq| !sq.is_finite()) {
            let (rank, cell) = rows.place(row);
            return Err(Error::image(format!(
                "image {rank}, cell {cell}: its projected features are not finite"
            )));
        }
        if let Some(kept) = kept {
            // As if they coincided with the first pick: never picked, and far from nothing.
            for (sq, &is_kept) in sq.iter_mut().zip(kept) {
                *sq = if is_kept { *sq } else { 0.0 };
            }
        }
        Ok(Self { sq, seen })
    }

    /// The squared distances of every so many rows.
    pub(super) fn sample(&self, step: usize) -> Vec<f64> {
        self.sq.iter().copied().step_by(step).collect()
    }

    /// The rows that come first by what they have seen, those at least as far as the reach or some of
    /// them where they are more than twice as many as asked for; and how far they go.
    pub(super) fn front(&self, reach: f64, most: usize) -> (Boundary, Vec<usize>) {
        let mut boundary = Boundary {
            sq: reach,
            row: usize::MAX,
        };
        let all = self.sq.iter().copied().enumerate();
        let mut front: Vec<(usize, f64)> = all.filter(|&(_, sq)| sq >= reach).collect();
        if front.len() > 2 * most {
            let first =
                |x: &(usize, f64), y: &(usize, f64)| y.1.total_cmp(&x.1).then(x.0.cmp(&y.0));
            let (_, &mut (row, sq), _) = front.select_nth_unstable_by(most - 1, first);
            front.truncate(most);
            boundary = Boundary { sq, row };
        }
        let mut rows: Vec<usize> = front.into_iter().map(|(row, _)| row).collect();
        // Rows that have seen the same, and of these neighbours, go together.
        rows.sort_unstable_by_key(|&row| (self.seen[row], row));
        (boundary, rows)
    }

    /// Shows some rows the picks that they have not seen.
    pub(super) fn bring_up_to_date(
        &mut self,
        rows: &Rows<'_>,
        show: &Show<'_>,
        front: &[usize],
        workers: &mut [CompareScratch],
        cancel: Cancel<'_>,
    ) -> Result<Vec<RowTile>> {
        let (sq, seen) = (&self.sq, &self.seen);
        let tasks: Vec<&[usize]> = front.chunks(show.space.set.tile()).collect();
        let work = |scratch: &mut CompareScratch, front: &[usize]| {
            let lanes = front.iter().map(|&row| Lane::new(row, sq[row], seen[row]));
            let lanes: Vec<Lane> = lanes.collect();
            let unseen = lanes.iter().map(|lane| lane.seen).min().unwrap_or(0) as usize;
            let mut values = Vec::with_capacity(lanes.len() * show.space.n_values);
            for lane in &lanes {
                rows.append(lane.row, &mut scratch.decoded, &mut values);
            }
            let mut tile = RowTile::new(show.space, lanes, values);
            for start in (unseen..show.picked.len()).step_by(CHUNK) {
                let picks = start..show.picked.len().min(start + CHUNK);
                tile.show(show, picks, scratch);
            }
            tile
        };
        let tiles = run_tasks(workers, tasks, cancel, work);
        cancel.check()?;
        for tile in &tiles {
            self.take_note(tile);
        }
        Ok(tiles)
    }

    /// Remembers what the rows of a tile have seen.
    pub(super) fn take_note(&mut self, tile: &RowTile) {
        for lane in tile.lanes() {
            self.set(lane.row, lane.sq, lane.seen);
        }
    }

    /// Remembers what a row has seen.
    pub(super) fn set(&mut self, row: usize, sq: f64, seen: u32) {
        (self.sq[row], self.seen[row]) = (sq, seen);
    }
}
