//! The search of one job.

use super::plan::FlatPlan;
use super::search::FlatJob;
use super::seeds;
use crate::search::job::Job;
use crate::search::stats::SearchStats;
use std::sync::atomic::Ordering;

impl FlatPlan<'_> {
    /// Finds the neighbours of one job's cells, unless searching exhaustively is better, or must be:
    /// then no result is set.
    pub(crate) fn run(&self, job: &mut Job<'_>, stats: &mut SearchStats) -> bool {
        if self.gave_up.load(Ordering::Relaxed) {
            return false;
        }
        let Some((mut search, projected)) = FlatJob::new(self, job) else {
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
            self.gave_up.store(true, Ordering::Relaxed);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::CentredQuery;
    use crate::kernels::InstructionSet;
    use crate::pyramid::{DType, LevelData, PyramidBatch, PyramidShape, Upsample};
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
            let plan = FlatPlan::new(&context, &context, &selections, set, 2, &options).unwrap();
            let n = side * side;
            let (mut sq_distances, mut ranks, mut cells) = (vec![0.0; n], vec![0; n], vec![0; n]);
            let centred: OnceLock<CentredQuery> = OnceLock::new();
            let mut job = Job {
                levels: vec![LevelData::F32(&query)],
                centred: &centred,
                selection: &selections[0],
                first_cell: 0,
                sq_distances: &mut sq_distances,
                ranks: &mut ranks,
                cells: &mut cells,
            };
            let mut stats = SearchStats::default();
            assert!(plan.run(&mut job, &mut stats), "{stats:?}");
            let pairs: Vec<u64> = stats.stages.iter().map(|(_, pairs)| *pairs).collect();
            assert!(pairs[0] >= (n_images * n * n) as u64, "{stats:?}");
            assert!(pairs[1] * 2 < pairs[0], "{stats:?}");
            assert!(pairs[2] * 20 < pairs[0], "{stats:?}");
            assert!(pairs[3] < 20 * n as u64, "{stats:?}");

            let exhaustive = Options {
                matcher: Matcher::Exhaustive,
                ..Options::new(1)
            };
            let query = PyramidBatch::new(shape.clone(), 1, vec![LevelData::F32(&query)]).unwrap();
            let expected = search::search(&query, &context, &selections, &exhaustive).unwrap();
            assert_eq!(
                (sq_distances, ranks, cells),
                (expected.sq_distances, expected.ranks, expected.cells)
            );
        }
    }
}
