//! Partial distances of a few cells in full, with which limits are lowered before the search.

use super::super::prepare::{FramedImage, centre_into, dot};
use super::super::scan::QueryTile;
use super::super::{InstructionSet, Kernel, Lanes, TILE_VECTORS, run};
use super::native::take_products;
use crate::pyramid::LevelGrid;

/// Appends the partial distances of one vector of queries to some fine cells of a gallery image.
pub(crate) fn distances(
    set: InstructionSet,
    grids: &[LevelGrid],
    image: FramedImage<'_>,
    cells: &[u32],
    (queries, vector): (&QueryTile, usize),
    scratch: &mut DistanceScratch,
    out: &mut Vec<f32>,
) {
    queries.check(grids, set);
    assert!(vector < TILE_VECTORS);
    let kernel = Distances {
        grids,
        image,
        cells,
        queries,
        vector,
        scratch,
        out,
    };
    // SAFETY: the tile is of this instruction set and shape; everything else is indexed.
    unsafe { run(set, kernel) }
}

/// Working memory of [`distances`].
#[derive(Default)]
pub(crate) struct DistanceScratch {
    corner: Vec<f32>,
    features: Vec<f32>,
    wanted: Vec<usize>,
    products: Vec<f32>,
}

struct Distances<'a> {
    grids: &'a [LevelGrid],
    image: FramedImage<'a>,
    cells: &'a [u32],
    queries: &'a QueryTile,
    vector: usize,
    scratch: &'a mut DistanceScratch,
    out: &'a mut Vec<f32>,
}

impl Kernel for Distances<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes, const CELLS: usize>(self) {
        let Self {
            grids,
            image,
            cells,
            queries,
            vector,
            scratch,
            out,
        } = self;
        let DistanceScratch {
            corner,
            features,
            wanted,
            products,
        } = scratch;
        let first = out.len();
        out.resize(first + cells.len() * L::WIDTH, 0.0);
        let fine_width = grids[0].shape.width;
        for (level, (grid, data)) in grids.iter().zip(image.levels).enumerate() {
            let channels = grid.shape.channels;
            corner.resize(channels, 0.0);
            features.clear();
            features.resize(cells.len() * channels, 0.0);
            for (cell, feature) in cells.iter().zip(features.chunks_exact_mut(channels)) {
                let (row, column) = (*cell as usize / fine_width, *cell as usize % fine_width);
                let weights = grid.corner_weights(row, column);
                for (at, weight) in grid.corners(row, column).into_iter().zip(weights) {
                    if weight != 0.0 {
                        let values = data.slice(at * channels, channels);
                        centre_into(values, &image.means[level][..channels], image.scale, corner);
                        for (feature, value) in feature.iter_mut().zip(&*corner) {
                            *feature += weight as f32 * value;
                        }
                    }
                }
            }
            wanted.clear();
            wanted.extend(0..cells.len());
            products.resize(cells.len() * L::WIDTH, 0.0);
            // SAFETY: as promised by the caller; from each place on there are `channels` values.
            unsafe {
                let from = queries.level(level).as_ptr().add(vector * L::WIDTH);
                let (values, to) = (features.as_ptr(), products.as_mut_ptr());
                take_products::<L, CELLS>(from, channels, values, wanted, to, |at, _| at);
            }
            for (at, feature) in features.chunks_exact(channels).enumerate() {
                // SAFETY: the instruction set is there.
                let sq_norm = dot(feature, feature);
                let out = &mut out[first + at * L::WIDTH..][..L::WIDTH];
                for (out, product) in out.iter_mut().zip(&products[at * L::WIDTH..]) {
                    *out += sq_norm + product;
                }
            }
        }
    }
}
