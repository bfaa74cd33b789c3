//! The inner loops of the matcher for flat galleries ([`crate::search`], `flat.rs`).
//!
//! Queries are packed as for the scan: a vector holds [`Lanes::WIDTH`] different queries, a tile three
//! vectors. The filters only decide whether *any* query of a vector may be near a row: queries of
//! one vector lie close together in their image, so they mostly agree.

use super::instruction_set::{InstructionSet, TILE_VECTORS};
use super::product::add_products;
use super::simd::{Kernel, Lanes, run_kernel};
use super::tile::MAX_TILE;

/// What the filters need of a gallery row besides its leading coordinates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowBound {
    /// Squared norm, less what rounding may amount to.
    pub sq_norm: f32,
    /// For either filter, the norm of what its coordinates leave out, rounded up.
    pub rests: [f32; 2],
}

/// Consecutive rows of a gallery image.
#[derive(Clone, Copy)]
pub(crate) struct ProjectedSlice<'a> {
    /// Leading coordinates, row-major.
    pub leading: &'a [f32],
    pub bounds: &'a [RowBound],
}

/// One of the two filters: how many leading coordinates it looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter {
    /// Which of [`RowBound::rests`] belongs to it.
    pub index: usize,
    pub n_leading: usize,
}

/// A tile of queries in leading coordinates, multiplied by -2.
pub(crate) struct ProjectedTile {
    width: usize,
    n_leading: usize,
    /// `[coordinate][query]`.
    leading: Vec<f32>,
    /// `[filter][query]`: norms of what is left out.
    rests: [Vec<f32>; 2],
    /// For each query, the partial distance above which a row is of no interest.
    pub limits: [f32; MAX_TILE],
}

impl ProjectedTile {
    /// A tile without queries: no row is of interest.
    pub(crate) fn new(set: InstructionSet, n_leading: usize) -> Self {
        let width = set.tile();
        Self {
            width,
            n_leading,
            leading: vec![0.0; n_leading * width],
            rests: [vec![0.0; width], vec![0.0; width]],
            limits: [f32::NEG_INFINITY; MAX_TILE],
        }
    }

    /// Sets one query.
    pub(crate) fn set(&mut self, query: usize, leading: &[f32], rests: [f32; 2]) {
        for (coordinate, value) in leading.iter().enumerate() {
            self.leading[coordinate * self.width + query] = -2.0 * value;
        }
        for (to, rest) in self.rests.iter_mut().zip(rests) {
            to[query] = -2.0 * rest;
        }
    }

    fn check(&self, set: InstructionSet, rows: ProjectedSlice<'_>, filter: Filter) {
        assert_eq!(self.width, set.tile());
        assert!(filter.n_leading <= self.n_leading);
        assert_eq!(rows.leading.len(), rows.bounds.len() * self.n_leading);
        assert_eq!(self.leading.len(), self.n_leading * self.width);
        assert!(self.rests.iter().all(|rests| rests.len() == self.width));
    }
}

/// For each vector of the tile, lists the rows that may interest any of its queries: those whose
/// partial distance `|v|^2 - 2 <u, v>`, estimated from below by the leading coordinates, is within
/// the limit.
pub(crate) fn scan_rows(
    set: InstructionSet,
    tile: &ProjectedTile,
    rows: ProjectedSlice<'_>,
    filter: Filter,
    found: &mut [Vec<u32>; TILE_VECTORS],
) {
    tile.check(set, rows, filter);
    for found in found.iter_mut() {
        found.resize(rows.bounds.len(), 0);
    }
    // SAFETY: all sizes were checked; each list has room for every row.
    unsafe {
        run_kernel(
            set,
            ScanRows {
                tile,
                rows,
                filter,
                found,
            },
        );
    }
}

struct ScanRows<'a> {
    tile: &'a ProjectedTile,
    rows: ProjectedSlice<'a>,
    filter: Filter,
    found: &'a mut [Vec<u32>; TILE_VECTORS],
}

impl Kernel for ScanRows<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(mut self) {
        let (mut row, n_rows) = (0, self.rows.bounds.len());
        let mut n_found = [0; TILE_VECTORS];
        while row < n_rows {
            // SAFETY: as promised by the caller; `row + n <= n_rows` for the `n` chosen.
            row += unsafe {
                match n_rows - row {
                    // Few coordinates leave no time in which a register could be spilled and read
                    // again, and the sums of 4 rows would leave none for anything else.
                    left if left >= CELLS && CELLS > 4 => self.block::<L, CELLS>(row, &mut n_found),
                    3.. => self.block::<L, 3>(row, &mut n_found),
                    2.. => self.block::<L, 2>(row, &mut n_found),
                    _ => self.block::<L, 1>(row, &mut n_found),
                }
            };
        }
        for (found, n_found) in self.found.iter_mut().zip(n_found) {
            found.truncate(n_found);
        }
    }
}

impl ScanRows<'_> {
    #[inline(always)]
    unsafe fn block<L: Lanes, const N: usize>(
        &mut self,
        row: usize,
        n_found: &mut [usize; TILE_VECTORS],
    ) -> usize {
        let (tile, index) = (self.tile, self.filter.index);
        // SAFETY: the rows `row..row + N` exist, and so do the coordinates and vectors of the tile;
        // at most `row + N` entries of each list are written, of which there is one per row.
        unsafe {
            let rests = tile.rests[index].as_ptr();
            let rests: [L; TILE_VECTORS] = [
                L::load(rests),
                L::load(rests.add(L::WIDTH)),
                L::load(rests.add(2 * L::WIDTH)),
            ];
            let mut sums = [[L::splat(0.0); TILE_VECTORS]; N];
            for (n, sums) in sums.iter_mut().enumerate() {
                let bound = self.rows.bounds.get_unchecked(row + n);
                let (sq_norm, rest) = (L::splat(bound.sq_norm), L::splat(bound.rests[index]));
                *sums = rests.map(|query| query.mul_add(rest, sq_norm));
            }
            add_products(
                tile.leading.as_ptr(),
                self.filter.n_leading,
                self.rows.leading.as_ptr().add(row * tile.n_leading),
                tile.n_leading,
                &mut sums,
            );
            for (vector, found) in self.found.iter_mut().enumerate() {
                let limit = L::load(tile.limits.as_ptr().add(vector * L::WIDTH));
                let (found, n_found) = (found.as_mut_ptr(), &mut n_found[vector]);
                for (n, sums) in sums.iter().enumerate() {
                    // Written always and counted where it holds: there is no branch to mispredict.
                    *found.add(*n_found) = (row + n) as u32;
                    *n_found += usize::from(sums[vector].not_above(limit) != 0);
                }
            }
        }
        N
    }
}

/// A row, and which queries of a vector it may interest.
pub(crate) type Survivor = (u32, u32);

/// The same for the listed rows and one vector of the tile; returns which queries they may interest.
pub(crate) fn scan_listed(
    set: InstructionSet,
    (tile, vector): (&ProjectedTile, usize),
    rows: ProjectedSlice<'_>,
    filter: Filter,
    listed: &[u32],
    found: &mut Vec<Survivor>,
) {
    tile.check(set, rows, filter);
    assert!(vector < TILE_VECTORS);
    assert!(listed.iter().all(|&row| (row as usize) < rows.bounds.len()));
    found.resize(listed.len(), (0, 0));
    // SAFETY: all sizes and row numbers were checked; the list has room for every row.
    unsafe {
        run_kernel(
            set,
            ScanListed {
                tile,
                vector,
                rows,
                filter,
                listed,
                found,
            },
        );
    }
}

struct ScanListed<'a> {
    tile: &'a ProjectedTile,
    vector: usize,
    rows: ProjectedSlice<'a>,
    filter: Filter,
    listed: &'a [u32],
    found: &'a mut Vec<Survivor>,
}

impl Kernel for ScanListed<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(mut self) {
        let (mut at, mut n_found) = (0, 0);
        while at < self.listed.len() {
            // SAFETY: as promised by the caller; `at + n <= listed.len()` for the `n` chosen.
            at += unsafe {
                match self.listed.len() - at {
                    8.. => self.block::<L, 8>(at, &mut n_found),
                    4.. => self.block::<L, 4>(at, &mut n_found),
                    2.. => self.block::<L, 2>(at, &mut n_found),
                    _ => self.block::<L, 1>(at, &mut n_found),
                }
            };
        }
        self.found.truncate(n_found);
    }
}

impl ScanListed<'_> {
    #[inline(always)]
    unsafe fn block<L: Lanes, const N: usize>(&mut self, at: usize, n_found: &mut usize) -> usize {
        let (tile, index) = (self.tile, self.filter.index);
        let first = self.vector * L::WIDTH;
        // SAFETY: the rows that are listed exist, and so do the coordinates and the vector of the
        // tile; at most `at + N` entries are written, of which there is one per listed row.
        unsafe {
            let rows: [usize; N] =
                std::array::from_fn(|n| *self.listed.get_unchecked(at + n) as usize);
            let leading = rows.map(|row| self.rows.leading.as_ptr().add(row * tile.n_leading));
            let rests = L::load(tile.rests[index].as_ptr().add(first));
            let mut sums = rows.map(|row| {
                let bound = self.rows.bounds.get_unchecked(row);
                rests.mul_add(L::splat(bound.rests[index]), L::splat(bound.sq_norm))
            });
            for coordinate in 0..self.filter.n_leading {
                let query = L::load(tile.leading.as_ptr().add(coordinate * tile.width + first));
                for (sum, leading) in sums.iter_mut().zip(leading) {
                    *sum = query.mul_add(L::splat(*leading.add(coordinate)), *sum);
                }
            }
            let limit = L::load(tile.limits.as_ptr().add(first));
            let found = self.found.as_mut_ptr();
            for (row, sum) in rows.into_iter().zip(sums) {
                let within = sum.not_above(limit);
                *found.add(*n_found) = (row as u32, within);
                *n_found += usize::from(within != 0);
            }
        }
        N
    }
}

/// Values in the rows of queries that [`sq_distances`] takes: the next multiple of every vector.
pub(crate) const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

/// Squared distances between a row, times `scale`, and those of up to 32 queries (which are scaled
/// already, and padded with zeros) whose bit is set.
pub(crate) fn sq_distances(
    set: InstructionSet,
    queries: &[f32],
    row: &[f32],
    scale: f32,
    which: u32,
    sq_distances: &mut [f32; 32],
) {
    let n_queries = (32 - which.leading_zeros()) as usize;
    assert!(queries.len() >= n_queries * padded(row.len()));
    // SAFETY: there are as many padded queries as may be asked for.
    unsafe {
        run_kernel(
            set,
            SqDistances {
                queries,
                row,
                scale,
                which,
                out: sq_distances,
            },
        );
    }
}

struct SqDistances<'a> {
    queries: &'a [f32],
    row: &'a [f32],
    scale: f32,
    which: u32,
    out: &'a mut [f32; 32],
}

impl Kernel for SqDistances<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let channels = self.row.len();
        let whole = channels / L::WIDTH * L::WIDTH;
        let mut tail = [0.0; 16];
        tail[..channels - whole].copy_from_slice(&self.row[whole..]);
        // SAFETY: vectors are read from `row` up to `whole`, from the tail, and from padded queries.
        unsafe {
            let minus = L::splat(-self.scale);
            let square = |query: *const f32, row: *const f32, sum: L| {
                let difference = L::load(row).mul_add(minus, L::load(query));
                difference.mul_add(difference, sum)
            };
            let mut which = self.which;
            while which != 0 {
                let query = which.trailing_zeros() as usize;
                which &= which - 1;
                let queries = self.queries.as_ptr().add(query * padded(channels));
                let row = self.row.as_ptr();
                let (mut even, mut odd, mut at) = (L::splat(0.0), L::splat(0.0), 0);
                while at + 2 * L::WIDTH <= whole {
                    even = square(queries.add(at), row.add(at), even);
                    let next = at + L::WIDTH;
                    odd = square(queries.add(next), row.add(next), odd);
                    at += 2 * L::WIDTH;
                }
                if at < whole {
                    even = square(queries.add(at), row.add(at), even);
                }
                if whole < channels {
                    odd = square(queries.add(whole), tail.as_ptr(), odd);
                }
                let mut sums = [0.0; 16];
                even.mul_add(L::splat(1.0), odd).store(sums.as_mut_ptr());
                for half in [8, 4, 2, 1] {
                    for i in 0..half {
                        sums[i] += sums[i + half];
                    }
                }
                self.out[query] = sums[0];
            }
        }
    }
}
