//! The matcher for flat galleries (of one level): a distance is taken only where a few leading
//! coordinates ([`crate::bounds::projection`]) cannot tell that the pair is too far apart.
//!
//! Queries are taken in patches, so that those of one vector lie close together in their image and
//! near the same rows. For each tile of queries and each chunk of rows:
//!
//! 1. A *filter* of some 16 leading coordinates lists, for each vector, the rows that may be near any
//!    of its queries; a *second filter*, of some 48, looks at those alone.
//! 2. What is left is compared one by one: in float32 over all channels, from the stored values.
//! 3. What is then within the limit is compared in float64 ([`super::exact`]), and this alone decides:
//!    the k nearest are the least by distance and place, in whatever order they come.
//!
//! A query's *limit* is the k-th least distance known. So that it is low from the start, the *seeds*
//! come first: the rows nearest to the mean of each vector, by leading coordinates, are compared with
//! all its queries. They only lower limits.
//!
//! # Why nothing is lost
//! Every comparison is with a value that rounding can only have made larger (limits) or smaller
//! (bounds), so that a pair is dropped only when its float64 distance exceeds the k-th least. For the
//! filters see [`crate::bounds::projection`]. In float32, `u scale` and `v scale` are exact but for underflow,
//! their difference is rounded once, its square once, and the sum of `n` squares at most `n + 8`
//! times: all relative to what is summed, so that the distance is right within `(n + 12) 2^-24` of
//! itself, with a hundredth on top. `1e-7` of a distance is more than its float64 value is wrong by.

mod search;
mod seeds;

use self::search::Search;
use super::exhaustive::Job;
use super::{Matcher, Options, Work};
use crate::bounds::{Rotation, Slot};
use crate::gallery::Selection;
use crate::gallery::StoredImage;
use crate::kernels::InstructionSet;
use crate::parallel::run;
use crate::pyramid::{PyramidContext, decode_into};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// More channels than this are searched exhaustively: the directions take their square in memory.
const MAX_CHANNELS: usize = 8192;

/// How many pairs each stage looked at.
#[derive(Debug, Default)]
struct Counts {
    /// All pairs, by the first filter.
    first_filter: u64,
    /// By the second filter.
    second_filter: u64,
    /// In float32, over all channels.
    float32: u64,
    /// In float64.
    float64: u64,
}

/// What the jobs of a search share.
pub(super) struct Plan<'a> {
    query_context: &'a PyramidContext,
    rotation: &'a Rotation,
    set: InstructionSet,
    options: &'a Options<'a>,
    /// A job found that too little is pruned.
    gave_up: AtomicBool,
}

impl<'a> Plan<'a> {
    /// Makes the galleries ready; nothing where searching them exhaustively is better, or must be.
    pub(super) fn new(
        context: &'a PyramidContext,
        query_context: &'a PyramidContext,
        selections: &'a [Selection],
        set: InstructionSet,
        threads: usize,
        options: &'a Options<'a>,
    ) -> Option<Self> {
        let level = context.shape().finest();
        let (cells, channels) = (level.cells(), level.channels);
        let n_queries = query_context.shape().finest().cells();
        let slot = selections.first()?.rotation();
        let n_rows = selections.iter().map(Selection::len).min()? * cells;
        let pays = match options.matcher {
            Matcher::Exhaustive => false,
            // Few rows or queries do not repay what is made ready, nor do limits so wide. (Of 1,568
            // rows of real features, 3,136 queries are told apart in less than half the time.)
            Matcher::Auto => {
                channels >= 48
                    && n_queries >= 256
                    && n_rows >= 1024
                    && options.k <= n_rows.min(4096) / 64
            }
            Matcher::Pruned => true,
        };
        let one_gallery = selections.iter().all(|s| Arc::ptr_eq(s.rotation(), slot));
        if !pays || !one_gallery || context.shape().levels().len() > 1 || channels > MAX_CHANNELS {
            return None;
        }
        let rotation = slot
            .get_or_init(|| fit(set, channels, cells, &selections[0]))
            .as_ref()?;
        if options.matcher == Matcher::Auto && !rotation.pays() {
            return None;
        }
        encode(selections, set, threads, options).then(|| Self {
            query_context,
            rotation,
            set,
            options,
            gave_up: AtomicBool::new(false),
        })
    }

    /// Finds the neighbours of one job's cells, unless searching exhaustively is better, or must be:
    /// then nothing is set.
    pub(super) fn run(&self, job: &mut Job<'_>, work: &mut Work) -> bool {
        if self.gave_up.load(Ordering::Relaxed) {
            return false;
        }
        let Some((mut search, rotated)) = Search::new(self, job) else {
            return false;
        };
        seeds::seed(&mut search, &rotated, job.selection);
        let done = search.scan(job.selection);
        for (stage, pairs) in [
            ("filter 1", search.counts.first_filter),
            ("filter 2", search.counts.second_filter),
            ("float32", search.counts.float32),
            ("float64", search.counts.float64),
        ] {
            work.count(stage, pairs);
        }
        if done {
            search.write(job);
        } else {
            self.gave_up.store(true, Ordering::Relaxed);
        }
        done
    }
}

fn fit(
    set: InstructionSet,
    channels: usize,
    cells: usize,
    selection: &Selection,
) -> Option<Rotation> {
    let images: Vec<&StoredImage> = selection.images().map(|(_, image)| image).collect();
    Rotation::fit(set, channels, images.len() * cells, |row, values| {
        let start = row % cells * channels;
        let level = images[row / cells].levels()[0];
        decode_into(&level, start..start + channels, values);
    })
}

/// Encodes all images that are not yet; whether all could be.
fn encode(
    selections: &[Selection],
    set: InstructionSet,
    threads: usize,
    options: &Options<'_>,
) -> bool {
    let images: Vec<_> = selections
        .iter()
        .flat_map(|s| s.images().map(|(_, image)| (s.rotation(), image)))
        .collect();
    // What is there need not be made: no threads for that.
    let is_there = images.iter().all(|(_, image)| image.is_encoded());
    let mut workers = vec![(); if is_there { 1 } else { threads }];
    let n_images = images.len();
    let encode =
        |(): &mut (), (slot, image): (&Arc<Slot>, &StoredImage)| image.codes(slot, set).is_some();
    let encoded = run(&mut workers, images, options.cancel, encode);
    encoded.len() == n_images && encoded.into_iter().all(|is_encoded| is_encoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::QueryFrame;
    use crate::pyramid::{DType, LevelData, PyramidBatch, PyramidShape, Upsample};
    use crate::{Gallery, matching};
    use std::sync::OnceLock;

    /// Cells on a smooth surface, with a little noise: neighbours are near, and all else is far.
    fn surface(n_rows: usize, width: usize, channels: usize, phase: f32) -> Vec<f32> {
        let mut values = Vec::new();
        for cell in 0..n_rows * width {
            let (down, across) = ((cell / width) as f32, (cell % width) as f32);
            for channel in 0..channels {
                let (a, b) = ((channel % 5) as f32, (channel % 3) as f32);
                let wave = phase + 0.05 * (down * (2.0 + a).sqrt() + across * (3.0 + b).sqrt());
                let noise = ((cell * 7919 + channel * 104_729) % 97) as f32 / 97.0;
                values.push(4.0 * (wave + channel as f32).sin() + 0.2 * noise);
            }
        }
        values
    }

    #[test]
    fn what_is_far_is_pruned_unasked() {
        let (side, channels, n_images) = (24, 64, 5);
        let shape = PyramidShape::new(&[(side, side, channels)]).unwrap();
        let normal = surface(n_images * side, side, channels, 0.0);
        let query = surface(side, side, channels, 1.005);
        let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
        let ids: Vec<String> = (0..n_images).map(|id| id.to_string()).collect();
        let levels = vec![LevelData::F32(&normal)];
        gallery
            .add(
                &PyramidBatch::new(shape.clone(), n_images, levels).unwrap(),
                &ids,
            )
            .unwrap();
        let context = gallery.pyramid_context().unwrap();
        let selections = [gallery.select(None).unwrap()];
        let options = Options::new(1);
        for set in InstructionSet::available() {
            let plan = Plan::new(&context, &context, &selections, set, 2, &options).unwrap();
            let n = side * side;
            let (mut sq_distances, mut ranks, mut cells) = (vec![0.0; n], vec![0; n], vec![0; n]);
            let frame: OnceLock<QueryFrame> = OnceLock::new();
            let mut job = Job {
                levels: vec![LevelData::F32(&query)],
                frame: &frame,
                selection: &selections[0],
                first_cell: 0,
                sq_distances: &mut sq_distances,
                ranks: &mut ranks,
                cells: &mut cells,
            };
            let mut work = Work::default();
            assert!(plan.run(&mut job, &mut work), "{work:?}");
            let pairs: Vec<u64> = work.stages.iter().map(|(_, pairs)| *pairs).collect();
            assert!(pairs[0] >= (n_images * n * n) as u64, "{work:?}");
            assert!(pairs[1] * 2 < pairs[0], "{work:?}");
            assert!(pairs[2] * 20 < pairs[0], "{work:?}");
            assert!(pairs[3] < 20 * n as u64, "{work:?}");

            let exhaustive = Options {
                matcher: Matcher::Exhaustive,
                ..Options::new(1)
            };
            let query = PyramidBatch::new(shape.clone(), 1, vec![LevelData::F32(&query)]).unwrap();
            let expected = matching::search(&query, &context, &selections, &exhaustive).unwrap();
            assert_eq!(
                (sq_distances, ranks, cells),
                (expected.sq_distances, expected.ranks, expected.cells)
            );
        }
    }
}
