//! The matcher for galleries of one level.

use super::plan::FlatPlan;
use super::search::FlatJob;
use super::seeds;
use crate::pyramid::PyramidContext;
use crate::search::exhaustive::{Exhaustive, TileBuffers};
use crate::search::job::Job;
use crate::search::matcher::{Division, JobMatcher, Request};
use crate::search::stats::SearchStats;
use std::sync::atomic::Ordering;

/// The matcher; jobs of which too little is pruned are left to the exhaustive one.
pub(crate) struct Flat<'a> {
    plan: FlatPlan<'a>,
    context: &'a PyramidContext,
    exhaustive: Exhaustive<'a>,
}

impl<'a> Flat<'a> {
    /// None if searching exhaustively is better, or must be.
    pub(crate) fn new(request: &Request<'a>) -> Option<Self> {
        Some(Self {
            plan: FlatPlan::new(request)?,
            context: request.context,
            exhaustive: Exhaustive::new(request),
        })
    }

    /// Finds the neighbours of one job's cells, unless searching exhaustively is better, or must be:
    /// then no result is set.
    fn prune(&self, job: &mut Job<'_>, stats: &mut SearchStats) -> bool {
        if self.plan.gave_up.load(Ordering::Relaxed) {
            return false;
        }
        let Some((mut search, projected)) = FlatJob::new(&self.plan, job) else {
            return false;
        };
        seeds::seed(&mut search, &projected, job.selection);
        let done = search.scan(job.selection);
        for (stage, pairs) in [
            ("filter 1", search.counts.first_filter),
            ("filter 2", search.counts.second_filter),
            ("float32", search.counts.float32),
            ("float64", search.counts.float64),
        ] {
            stats.count(stage, pairs);
        }
        if done {
            search.write(job);
        } else {
            self.plan.gave_up.store(true, Ordering::Relaxed);
        }
        done
    }
}

impl JobMatcher for Flat<'_> {
    type Buffers = TileBuffers;

    fn buffers(&self) -> TileBuffers {
        self.exhaustive.buffers()
    }

    fn division(&self, n_images: usize, n_cells: usize) -> Division {
        self.exhaustive.division(n_images, n_cells)
    }

    fn search(&self, buffers: &mut TileBuffers, job: &mut Job<'_>) -> SearchStats {
        let pairs = job.n_pairs(self.context, None);
        let mut stats = SearchStats {
            pairs,
            ..SearchStats::default()
        };
        if !self.prune(job, &mut stats) {
            self.exhaustive.search(buffers, job);
            stats.count("exhaustive", pairs);
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::InstructionSet;
    use crate::pyramid::{DType, LevelData, PyramidBatch, PyramidShape, Upsample};
    use crate::search::job::divide;
    use crate::search::neighbors::Neighbors;
    use crate::search::options::{Matcher, Options};
    use crate::{Gallery, search};
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
            let request = Request {
                context: &context,
                query_context: &context,
                selections: &selections,
                options: &options,
                set,
                threads: 2,
            };
            let flat = Flat::new(&request).unwrap();
            let n = side * side;
            let query = PyramidBatch::new(shape.clone(), 1, vec![LevelData::F32(&query)]).unwrap();
            let mut found = Neighbors::new(1, n, 1, false).unwrap();
            let centred = [OnceLock::new()];
            let mut jobs = divide(&query, &selections, &centred, (n, 1), &mut found);
            let mut stats = SearchStats::default();
            assert!(flat.prune(&mut jobs[0], &mut stats), "{stats:?}");
            drop(jobs);
            let pairs: Vec<u64> = stats.stages.iter().map(|(_, pairs)| *pairs).collect();
            assert!(pairs[0] >= (n_images * n * n) as u64, "{stats:?}");
            assert!(pairs[1] * 2 < pairs[0], "{stats:?}");
            assert!(pairs[2] * 20 < pairs[0], "{stats:?}");
            assert!(pairs[3] < 20 * n as u64, "{stats:?}");

            let exhaustive = Options {
                matcher: Matcher::Exhaustive,
                ..Options::new(1)
            };
            let expected = search::search(&query, &context, &selections, &exhaustive).unwrap();
            found.stats = expected.stats.clone();
            assert_eq!(found, expected);
        }
    }
}
