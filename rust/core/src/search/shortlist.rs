//! The shortlist of one query: every pair that could still be among its k nearest.
//!
//! A scan gives each pair an interval `[low, high]` that surely contains its true partial distance.
//! At least k true distances are at most the k-th smallest `high`, the *bound*; so a pair whose
//! `low` exceeds the bound is not among the k nearest, and every other pair is kept. When scanning
//! is over, the pairs left are compared by exact distance.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A cell of a gallery image; `rank` is the place of the image's id in sorted order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub rank: u32,
    pub cell: u32,
}

/// A neighbour with its exact squared distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbor {
    pub sq_l2: f64,
    pub place: Place,
}

/// A pair that may be among the k nearest.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    low: f32,
    high: f32,
    place: Place,
    /// NaN until it is computed.
    sq_l2: f64,
}

/// The order of `f32`; no NaN is ever stored.
#[derive(Clone, Copy, Debug, PartialEq)]
struct High(f32);
impl Eq for High {}
impl PartialOrd for High {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for High {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shortlist {
    k: usize,
    capacity: usize,
    candidates: Vec<Candidate>,
    /// The k smallest `high`, the largest on top; not kept up once the list is exact.
    highs: BinaryHeap<High>,
    /// The candidates are the k nearest so far, in order, with their exact distances.
    exact: bool,
}

impl Shortlist {
    pub(crate) fn new(k: usize) -> Self {
        Self {
            k,
            capacity: k.saturating_mul(2).saturating_add(32),
            candidates: Vec::new(),
            highs: BinaryHeap::new(),
            exact: false,
        }
    }

    /// The memory that a list may come to take; huge when that cannot be expressed.
    pub(crate) const fn max_bytes(k: usize) -> usize {
        k.saturating_mul(2 * size_of::<Candidate>() + size_of::<High>())
            .saturating_add(32 * size_of::<Candidate>())
    }

    /// Empties the list for another query.
    pub(crate) fn clear(&mut self) {
        self.candidates.clear();
        self.highs.clear();
        self.exact = false;
    }

    /// A pair whose `low` is above this is not among the k nearest; infinite until k are known, and
    /// minus infinity when no later pair can be.
    pub(crate) fn bound(&self) -> f32 {
        if self.exact {
            // Pairs come in the order of their places, so a later one loses every tie; and nothing
            // is nearer than 0.
            return match self.candidates.last() {
                Some(last) if last.sq_l2 > 0.0 => last.high,
                _ => f32::NEG_INFINITY,
            };
        }
        match self.highs.peek() {
            Some(high) if self.highs.len() == self.k => high.0,
            _ => f32::INFINITY,
        }
    }

    /// Adds a pair of which an interval is known. Pairs come in the order of their places.
    pub(crate) fn push(&mut self, low: f32, high: f32, place: Place) {
        debug_assert!(!self.exact && !low.is_nan() && !high.is_nan());
        self.candidates.push(Candidate {
            low,
            high,
            place,
            sq_l2: f64::NAN,
        });
        if self.highs.len() < self.k {
            self.highs.push(High(high));
        } else if let Some(mut top) = self.highs.peek_mut()
            && high < top.0
        {
            *top = High(high);
        }
    }

    /// Whether it is time to [`prune`](Self::prune), so that the list does not grow without end.
    pub(crate) const fn is_full(&self) -> bool {
        self.candidates.len() >= self.capacity
    }

    /// Drops what the bound excludes. Where that does not help, because very many pairs are nearly
    /// equal, the list becomes *exact*: `sq_l2` computes exact distances, the k nearest are kept, and
    /// pairs are [`inserted`](Self::insert) from then on. `interval` gives the bounds of a pair of
    /// which the exact distance is known.
    pub(crate) fn prune(
        &mut self,
        sq_l2: impl FnMut(Place) -> f64,
        interval: impl Fn(f64) -> (f32, f32),
    ) {
        let bound = self.bound();
        self.candidates.retain(|candidate| candidate.low <= bound);
        if self.candidates.len() > self.capacity / 2 {
            self.keep_nearest(sq_l2);
            for candidate in &mut self.candidates {
                (candidate.low, candidate.high) = interval(candidate.sq_l2);
            }
            self.exact = true;
        }
    }

    /// Whether the list takes exact distances.
    pub(crate) const fn is_exact(&self) -> bool {
        self.exact
    }

    /// Adds a pair to an exact list, if it is nearer than the k-th.
    pub(crate) fn insert(&mut self, neighbor: Neighbor, interval: impl Fn(f64) -> (f32, f32)) {
        debug_assert!(self.exact);
        let at = self
            .candidates
            .partition_point(|candidate| candidate.sq_l2 <= neighbor.sq_l2);
        if at < self.k {
            let (low, high) = interval(neighbor.sq_l2);
            let Neighbor { sq_l2, place } = neighbor;
            self.candidates.truncate(self.k - 1);
            self.candidates.insert(
                at,
                Candidate {
                    low,
                    high,
                    place,
                    sq_l2,
                },
            );
        }
    }

    /// Computes what distances are missing and keeps the k nearest, in order.
    fn keep_nearest(&mut self, mut sq_l2: impl FnMut(Place) -> f64) {
        for candidate in &mut self.candidates {
            if candidate.sq_l2.is_nan() {
                candidate.sq_l2 = sq_l2(candidate.place);
            }
        }
        let order =
            |x: &Candidate, y: &Candidate| x.sq_l2.total_cmp(&y.sq_l2).then(x.place.cmp(&y.place));
        if self.candidates.len() > self.k {
            self.candidates.select_nth_unstable_by(self.k - 1, order);
            self.candidates.truncate(self.k);
        }
        self.candidates.sort_unstable_by(order);
    }

    /// The k nearest, nearest first; fewer when fewer were pushed.
    pub(crate) fn finish(
        &mut self,
        sq_l2: impl FnMut(Place) -> f64,
    ) -> impl Iterator<Item = Neighbor> + '_ {
        if !self.exact {
            let bound = self.bound();
            self.candidates.retain(|candidate| candidate.low <= bound);
            self.keep_nearest(sq_l2);
        }
        self.candidates.iter().map(|candidate| Neighbor {
            sq_l2: candidate.sq_l2,
            place: candidate.place,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cell: u32) -> Place {
        Place { rank: 0, cell }
    }

    #[test]
    fn keeps_what_the_intervals_cannot_exclude() {
        let mut list = Shortlist::new(1);
        list.push(5.0, 7.0, place(0));
        assert_eq!(list.bound(), 7.0);
        list.push(6.0, 8.0, place(1));
        list.push(1.0, 3.0, place(2));
        list.push(2.5, 4.0, place(3));
        let exact = [6.0, 7.0, 2.9, 2.6];
        let mut asked = Vec::new();
        let nearest: Vec<Neighbor> = list
            .finish(|place| {
                asked.push(place.cell);
                exact[place.cell as usize]
            })
            .collect();
        assert_eq!(nearest.len(), 1);
        assert_eq!(nearest[0].place, place(3));
        assert_eq!(
            asked,
            [2, 3],
            "only overlapping intervals are worth an exact distance"
        );
    }

    #[test]
    fn ties_go_to_the_first_place() {
        let mut list = Shortlist::new(2);
        for cell in [3, 1, 2, 0] {
            list.push(0.9, 1.1, place(cell));
        }
        let cells: Vec<u32> = list.finish(|_| 1.0).map(|n| n.place.cell).collect();
        assert_eq!(cells, [0, 1]);
    }

    #[test]
    fn a_list_of_duplicates_stays_small_and_closes() {
        let mut list = Shortlist::new(3);
        let mut cell = 0;
        while !list.is_exact() {
            list.push(-0.1, 0.1, place(cell));
            cell += 1;
            if list.is_full() {
                list.prune(|_| 0.0, |_| (-0.01, 0.01));
            }
        }
        assert!((cell as usize) <= list.capacity);
        assert_eq!(list.bound(), f32::NEG_INFINITY);
        let cells: Vec<u32> = list
            .finish(|_| unreachable!())
            .map(|n| n.place.cell)
            .collect();
        assert_eq!(cells, [0, 1, 2]);
    }

    #[test]
    fn an_exact_list_takes_only_nearer_pairs() {
        let mut list = Shortlist::new(2);
        let interval = |sq_l2: f64| (sq_l2 as f32 - 0.01, sq_l2 as f32 + 0.01);
        for cell in 0..list.capacity as u32 {
            list.push(0.9, 1.1, place(cell));
        }
        list.prune(|_| 1.0, interval);
        assert!(list.is_exact());
        list.insert(
            Neighbor {
                sq_l2: 1.0,
                place: place(100),
            },
            interval,
        );
        list.insert(
            Neighbor {
                sq_l2: 0.5,
                place: place(101),
            },
            interval,
        );
        list.insert(
            Neighbor {
                sq_l2: 2.0,
                place: place(102),
            },
            interval,
        );
        assert_eq!(list.bound(), 1.01);
        let cells: Vec<u32> = list
            .finish(|_| unreachable!())
            .map(|n| n.place.cell)
            .collect();
        assert_eq!(cells, [101, 0]);
    }
}
