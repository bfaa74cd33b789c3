//! Patches: the vectors of queries that are led through the images.

use super::leading::LeadingCoordinates;
use super::plan::{CascadePlan, PlannedArea};
use crate::kernels::instruction_set::InstructionSet;
use crate::kernels::simd::{Lanes, MAX_WIDTH};
use crate::kernels::tile::{Limits, MAX_TILE, NO_QUERY, QueryTile};
use crate::pyramid::Area;
use std::ops::Range;

/// A vector of queries, close together in the image.
pub(crate) struct Patch {
    /// The tile that holds it, and which vector of the tile it is.
    pub tile: usize,
    pub vector: usize,
    pub(super) corners: Vec<Corner>,
    /// Where the gallery cells lie that are compared with any of the queries.
    pub around: PlannedArea,
    /// Leading coordinates of the finer levels, multiplied by -2: `[value][lane]`.
    pub(super) leading: Vec<[f32; MAX_WIDTH]>,
    /// `[level]`: the sum of the squared norms of all finer levels.
    pub(super) finer_sq_norms: Vec<[f32; MAX_WIDTH]>,
    /// See the module above.
    error: [f32; MAX_WIDTH],
    /// `-2 <u, g>` for two rows of the coarsest level of the gallery image, in the slot of their parity.
    pub(super) rows: [Vec<f32>; 2],
    pub(super) held: [usize; 2],
    pub(super) n_queries: u64,
    /// For each level, the different queries of the patch, where they can be compared with four cells
    /// at once.
    pub(super) packed4: Vec<Option<Packed4Queries>>,
}

/// The queries of a patch on a level on which few of them differ (`WIDTH / 4` at most), each in four lanes:
/// lane `4 i + j` is for query `i` and the `j`-th of four cells.
pub(super) struct Packed4Queries {
    /// `[channel][lane]`, multiplied by -2.
    pub queries: Vec<f32>,
    /// For each lane here, a lane of the patch that holds the query.
    pub packing: [u32; MAX_WIDTH],
    /// For each of the four cells and each lane of the patch, the lane here.
    pub unpacking: [[u32; MAX_WIDTH]; 4],
}

impl Packed4Queries {
    fn new(
        plan: &CascadePlan<'_>,
        set: InstructionSet,
        level: usize,
        (vector, queries): (usize, &QueryTile),
        cells: &[u32],
    ) -> Option<Self> {
        let grid = &plan.grids[level];
        let parents = plan.grids.get(level + 1)?.shape.cells();
        if !plan.nested || grid.shape.cells() != 4 * parents {
            return None;
        }
        let fine_width = grid.columns.len();
        let mut different = Vec::new();
        let mut packing = [0; MAX_WIDTH];
        let mut unpacking = [[0; MAX_WIDTH]; 4];
        for (lane, &cell) in cells.iter().enumerate() {
            if cell == NO_QUERY {
                continue;
            }
            let (row, column) = (cell as usize / fine_width, cell as usize % fine_width);
            let [cell, ..] = grid.corners(row, column);
            let known = different.iter().position(|&(other, _)| other == cell);
            let index = known.unwrap_or(different.len());
            if known.is_none() {
                different.push((cell, lane));
            }
            for (cell, lanes) in unpacking.iter_mut().enumerate() {
                lanes[lane] = (4 * index + cell) as u32;
            }
        }
        if different.len() > set.width() / 4 {
            return None;
        }
        let mut packed = vec![0.0; grid.shape.channels * set.width()];
        for (index, (_, lane)) in different.into_iter().enumerate() {
            let lanes = 4 * index..4 * index + 4;
            packing[lanes.clone()].fill(lane as u32);
            let from = queries.level(level)[vector * set.width() + lane..].iter();
            let from = from.step_by(set.tile());
            for (to, value) in packed.chunks_exact_mut(set.width()).zip(from) {
                to[lanes.clone()].fill(*value);
            }
        }
        Some(Self {
            queries: packed,
            packing,
            unpacking,
        })
    }

    /// The largest limit of the lanes of the patch that hold each query.
    ///
    /// # Safety
    /// The instruction set of `L` must be available, and be that of the patch.
    #[inline(always)]
    pub(super) unsafe fn limits<L: Lanes>(&self, limits: L) -> L {
        let (mut lanes, mut largest) = ([0.0; MAX_WIDTH], [f32::NEG_INFINITY; MAX_WIDTH]);
        // SAFETY: the caller has the instruction set; there is room for the widest vector.
        unsafe {
            limits.store(lanes.as_mut_ptr());
            for (lane, limit) in lanes.iter().enumerate().take(L::WIDTH) {
                // A limit is NaN only where everything is of interest.
                let limit = if limit.is_nan() {
                    f32::INFINITY
                } else {
                    *limit
                };
                let first = self.unpacking[0][lane] as usize;
                for largest in &mut largest[first..first + 4] {
                    *largest = largest.max(limit);
                }
            }
            L::load(largest.as_ptr())
        }
    }
}

/// No row is held.
const NOTHING: usize = usize::MAX;

impl Patch {
    /// The patch in one vector of a tile whose lanes hold the queries at these fine cells, if any, given
    /// the area of gallery images that they are compared with and if they have windows those of the lanes,
    /// and the leading coordinates of the query
    /// image, if they are to be used.
    pub(crate) fn new(
        plan: &CascadePlan<'_>,
        set: InstructionSet,
        (tile, vector): (usize, usize),
        (cells, queries): (&[u32; MAX_TILE], &QueryTile),
        sq_norms: &[[f32; MAX_TILE]],
        (around, windows): (Area, &[Option<Area>]),
        image: Option<&LeadingCoordinates>,
    ) -> Self {
        let grids = plan.grids;
        let lanes = vector * set.width()..(vector + 1) * set.width();
        let own = &cells[lanes.clone()];
        let packed4 = |level| Packed4Queries::new(plan, set, level, (vector, queries), own);
        let len = grids[grids.len() - 1].shape.width * set.width();
        Self {
            packed4: (0..grids.len()).map(packed4).collect(),
            tile,
            vector,
            corners: corners_of(plan, set, own),
            around: PlannedArea::new(plan, around, windows),
            leading: image.map_or_else(Vec::new, |image| pack_leading(image, own)),
            finer_sq_norms: add_up(sq_norms, lanes),
            error: [0.0; MAX_WIDTH],
            rows: [vec![0.0; len], vec![0.0; len]],
            held: [NOTHING; 2],
            n_queries: own.iter().filter(|&&cell| cell != NO_QUERY).count() as u64,
        }
    }

    /// The cell of the coarsest level in which most of the patch lies.
    pub(crate) fn main_corner(&self) -> Option<usize> {
        let weight = |corner: &Corner| corner.weights.iter().sum::<f32>();
        let main = self
            .corners
            .iter()
            .max_by(|x, y| weight(x).total_cmp(&weight(y)));
        main.map(|corner| corner.cell)
    }

    /// Makes ready for another gallery image, in which the lanes of the tile have these errors.
    pub(crate) fn start(&mut self, set: InstructionSet, errors: &[f32; MAX_TILE]) {
        let lanes = &errors[self.vector * set.width()..][..set.width()];
        self.error[..lanes.len()].copy_from_slice(lanes);
        self.held = [NOTHING; 2];
    }

    /// The largest sum of the levels from `level` on with which a pair is still of interest; `errors`
    /// says how many times the error is added.
    ///
    /// # Safety
    /// The instruction set of `L` must be available, and the patch lie in a tile of as many lanes.
    #[inline(always)]
    pub(super) unsafe fn limit<L: Lanes>(&self, limits: &Limits, level: usize, errors: f32) -> L {
        // SAFETY: limits are there for all vectors of a tile; `Cell<f32>` has the layout of `f32`.
        unsafe {
            let limit = L::load(limits.as_ptr().cast::<f32>().add(self.vector * L::WIDTH));
            let finer = L::load(self.finer_sq_norms[level].as_ptr());
            let error = L::load(self.error.as_ptr());
            error.mul_add(L::splat(errors), limit.add(finer))
        }
    }
}

/// A cell of the coarsest level of the query, and its weight in each query of a patch.
pub(super) struct Corner {
    pub cell: usize,
    /// Where its products with the first cell of a gallery image are.
    pub at: usize,
    pub weights: [f32; MAX_WIDTH],
}

/// The cells of the coarsest level of the query that the fine cells of some lanes are interpolated from.
fn corners_of(plan: &CascadePlan<'_>, set: InstructionSet, cells: &[u32]) -> Vec<Corner> {
    let grid = &plan.grids[plan.grids.len() - 1];
    let fine_width = grid.columns.len();
    let mut corners: Vec<Corner> = Vec::new();
    for (lane, &cell) in cells.iter().enumerate() {
        if cell == NO_QUERY {
            continue;
        }
        let (row, column) = (cell as usize / fine_width, cell as usize % fine_width);
        let weights = grid.corner_weights(row, column);
        for (at, weight) in grid.corners(row, column).into_iter().zip(weights) {
            if weight == 0.0 {
                continue;
            }
            let known = corners.iter().position(|corner| corner.cell == at);
            let known = known.unwrap_or_else(|| {
                let (width, n_cells) = (set.width(), grid.shape.cells());
                corners.push(Corner {
                    cell: at,
                    at: at / width * width * n_cells + at % width,
                    weights: [0.0; MAX_WIDTH],
                });
                corners.len() - 1
            });
            corners[known].weights[lane] += weight as f32;
        }
    }
    corners
}

/// The leading coordinates of some cells of the query image, multiplied by -2: `[value][lane]`.
fn pack_leading(image: &LeadingCoordinates, cells: &[u32]) -> Vec<[f32; MAX_WIDTH]> {
    let pack = |value: &[f32]| {
        let mut packed = [0.0; MAX_WIDTH];
        for (packed, &cell) in packed.iter_mut().zip(cells) {
            if cell != NO_QUERY {
                *packed = -2.0 * value[cell as usize];
            }
        }
        packed
    };
    image.values().map(pack).collect()
}

/// For each level the sum of the squared norms of all finer levels, of some lanes.
fn add_up(sq_norms: &[[f32; MAX_TILE]], lanes: Range<usize>) -> Vec<[f32; MAX_WIDTH]> {
    let mut sum = [0.0; MAX_WIDTH];
    let mut finer = Vec::with_capacity(sq_norms.len());
    for level in sq_norms {
        finer.push(sum);
        for (sum, sq_norm) in sum.iter_mut().zip(&level[lanes.clone()]) {
            *sum += sq_norm;
        }
    }
    finer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::Portable;
    use crate::pyramid::{PyramidContext, PyramidShape, Upsample};
    use std::array::from_fn;
    use std::cell::Cell;

    /// Rounding stays far below its bound, so that no search would tell of an error left out here.
    #[test]
    fn a_limit_makes_room_for_finer_levels_and_for_errors() {
        let shape = PyramidShape::new(&[(4, 4, 1), (2, 2, 1), (1, 1, 1)]).unwrap();
        let context = PyramidContext::new(shape, Upsample::Bilinear);
        let set = InstructionSet::Portable;
        let cells = from_fn(|lane| if lane < 12 { lane as u32 } else { NO_QUERY });
        let sq_norms = [1.0, 10.0, 100.0].map(|norm| from_fn(|lane| norm * (lane + 1) as f32));
        let plan = CascadePlan::new(&context.grids);
        let mut tile = QueryTile::default();
        tile.reset(&context.grids, set.tile());
        let all = Area::all(&context.grids[0].shape);
        let mut patch = Patch::new(
            &plan,
            set,
            (0, 2),
            (&cells, &tile),
            &sq_norms,
            (all, &[]),
            None,
        );
        let errors = from_fn(|lane| 0.25 * lane as f32);
        patch.start(set, &errors);
        let limits: Limits = from_fn(|lane| Cell::new(1000.0 * lane as f32));
        for (level, finer) in [0.0, 1.0, 11.0].into_iter().enumerate() {
            for n_errors in [1.0, 4.0] {
                let mut found = [0.0; 4];
                // SAFETY: plain Rust needs no instruction set; four floats are stored.
                unsafe {
                    let limit = patch.limit::<Portable>(&limits, level, n_errors);
                    limit.store(found.as_mut_ptr());
                }
                let expected: [f32; 4] = from_fn(|i| {
                    let lane = (8 + i) as f32;
                    1000.0 * lane + finer * (lane + 1.0) + n_errors * 0.25 * lane
                });
                assert_eq!(found, expected, "level {level}");
            }
        }
    }
}
