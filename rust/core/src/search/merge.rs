//! Merging what the parts of a gallery found: to the bit what a search of all of it finds.

use super::rescore::Rescored;
use super::shortlist::{Neighbor, Place};
use crate::error::{Error, Result};
use std::cmp::Ordering;

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

/// What lists are filled up with until there are enough neighbours.
const NONE: Neighbor = Neighbor {
    sq_l2: f64::INFINITY,
    place: Place { rank: 0, cell: 0 },
};

impl FoundInPart<'_> {
    fn neighbor(&self, at: usize) -> Neighbor {
        Neighbor {
            sq_l2: self.sq_distances[at],
            place: Place {
                rank: self.ranks[at],
                cell: self.cells[at],
            },
        }
    }
}

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
    // Part after part: most have nothing that is nearer than the k nearest of those before.
    let mut nearest = vec![NONE; n_cells * k];
    let (mut filled, mut row) = (0, Vec::with_capacity(k));
    for part in parts.iter().filter(|part| part.k > 0 && k > 0) {
        let known = filled;
        filled = k.min(known + part.k);
        for (cell, nearest) in nearest.chunks_exact_mut(k).enumerate() {
            let first = cell * part.k;
            if known < k || order(&part.neighbor(first), &nearest[k - 1]).is_lt() {
                row.clear();
                take_nearest(&nearest[..known], part, first, filled, &mut row);
                nearest[..filled].copy_from_slice(&row);
            }
        }
    }
    Ok(Rescored {
        sq_distances: nearest.iter().map(|neighbor| neighbor.sq_l2).collect(),
        ranks: nearest.iter().map(|neighbor| neighbor.place.rank).collect(),
        cells: nearest.iter().map(|neighbor| neighbor.place.cell).collect(),
    })
}

/// Puts the `n` nearest of two lists into a row: one that is known, and the one of a part from `first` on.
fn take_nearest(
    known: &[Neighbor],
    part: &FoundInPart<'_>,
    first: usize,
    n: usize,
    row: &mut Vec<Neighbor>,
) {
    let mut known = known.iter().copied().peekable();
    let mut others = (first..first + part.k)
        .map(|at| part.neighbor(at))
        .peekable();
    while row.len() < n {
        let is_known = match (known.peek(), others.peek()) {
            (Some(known), Some(other)) => order(known, other).is_le(),
            (known, _) => known.is_some(),
        };
        row.extend(if is_known {
            known.next()
        } else {
            others.next()
        });
    }
}

/// By distance, then by place.
fn order(one: &Neighbor, other: &Neighbor) -> Ordering {
    let by_distance = one.sq_l2.total_cmp(&other.sq_l2);
    by_distance.then(one.place.cmp(&other.place))
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
    fn many_parts_are_merged_as_sorting_all_would() {
        let (n_cells, k) = (5, 4);
        let values: Vec<u32> = (0..3000).map(|at| at * 7919 % 101).collect();
        let mut taken = values.chunks_exact(n_cells * 3).map(|values| {
            let mut rows: Vec<Neighbor> = values
                .iter()
                .map(|&value| Neighbor {
                    sq_l2: f64::from(value % 5),
                    place: Place {
                        rank: value,
                        cell: value % 2,
                    },
                })
                .collect();
            rows.chunks_exact_mut(3).for_each(|row| row.sort_by(order));
            rows
        });
        let lists: Vec<Vec<Neighbor>> = taken.by_ref().take(40).collect();
        let column = |of: fn(&Neighbor) -> u32| -> Vec<Vec<u32>> {
            let lists = lists.iter();
            lists.map(|list| list.iter().map(of).collect()).collect()
        };
        let (ranks, cells) = (column(|n| n.place.rank), column(|n| n.place.cell));
        let sq_distances: Vec<Vec<f64>> = lists
            .iter()
            .map(|list| list.iter().map(|neighbor| neighbor.sq_l2).collect())
            .collect();
        let parts: Vec<FoundInPart<'_>> = (0..lists.len())
            .map(|part| FoundInPart {
                k: 3,
                sq_distances: &sq_distances[part],
                ranks: &ranks[part],
                cells: &cells[part],
            })
            .collect();
        let merged = merge(&parts, n_cells, k).unwrap();
        for cell in 0..n_cells {
            let of_cell = |list: &Vec<Neighbor>| list[cell * 3..][..3].to_vec();
            let mut all: Vec<Neighbor> = lists.iter().flat_map(of_cell).collect();
            all.sort_by(order);
            for (at, expected) in (cell * k..).zip(&all[..k]) {
                assert_eq!(merged.sq_distances[at], expected.sq_l2);
                assert_eq!(merged.ranks[at], expected.place.rank);
                assert_eq!(merged.cells[at], expected.place.cell);
            }
        }
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
