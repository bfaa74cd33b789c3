//! Merging what the parts of a gallery found: to the bit what a search of all of it finds.

use super::rescore::Rescored;
use super::shortlist::{Neighbor, Place};
use crate::error::{Error, Result};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// The neighbours that were found in one part: each list is `(query cell, k)`, row-major, nearest first,
/// ties in the order of their places.
#[derive(Clone, Copy, Debug)]
pub struct FoundInPart<'a> {
    /// Neighbours of each query cell.
    pub k: usize,
    /// Squared L2 distances, in float64: those that differ may be equal in float32.
    pub sq_distances: &'a [f64],
    /// Place of each neighbour's image among the sorted ids of all parts.
    pub ranks: &'a [u32],
    /// Cell of that image.
    pub cells: &'a [u32],
}

/// The next neighbour of a part, which the nearest of all parts is taken from.
struct Head<'a> {
    next: Neighbor,
    part: &'a FoundInPart<'a>,
    at: usize,
    end: usize,
}

impl<'a> Head<'a> {
    fn new(part: &'a FoundInPart<'a>, at: usize, end: usize) -> Option<Self> {
        (at < end).then(|| Self {
            next: Neighbor {
                sq_l2: part.sq_distances[at],
                place: Place {
                    rank: part.ranks[at],
                    cell: part.cells[at],
                },
            },
            part,
            at,
            end,
        })
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_distance = self.next.sq_l2.total_cmp(&other.next.sq_l2);
        by_distance.then(self.next.place.cmp(&other.next.place))
    }
}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head<'_> {}

/// Finds the `k` nearest neighbours of every query cell among those of all parts, by distance, then by
/// place.
///
/// # Errors
/// [`Error::Parameter`] when the lists of a part do not fit together, or there are fewer than `k`.
pub fn merge(parts: &[FoundInPart<'_>], n_cells: usize, k: usize) -> Result<Rescored> {
    let fits = |part: &FoundInPart<'_>| {
        let n = n_cells.checked_mul(part.k);
        let lens = [part.sq_distances.len(), part.ranks.len(), part.cells.len()];
        lens.iter().all(|&len| Some(len) == n)
    };
    if !parts.iter().all(fits) || parts.iter().map(|part| part.k).sum::<usize>() < k {
        let message = "parts: their lists do not fit together, or are too short";
        return Err(Error::parameter("parts", message));
    }
    let mut merged = Rescored::default();
    let mut heads = BinaryHeap::with_capacity(parts.len());
    for cell in 0..n_cells {
        heads.clear();
        let of_cell = |part| Head::new(part, cell * part.k, (cell + 1) * part.k);
        heads.extend(parts.iter().filter_map(of_cell).map(Reverse));
        for _ in 0..k {
            let Some(Reverse(head)) = heads.pop() else {
                break; // there are at least k
            };
            merged.sq_distances.push(head.next.sq_l2);
            merged.ranks.push(head.next.place.rank);
            merged.cells.push(head.next.place.cell);
            heads.extend(Head::new(head.part, head.at + 1, head.end).map(Reverse));
        }
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_place_and_float64_decides() {
        let nearer = 1.0 - f64::EPSILON;
        let one = FoundInPart {
            k: 2,
            sq_distances: &[1.0, 2.0, 0.0, 5.0],
            ranks: &[3, 0, 1, 1],
            cells: &[0, 7, 2, 1],
        };
        let other = FoundInPart {
            k: 1,
            sq_distances: &[nearer, 0.0],
            ranks: &[9, 1],
            cells: &[4, 1],
        };
        let merged = merge(&[one, other], 2, 3).unwrap();
        assert_eq!(merged.sq_distances, [nearer, 1.0, 2.0, 0.0, 0.0, 5.0]);
        assert_eq!(merged.ranks, [9, 3, 0, 1, 1, 1]);
        assert_eq!(merged.cells, [4, 0, 7, 1, 2, 1]);
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let part = FoundInPart {
            k: 1,
            sq_distances: &[1.0],
            ranks: &[0],
            cells: &[0],
        };
        assert!(merge(&[part], 1, 2).is_err());
        assert!(merge(&[part], 2, 1).is_err());
    }
}
