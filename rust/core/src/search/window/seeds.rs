//! Seeds: each query cell is first compared with the same place of some gallery images, so that limits are low
//! from the start. These images are nearest by the coarsest level, where the cell lies in it.

use crate::gallery::StoredImage;
use crate::kernels::{MAX_TILE, NO_QUERY, dot};
use crate::pyramid::{LevelData, upsample_into};
use crate::search::exact::sq_l2;
use crate::search::options::Options;
use crate::search::tile::{Source, Tile};
use std::collections::BTreeMap;

/// Images that a cell is compared with, besides those that `k` neighbours need.
const MORE: usize = 0;

/// Lowers the limits of all queries before anything is searched.
pub(super) fn seed(source: &Source<'_>, tiles: &mut [Tile], options: &Options<'_>) {
    let images: Vec<&StoredImage> = source.selection.images().map(|(_, image)| image).collect();
    let levels: Vec<Vec<LevelData<'_>>> = images.iter().map(|image| image.levels()).collect();
    let n_seeds = images.len().min(options.k + MORE);
    if n_seeds < options.k {
        return;
    }
    let coarsest = source.grids.len() - 1;
    let (width, shape) = (source.grids[0].shape.width, source.grids[coarsest].shape);
    let (tall, wide) = (
        source.grids[0].shape.height / shape.height,
        width / shape.width,
    );
    let mut nearest: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let (mut x, mut y, mut highs) = (Vec::new(), Vec::new(), Vec::new());
    for tile in tiles {
        if options.cancel.is_set() {
            return;
        }
        for lane in 0..MAX_TILE {
            let cell = tile.cells[lane];
            if cell == NO_QUERY {
                continue;
            }
            let at = cell as usize;
            let coarse = at / width / tall * shape.width + at % width / wide;
            let near = nearest
                .entry(coarse)
                .or_insert_with(|| nearest_images(source, &levels, coarse, n_seeds));
            upsample_into(source.query_grids, source.query, at, &mut x);
            let sq_norm = source.centred.sq_norm(&x);
            highs.clear();
            for &image in &*near {
                upsample_into(source.grids, &levels[image], at, &mut y);
                highs.push(source.centred.interval(sq_l2(&x, &y), sq_norm).1);
            }
            let (_, kth, _) = highs.select_nth_unstable_by(options.k - 1, f32::total_cmp);
            tile.seed(lane, *kth);
        }
    }
}

/// The images that are nearest to a cell of the coarsest level, in the same place.
fn nearest_images(
    source: &Source<'_>,
    images: &[Vec<LevelData<'_>>],
    cell: usize,
    n: usize,
) -> Vec<usize> {
    let coarsest = source.grids.len() - 1;
    let channels = source.grids[coarsest].shape.channels;
    let values = |level: &LevelData<'_>| {
        let mut values = vec![0.0; channels];
        level
            .slice(cell * channels, channels)
            .decode_into(&mut values);
        values
    };
    let own = values(&source.query[coarsest]);
    let distance = |levels: &Vec<LevelData<'_>>| {
        let mut other = values(&levels[coarsest]);
        for (other, own) in other.iter_mut().zip(&own) {
            *other -= own;
        }
        dot(&other, &other)
    };
    let mut order: Vec<(f32, usize)> = images.iter().map(distance).zip(0..).collect();
    if n < order.len() {
        order.select_nth_unstable_by(n, |a, b| a.0.total_cmp(&b.0));
        order.truncate(n);
    }
    order.into_iter().map(|(_, image)| image).collect()
}
