//! A tile: queries that are looked up together.

use super::exact::sq_l2;
use super::shortlist::Place;
use crate::bounds::{CentredQuery, error_bounds};
use crate::gallery::Selection;
use crate::kernels::{Limits, MAX_TILE, NO_QUERY, QueryTile, dot};
use crate::pyramid::{Area, LevelData, LevelGrid, Window, upsample_into};
use std::cell::Cell;

/// What a search compares: a query image and the selected gallery images.
pub(super) struct Source<'a> {
    /// Of the gallery.
    pub grids: &'a [LevelGrid],
    /// Of the query: another grid only where there is one level.
    pub query_grids: &'a [LevelGrid],
    pub query: &'a [LevelData<'a>],
    pub centred: &'a CentredQuery,
    pub selection: &'a Selection,
    /// Where the neighbours of a cell may lie, if not anywhere.
    pub window: Option<&'a Window>,
}

impl Source<'_> {
    /// The area of gallery images that some query cells are compared with.
    pub(super) fn area_around(&self, cells: impl Iterator<Item = u32>) -> Area {
        match self.window {
            Some(window) => window.around(cells.map(|cell| cell as usize)),
            None => Area::all(&self.grids[0].shape),
        }
    }

    /// The window of each of some query cells, or [`NO_QUERY`]; nothing where there are no windows.
    pub(super) fn windows_of(&self, cells: &[u32]) -> Vec<Option<Area>> {
        let Some(window) = self.window else {
            return Vec::new();
        };
        let around = |&cell: &u32| window.around(std::iter::once(cell as usize));
        let windows = cells.iter();
        windows
            .map(|cell| (*cell != NO_QUERY).then(|| around(cell)))
            .collect()
    }

    /// How many cells of a gallery image a query cell is compared with.
    pub(super) fn n_compared(&self, query: u32) -> u64 {
        let n_cells = match self.window {
            Some(window) => window.n_cells(query as usize),
            None => self.grids[0].shape.cells(),
        };
        n_cells as u64
    }

    /// Whether a query cell is compared with a gallery cell.
    pub(super) fn is_within(&self, query: u32, cell: usize) -> bool {
        let window = self.window;
        window.is_none_or(|window| window.contains(query as usize, cell))
            && !self.selection.hides(cell)
    }

    /// The exact squared distance between the query's feature `x` and a gallery cell, whose feature is
    /// left in `y`.
    pub(super) fn sq_l2(&self, x: &[f64], place: Place, y: &mut Vec<f64>) -> f64 {
        let image = self.selection.image(place.rank);
        self.sq_l2_in(x, &image.levels(), place.cell, y)
    }

    /// The same, for a cell of an image at hand.
    pub(super) fn sq_l2_in(
        &self,
        x: &[f64],
        levels: &[LevelData<'_>],
        cell: u32,
        y: &mut Vec<f64>,
    ) -> f64 {
        upsample_into(self.grids, levels, cell as usize, y);
        sq_l2(x, y)
    }
}

/// Queries packed for the kernels, and how near a pair must be to be of interest.
pub(super) struct Tile {
    /// The fine cell of each query, or [`NO_QUERY`].
    pub cells: [u32; MAX_TILE],
    pub packed: QueryTile,
    /// Where the gallery cells lie that are compared with any of them.
    pub area: Area,
    /// Partial distances above these are of no interest, in the image that is being searched.
    pub limits: Limits,
    /// True partial distances of neighbours are not above these.
    pub(super) bounds: Limits,
    /// The same, before there are candidates.
    pub(super) seeds: [f32; MAX_TILE],
    /// Squared norm of each query, level by level, rounded up.
    pub sq_norms: Vec<[f32; MAX_TILE]>,
    /// Largest norm of the cells under each query, per level.
    norms: Vec<[f32; MAX_TILE]>,
}

impl Default for Tile {
    fn default() -> Self {
        Self {
            cells: [NO_QUERY; MAX_TILE],
            packed: QueryTile::default(),
            area: Area::default(),
            limits: [const { Cell::new(f32::NEG_INFINITY) }; MAX_TILE],
            bounds: [const { Cell::new(f32::NEG_INFINITY) }; MAX_TILE],
            seeds: [f32::INFINITY; MAX_TILE],
            sq_norms: Vec::new(),
            norms: Vec::new(),
        }
    }
}

impl Tile {
    /// Packs the queries at these fine cells (or [`NO_QUERY`]), for kernels of `width` lanes.
    pub(super) fn load(
        &mut self,
        source: &Source<'_>,
        cells: impl Iterator<Item = u32>,
        width: usize,
    ) {
        self.packed.reset(source.query_grids, width);
        self.place(source, cells);
        self.sq_norms.clear();
        self.sq_norms
            .resize(source.query_grids.len(), [0.0; MAX_TILE]);
        let fine_width = source.query_grids[0].shape.width;
        let mut feature = Vec::new();
        for lane in 0..MAX_TILE {
            let cell = self.cells[lane];
            if cell == NO_QUERY {
                continue;
            }
            let (row, column) = (cell as usize / fine_width, cell as usize % fine_width);
            for (level, grid) in source.query_grids.iter().enumerate() {
                let centred = &source.centred.levels[level];
                grid.interpolate_into(centred, row, column, &mut feature);
                self.packed.set(level, lane, &feature);
                // A sum of n terms is wrong by n roundings at most, and the feature by a dozen
                // roundings of values as large as those it was interpolated from.
                let norm = self.norms[level][lane];
                let roundings = (grid.shape.channels + 16) as f32 * f32::EPSILON;
                let sq_norm = dot(&feature, &feature);
                self.sq_norms[level][lane] =
                    (sq_norm.sqrt() * (1.0 + roundings) + 16.0 * f32::EPSILON * norm).powi(2);
            }
        }
        self.area = source.area_around(self.queries().map(|(_, cell)| cell));
    }

    /// Takes the queries at these fine cells (or [`NO_QUERY`]), for kernels that have packed them.
    pub(super) fn place(&mut self, source: &Source<'_>, cells: impl Iterator<Item = u32>) {
        self.cells = [NO_QUERY; MAX_TILE];
        self.seeds = [f32::INFINITY; MAX_TILE];
        self.bounds = [const { Cell::new(f32::NEG_INFINITY) }; MAX_TILE];
        self.norms.clear();
        self.norms.resize(source.query_grids.len(), [0.0; MAX_TILE]);
        let fine_width = source.query_grids[0].shape.width;
        for (lane, cell) in cells.enumerate().filter(|(_, cell)| *cell != NO_QUERY) {
            self.cells[lane] = cell;
            self.bounds[lane].set(f32::INFINITY);
            let (row, column) = (cell as usize / fine_width, cell as usize % fine_width);
            for (level, grid) in source.query_grids.iter().enumerate() {
                let norms = &source.centred.norms[level];
                let corners = grid.corners(row, column).map(|at| norms[at]);
                self.norms[level][lane] = 1.001 * corners.into_iter().fold(0.0, f32::max);
            }
        }
    }

    /// Makes it known that no neighbour of a query has a true partial distance above `seed`.
    pub(super) fn seed(&mut self, lane: usize, seed: f32) {
        self.seeds[lane] = seed;
        self.bounds[lane].set(self.bounds[lane].get().min(seed));
    }

    /// The fine cells of the queries, with their lanes.
    pub(super) fn queries(&self) -> impl Iterator<Item = (usize, u32)> {
        let cells = self.cells.iter().copied().enumerate();
        cells.filter(|(_, cell)| *cell != NO_QUERY)
    }

    /// How wrong the partial distances of each query can be in an image with these norms.
    pub(super) fn errors(&self, grids: &[LevelGrid], max_norms: &[f32]) -> [f32; MAX_TILE] {
        error_bounds(grids, &self.norms, max_norms)
    }
}
