//! Coresets: a few rows of a gallery that lie near all others, by greedy k-centre selection.
//!
//! The first row is given; each next one is the row that is farthest from all that were picked: by
//! its squared float64 distance to the nearest of them, ties to the lowest (image, cell). The picks
//! are those of a pass over all rows after each pick, whatever the instruction set and the number
//! of threads, at a small part of the work.
//!
//! # How
//! For each row the squared distance to the nearest of the picks *that it has seen* is kept, and how
//! many it has seen: picks that it has not seen can only lower it. A *round* takes the rows that come
//! first by these values, down to a *boundary*, and shows them all picks that they have not seen.
//! Those that then still come before the boundary are *active*: the farthest of all rows is the first
//! of them. They alone are shown what is picked next, as long as the first of them comes
//! before the boundary; no other row can, as picks only move rows back. A row near one of the first
//! picks is thus hardly ever looked at again.
//!
//! A row sees a pick through the filters of flat galleries ([`crate::bounds`], `projection.rs`): some leading
//! coordinates bound the distance from below, and only where that is less than what is known
//! already the distance is taken, in float64, from float32 values. Filters decide only what is
//! compared. (The triangle inequality would do less: with 1,568 picks among 156,800 rows of real
//! features it leaves 57 to 61 % of all pairs to be compared, those where a pick lies less than twice
//! as far from the row's nearest pick as that from the row. The filters leave 4 %, after looking at
//! some 16 coordinates of 176.)
//!
//! Rows are computed when they are needed: only those of one round and the picks are held, besides 12
//! bytes for each row.

use super::candidates::{CompareScratch, Lane, Picked, RowTile, Show, Space, sq_l2};
use super::options::{PickOptions, Picks};
use super::order::{Boundary, comes_first};
use crate::bounds::PcaProjection;
use crate::error::{Error, Result};
use crate::gallery::Rows;
use crate::gallery::Selection;
use crate::gallery::verify;
use crate::kernels::InstructionSet;
use crate::parallel::{n_threads, run_tasks};
use crate::pyramid::PyramidContext;
use crate::search::SearchStats;
use std::num::NonZero;

/// More values than this are compared in float64 only: directions take their square in memory.
const MAX_VALUES: usize = 8192;

/// Picks that are shown at a time to rows that have not seen them.
const CHUNK: usize = 256;

/// The rows of a round have this many values at most: a quarter of a gigabyte.
const ROUND_VALUES: usize = 1 << 26;

/// Values by which the length of a round is estimated.
const SAMPLE: usize = 8192;

/// Picks rows of the selected images. They are fewer than asked for where all others coincide with
/// picks.
///
/// # Errors
/// [`Error::Parameter`] when nothing is selected, `count` is not between 1 and the number of rows,
/// there is no first row, or the projection has not a whole number of columns, or none;
/// [`Error::Store`] for an image of a folder that is damaged; [`Error::Image`] for a projected row that is not finite; [`Error::Resources`] when there is not
/// enough memory; and [`Error::Interrupted`].
pub fn pick(
    context: &PyramidContext,
    selection: &Selection,
    options: &PickOptions<'_>,
) -> Result<Picks> {
    let rows = Rows::new(context, selection, options.projection);
    let first = check(&rows, options)?;
    verify(
        std::slice::from_ref(selection),
        options.threads,
        options.cancel,
    )?;
    let set = options.instruction_set.unwrap_or_else(InstructionSet::best);
    let pca = (rows.n_values() <= MAX_VALUES).then(|| {
        PcaProjection::fit(set, rows.n_values(), rows.len(), |row, values| {
            rows.append(row, &mut Vec::new(), values);
        })
    });
    let space = Space {
        rows: &rows,
        set,
        pca: pca.flatten(),
    };
    let mut picking = Picking::new(&space, first, options)?;
    picking.pick_all()?;
    Ok(picking.finish())
}

/// The first row to pick.
fn check(rows: &Rows<'_>, options: &PickOptions<'_>) -> Result<usize> {
    if let Some(kept) = options.kept
        && kept.len() != rows.len()
    {
        return Err(Error::parameter(
            "kept",
            format!(
                "kept: expected one value for each of {} rows, got {}",
                rows.len(),
                kept.len()
            ),
        ));
    }
    let is_kept = |row: usize| options.kept.is_none_or(|kept| kept[row]);
    let n_kept = (0..rows.len()).filter(|&row| is_kept(row)).count();
    if options.count == 0 || options.count > n_kept {
        return Err(Error::parameter(
            "size",
            format!(
                "size: expected between 1 and the number of rows, {n_kept}, got {}",
                options.count
            ),
        ));
    }
    if let Some(matrix) = options.projection
        && (matrix.is_empty() || !matrix.len().is_multiple_of(rows.n_features()))
    {
        return Err(Error::parameter(
            "projection",
            format!(
                "projection: expected some values for each of {} features, got {}",
                rows.n_features(),
                matrix.len()
            ),
        ));
    }
    let (rank, cell) = options.first;
    let first = rows.find(rank, cell).filter(|&row| is_kept(row));
    first.ok_or_else(|| {
        Error::parameter(
            "first",
            format!("first: there is no cell {cell} of image {rank} selected"),
        )
    })
}

/// Rows of a round: long rounds show less in vain, short ones have fewer active rows. On real
/// features anything from a hundredth to a tenth of all rows takes about the same time.
fn round_length(n_rows: usize, n_values: usize) -> usize {
    (n_rows / 32)
        .max(4096)
        .min((ROUND_VALUES / n_values).max(64))
}

/// A selection under way.
struct Picking<'a> {
    space: &'a Space<'a>,
    options: &'a PickOptions<'a>,
    /// Of each row the squared distance to the nearest of the picks it has seen.
    sq: Vec<f64>,
    /// How many it has seen.
    seen: Vec<u32>,
    picked: Picked,
    workers: Vec<CompareScratch>,
    n_round: usize,
    sq_radius: Option<f64>,
}

impl<'a> Picking<'a> {
    fn new(space: &'a Space<'a>, first: usize, options: &'a PickOptions<'a>) -> Result<Self> {
        let n_rows = space.rows.len();
        let mut values = Vec::new();
        space.rows.append(first, &mut Vec::new(), &mut values);
        let mut picked = Picked::default();
        picked.push(space, first, &values);

        let mut sq = Vec::new();
        let mut seen = Vec::new();
        if sq.try_reserve_exact(n_rows).is_err() || seen.try_reserve_exact(n_rows).is_err() {
            return Err(Error::Resources(format!(
                "not enough memory for the distances of {n_rows} rows"
            )));
        }
        sq.resize(n_rows, 0.0);
        seen.resize(n_rows, 1);
        let tasks: Vec<_> = sq.chunks_mut(1024).enumerate().collect();
        let threads = n_threads(options.threads);
        let mut buffers = vec![(Vec::new(), Vec::new()); threads];
        run_tasks(
            &mut buffers,
            tasks,
            options.cancel,
            |(feature, row), (at, sq)| {
                for (number, sq) in (at * 1024..).zip(sq) {
                    row.clear();
                    space.rows.append(number, feature, row);
                    *sq = sq_l2(row, &values);
                }
            },
        );
        options.cancel.check()?;
        if let Some(row) = sq.iter().position(|sq| !sq.is_finite()) {
            let (rank, cell) = space.rows.place(row);
            return Err(Error::image(format!(
                "image {rank}, cell {cell}: its projected features are not finite"
            )));
        }
        if let Some(kept) = options.kept {
            // As if they coincided with the first pick: never picked, and far from nothing.
            for (sq, &is_kept) in sq.iter_mut().zip(kept) {
                *sq = if is_kept { *sq } else { 0.0 };
            }
        }
        Ok(Self {
            space,
            options,
            sq,
            seen,
            picked,
            workers: (0..threads).map(|_| CompareScratch::default()).collect(),
            n_round: options
                .round
                .map_or_else(|| round_length(n_rows, space.rows.n_values()), NonZero::get),
            sq_radius: None,
        })
    }

    fn pick_all(&mut self) -> Result<()> {
        while self.sq_radius.is_none() {
            if let Some((boundary, front)) = self.front() {
                let tiles = self.bring_up_to_date(boundary, &front)?;
                self.pick_round(boundary, tiles)?;
            } else {
                self.sq_radius = Some(0.0);
            }
        }
        Ok(())
    }

    /// The rows that come first by what they have seen, and how far they reach; None if all
    /// coincide with picks.
    fn front(&self) -> Option<(Boundary, Vec<usize>)> {
        // Where about `n_round` rows come first, by a sample.
        let step = self.sq.len().div_ceil(SAMPLE);
        let mut sample: Vec<f64> = self.sq.iter().copied().step_by(step).collect();
        let at = (self.n_round / step).min(sample.len() - 1);
        let (_, reach, _) = sample.select_nth_unstable_by(at, |x, y| y.total_cmp(x));
        let reach = reach.max(f64::from_bits(1)); // what coincides with a pick is never picked
        let mut boundary = Boundary {
            sq: reach,
            row: usize::MAX,
        };
        let all = self.sq.iter().copied().enumerate();
        let mut front: Vec<(usize, f64)> = all.filter(|&(_, sq)| sq >= reach).collect();
        if front.len() > 2 * self.n_round {
            let first =
                |x: &(usize, f64), y: &(usize, f64)| y.1.total_cmp(&x.1).then(x.0.cmp(&y.0));
            let (_, &mut (row, sq), _) = front.select_nth_unstable_by(self.n_round - 1, first);
            front.truncate(self.n_round);
            boundary = Boundary { sq, row };
        }
        let mut rows: Vec<usize> = front.into_iter().map(|(row, _)| row).collect();
        // Rows that have seen the same, and of these neighbours, go together.
        rows.sort_unstable_by_key(|&row| (self.seen[row], row));
        (!rows.is_empty()).then_some((boundary, rows))
    }

    /// Shows rows what they have not seen.
    fn bring_up_to_date(&mut self, boundary: Boundary, rows: &[usize]) -> Result<Vec<RowTile>> {
        let (space, sq, seen) = (self.space, &self.sq, &self.seen);
        let show = Show {
            space,
            picked: &self.picked,
            boundary,
        };
        let tasks: Vec<&[usize]> = rows.chunks(space.set.tile()).collect();
        let work = |scratch: &mut CompareScratch, rows: &[usize]| {
            let lanes = rows.iter().map(|&row| Lane::new(row, sq[row], seen[row]));
            let lanes: Vec<Lane> = lanes.collect();
            let unseen = lanes.iter().map(|lane| lane.seen).min().unwrap_or(0) as usize;
            let mut tile = RowTile::new(space, lanes, scratch);
            for start in (unseen..show.picked.len()).step_by(CHUNK) {
                let picks = start..show.picked.len().min(start + CHUNK);
                tile.show(&show, picks, scratch);
            }
            tile
        };
        let tiles = run_tasks(&mut self.workers, tasks, self.options.cancel, work);
        self.options.cancel.check()?;
        for tile in &tiles {
            self.take_note(tile);
        }
        Ok(tiles)
    }

    /// Picks among active rows as long as the first of all rows is one of them.
    fn pick_round(&mut self, boundary: Boundary, mut tiles: Vec<RowTile>) -> Result<()> {
        tiles.retain(|tile| tile.best().is_some());
        loop {
            self.options.cancel.check()?;
            let best = tiles.iter().enumerate();
            let best = best.filter_map(|(at, tile)| tile.best().map(|best| (at, best)));
            let Some((at, (sq, row))) =
                best.reduce(|x, y| if comes_first(x.1, y.1) { x } else { y })
            else {
                break;
            };
            if self.picked.len() == self.options.count {
                self.sq_radius = Some(sq);
                break;
            }
            self.picked.push(self.space, row, tiles[at].values(row));
            let show = Show {
                space: self.space,
                picked: &self.picked,
                boundary,
            };
            let last = show.picked.len() - 1..show.picked.len();
            for tile in &mut tiles {
                tile.show(&show, last.clone(), &mut self.workers[0]);
            }
            if self.picked.len().is_multiple_of(64) {
                self.report();
            }
        }
        for tile in &tiles {
            self.take_note(tile);
        }
        self.report();
        Ok(())
    }

    fn report(&self) {
        if let Some(progress) = self.options.progress {
            progress(self.picked.len());
        }
    }

    fn take_note(&mut self, tile: &RowTile) {
        for lane in tile.lanes() {
            (self.sq[lane.row], self.seen[lane.row]) = (lane.sq, lane.seen);
        }
    }

    fn finish(self) -> Picks {
        let rows = self.space.rows;
        let mut stats = SearchStats {
            pairs: (rows.len() * self.picked.len()) as u64,
            ..SearchStats::default()
        };
        for (at, stage) in ["filter 1", "filter 2", "float64"].into_iter().enumerate() {
            let pairs = self.workers.iter().map(|worker| worker.counts[at]).sum();
            stats.count(stage, pairs);
        }
        let mut values = Vec::with_capacity(self.picked.len() * rows.n_features());
        let mut feature = Vec::new();
        for &row in &self.picked.rows {
            rows.append_whole(row, &mut feature, &mut values);
        }
        let places = self.picked.rows.iter().map(|&row| rows.place(row));
        let (ranks, cells) = places.unzip();
        Picks {
            ranks,
            cells,
            rows: values,
            sq_radius: self.sq_radius.unwrap_or(0.0),
            stats,
        }
    }
}
