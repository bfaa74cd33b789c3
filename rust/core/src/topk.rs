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
    /// The k smallest `high`, the largest on top.
    highs: BinaryHeap<High>,
}

impl Shortlist {
    pub(crate) fn new(k: usize) -> Self {
        Self {
            k,
            capacity: 2 * k + 32,
            candidates: Vec::new(),
            highs: BinaryHeap::new(),
        }
    }

    /// Empties the list for another query.
    pub(crate) fn clear(&mut self) {
        self.candidates.clear();
        self.highs.clear();
    }

    /// A pair whose `low` is above this is not among the k nearest; infinite until k are known.
    pub(crate) fn bound(&self) -> f32 {
        match self.highs.peek() {
            Some(high) if self.highs.len() == self.k => high.0,
            _ => f32::INFINITY,
        }
    }

    /// Adds a pair.
    pub(crate) fn push(&mut self, low: f32, high: f32, place: Place) {
        debug_assert!(!low.is_nan() && !high.is_nan());
        self.candidates.push(Candidate {
            low,
            high,
            place,
            sq_l2: f64::NAN,
        });
        self.lower_bound(high);
    }

    fn lower_bound(&mut self, high: f32) {
        if self.highs.len() < self.k {
            self.highs.push(High(high));
        } else if let Some(mut top) = self.highs.peek_mut()
            && high < top.0
        {
            *top = High(high);
        }
    }

    /// Whether it is time to [`prune`](Self::prune), lest the list grow without end.
    pub(crate) const fn is_full(&self) -> bool {
        self.candidates.len() >= self.capacity
    }

    /// Drops what the bound excludes; where that does not help, because very many pairs are nearly
    /// equal, computes exact distances with `sq_l2` and keeps the k nearest. `interval` gives the
    /// bounds of a pair of which the exact distance is known.
    ///
    /// Returns whether no later place can enter the list any more: pairs are pushed in order of
    /// place, so once k pairs lie at distance 0 a later one loses every tie.
    pub(crate) fn prune(
        &mut self,
        sq_l2: impl FnMut(Place) -> f64,
        interval: impl Fn(f64) -> (f32, f32),
    ) -> bool {
        let bound = self.bound();
        self.candidates.retain(|candidate| candidate.low <= bound);
        if self.candidates.len() <= self.capacity / 2 {
            return false;
        }
        self.keep_nearest(sq_l2);
        self.highs.clear();
        for candidate in &mut self.candidates {
            (candidate.low, candidate.high) = interval(candidate.sq_l2);
            self.highs.push(High(candidate.high));
        }
        self.candidates.len() == self.k
            && self.candidates.last().is_some_and(|last| last.sq_l2 == 0.0)
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
        let bound = self.bound();
        self.candidates.retain(|candidate| candidate.low <= bound);
        self.keep_nearest(sq_l2);
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
        let mut closed = false;
        for cell in 0..1000 {
            list.push(-0.1, 0.1, place(cell));
            if list.is_full() {
                closed = list.prune(|_| 0.0, |_| (-0.01, 0.01));
            }
            assert!(list.candidates.len() <= list.capacity);
        }
        assert!(closed);
        let cells: Vec<u32> = list.finish(|_| 0.0).map(|n| n.place.cell).collect();
        assert_eq!(cells, [0, 1, 2]);
    }
}
