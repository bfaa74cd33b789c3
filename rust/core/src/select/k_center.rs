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

use super::candidates::{CompareScratch, Show, Space};
use super::choosing::{Choosing, RoundLength};
use super::known::Known;
use super::options::{PickOptions, Picks, check_kept, check_projection};
use super::order::Boundary;
use crate::error::{Error, Result};
use crate::gallery::Rows;
use crate::gallery::Selection;
use crate::gallery::verify;
use crate::kernels::InstructionSet;
use crate::parallel::n_threads;
use crate::pyramid::PyramidContext;
use crate::search::SearchStats;
use std::num::NonZero;

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
    let space = Space::fit(set, rows.n_values(), rows.len(), |row, values| {
        rows.append(row, &mut Vec::new(), values);
    });
    let mut picking = Picking::new(&rows, space, first, options)?;
    picking.pick_all()?;
    Ok(picking.finish())
}

/// The first row to pick.
fn check(rows: &Rows<'_>, options: &PickOptions<'_>) -> Result<usize> {
    check_kept(options.kept, rows.len())?;
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
    check_projection(options.projection, rows.n_features())?;
    let (rank, cell) = options.first;
    let first = rows.find(rank, cell).filter(|&row| is_kept(row));
    first.ok_or_else(|| {
        Error::parameter(
            "first",
            format!("first: there is no cell {cell} of image {rank} selected"),
        )
    })
}

/// A selection under way.
struct Picking<'a> {
    rows: &'a Rows<'a>,
    options: &'a PickOptions<'a>,
    known: Known,
    choosing: Choosing,
    workers: Vec<CompareScratch>,
}

impl<'a> Picking<'a> {
    fn new(
        rows: &'a Rows<'a>,
        space: Space,
        first: usize,
        options: &'a PickOptions<'a>,
    ) -> Result<Self> {
        let mut values = Vec::new();
        rows.append(first, &mut Vec::new(), &mut values);
        let threads = n_threads(options.threads);
        Ok(Self {
            rows,
            options,
            known: Known::new(rows, &values, options.kept, threads, options.cancel)?,
            choosing: Choosing::new(space, options.count, first, &values),
            workers: (0..threads).map(|_| CompareScratch::default()).collect(),
        })
    }

    fn pick_all(&mut self) -> Result<()> {
        let round = self.options.round.map(NonZero::get);
        let round = RoundLength::new(self.rows.len(), self.rows.n_values(), round);
        while self.choosing.sq_radius.is_none() {
            let reach = round.reach(&mut self.known.sample(round.step));
            let (boundary, front) = self.known.front(reach, round.n_rows);
            if front.is_empty() {
                self.choosing.sq_radius = Some(0.0);
            } else {
                self.pick_round(boundary, &front)?;
            }
        }
        Ok(())
    }

    fn pick_round(&mut self, boundary: Boundary, front: &[usize]) -> Result<()> {
        let (rows, cancel) = (self.rows, self.options.cancel);
        let show = Show {
            space: &self.choosing.space,
            picked: &self.choosing.picked,
            boundary,
        };
        let mut tiles =
            self.known
                .bring_up_to_date(rows, &show, front, &mut self.workers, cancel)?;
        tiles.retain(|tile| tile.best().is_some());
        let report = |picked: usize| {
            if let Some(progress) = self.options.progress {
                progress(picked);
            }
        };
        self.choosing
            .pick_round(boundary, &mut tiles, cancel, &report)?;
        for tile in &tiles {
            self.known.take_note(tile);
        }
        Ok(())
    }

    fn finish(self) -> Picks {
        let (rows, picked) = (self.rows, &self.choosing.picked.rows);
        let mut stats = SearchStats {
            pairs: (rows.len() * picked.len()) as u64,
            ..SearchStats::default()
        };
        let workers = || self.workers.iter().chain([&self.choosing.scratch]);
        for (at, stage) in ["filter 1", "filter 2", "float64"].into_iter().enumerate() {
            stats.count(stage, workers().map(|worker| worker.counts[at]).sum());
        }
        let mut values = Vec::with_capacity(picked.len() * rows.n_features());
        let mut feature = Vec::new();
        for &row in picked {
            rows.append_whole(row, &mut feature, &mut values);
        }
        let (ranks, cells) = picked.iter().map(|&row| rows.place(row)).unzip();
        Picks {
            ranks,
            cells,
            rows: values,
            sq_radius: self.choosing.sq_radius.unwrap_or(0.0),
            stats,
        }
    }
}
