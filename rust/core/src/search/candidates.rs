//! The candidates for the neighbours of the queries of a tile.

use super::duplicates::duplicates;
use super::shortlist::{Neighbor, Place, Shortlist};
use super::tile::{Source, Tile};
use crate::kernels::{Hits, MAX_TILE, NO_QUERY};
use crate::pyramid::{LevelData, upsample_into};
use std::cell::OnceCell;

/// The candidates for the neighbours of the queries of one tile.
pub(super) struct TileCandidates {
    lists: Vec<Shortlist>,
    /// Upsampled feature of each query whose list is exact; empty for the others.
    features: Vec<Vec<f64>>,
    /// Squared norm of these, centred and scaled.
    sq_norms: [f64; MAX_TILE],
    /// The last exact distance of each query with an exact list, and the rank and duplicate of the cell.
    known: [(u32, u32, f64); MAX_TILE],
    /// Features that are compared at the moment.
    compared: [Vec<f64>; 2],
}

const NOTHING_KNOWN: (u32, u32, f64) = (u32::MAX, u32::MAX, f64::NAN);

impl TileCandidates {
    pub(super) fn new(k: usize) -> Self {
        Self {
            lists: (0..MAX_TILE).map(|_| Shortlist::new(k)).collect(),
            features: vec![Vec::new(); MAX_TILE],
            sq_norms: [0.0; MAX_TILE],
            known: [NOTHING_KNOWN; MAX_TILE],
            compared: [Vec::new(), Vec::new()],
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.lists.iter_mut().for_each(Shortlist::clear);
        self.features.iter_mut().for_each(Vec::clear);
        self.known = [NOTHING_KNOWN; MAX_TILE];
    }

    /// The k nearest of one query, nearest first.
    pub(super) fn finish(
        &mut self,
        source: &Source<'_>,
        lane: usize,
        cell: u32,
    ) -> impl Iterator<Item = Neighbor> + '_ {
        let [x, y] = &mut self.compared;
        upsample_into(source.query_grids, source.query, cell as usize, x);
        self.lists[lane].finish(|place| source.sq_l2(x, place, y))
    }
}

/// The gallery image that is being searched.
pub(super) struct Searched<'a> {
    pub rank: u32,
    pub levels: &'a [LevelData<'a>],
    /// Computed when a query with an exact list first asks for them.
    duplicates: OnceCell<Vec<u32>>,
}

impl<'a> Searched<'a> {
    pub(super) const fn new(rank: u32, levels: &'a [LevelData<'a>]) -> Self {
        Self {
            rank,
            levels,
            duplicates: OnceCell::new(),
        }
    }
}

/// Receives the hits of one tile in one gallery image.
pub(super) struct TileHits<'a> {
    pub source: &'a Source<'a>,
    pub image: &'a Searched<'a>,
    pub tile: &'a Tile,
    pub errors: [f32; MAX_TILE],
    pub candidates: &'a mut TileCandidates,
}

impl TileHits<'_> {
    /// Sets the limits of all queries to what is of interest in this image.
    pub(super) fn set_limits(&self) {
        for lane in 0..MAX_TILE {
            self.set_limit(lane);
        }
    }

    /// The largest partial distance in the current image that is still of interest. Where errors have
    /// no bound, all pairs are, but for queries whose neighbours are final.
    #[inline]
    fn set_limit(&self, lane: usize) {
        let (bound, error) = (self.tile.bounds[lane].get(), self.errors[lane]);
        let limit = bound + error;
        let limit = limit + f32::EPSILON * limit.abs(); // what the sum was rounded by
        let limit = if error.is_finite() {
            limit
        } else {
            f32::INFINITY
        };
        let open = bound > f32::NEG_INFINITY;
        self.tile.limits[lane].set(if open { limit } else { f32::NEG_INFINITY });
    }

    /// A pair that may be among the nearest of a query with an open list.
    fn push(&mut self, lane: usize, place: Place, s: f32) {
        let error = self.errors[lane];
        let (low, high) = if error.is_finite() && s.is_finite() {
            ((s - error).next_down(), (s + error).next_up())
        } else {
            (f32::NEG_INFINITY, f32::INFINITY)
        };
        let source = self.source;
        let TileCandidates {
            lists,
            features,
            sq_norms,
            compared: [_, other],
            ..
        } = &mut *self.candidates;
        let (list, feature) = (&mut lists[lane], &mut features[lane]);
        list.push(low, high, place);
        if list.is_full() {
            let cell = self.tile.cells[lane] as usize;
            upsample_into(source.query_grids, source.query, cell, feature);
            sq_norms[lane] = source.centred.sq_norm(feature);
            let sq_norm = sq_norms[lane];
            list.prune(
                |place| source.sq_l2(feature, place, other),
                |sq_l2| source.centred.interval(sq_l2, sq_norm),
            );
        }
    }

    /// A pair that may be nearer than those in the exact list of its query.
    fn insert(&mut self, lane: usize, place: Place) {
        let (source, image) = (self.source, self.image);
        let TileCandidates {
            lists,
            features,
            sq_norms,
            known,
            compared: [_, other],
        } = &mut *self.candidates;
        let duplicates = image
            .duplicates
            .get_or_init(|| duplicates(source.grids, image.levels));
        let duplicate = duplicates[place.cell as usize];
        if (known[lane].0, known[lane].1) != (place.rank, duplicate) {
            let (x, cell) = (&features[lane], place.cell);
            let sq_l2 = source.sq_l2_in(x, image.levels, cell, other);
            known[lane] = (place.rank, duplicate, sq_l2);
        }
        let (sq_l2, sq_norm) = (known[lane].2, sq_norms[lane]);
        lists[lane].insert(Neighbor { sq_l2, place }, |sq_l2| {
            source.centred.interval(sq_l2, sq_norm)
        });
    }
}

impl Hits for TileHits<'_> {
    fn hit(&mut self, lane: usize, cell: usize, s: f32) {
        // A NaN passes the kernel's comparison with any limit.
        let query = self.tile.cells[lane];
        if query == NO_QUERY
            || !self.source.is_within(query, cell)
            || self.candidates.lists[lane].bound() == f32::NEG_INFINITY
        {
            return;
        }
        let place = Place {
            rank: self.image.rank,
            cell: cell as u32,
        };
        if self.candidates.lists[lane].is_exact() {
            self.insert(lane, place);
        } else {
            self.push(lane, place, s);
        }
        let bound = self.candidates.lists[lane].bound();
        self.tile.bounds[lane].set(bound.min(self.tile.seeds[lane]));
        self.set_limit(lane);
    }
}
