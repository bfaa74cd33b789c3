//! Coresets against a naive greedy selection in float64, in every way there is to pick them, which
//! must all give the same to the bit.

mod common;

use common::{KINDS, Kind, MODES, Numbers, Shapes, batch, features, ids, kept, upsampled};
use half::f16;
use knnspect_core::gallery::Selection;
use knnspect_core::pyramid::{PyramidContext, Upsample, concatenate};
use knnspect_core::select::{PickOptions, Picks, pick};
use knnspect_core::storage::Links;
use knnspect_core::storage::Store;
use knnspect_core::{Cancel, DType, Error, Gallery, InstructionSet};
use proptest::prelude::*;
use std::cell::RefCell;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Images of a gallery, and what is to be picked of them.
#[derive(Clone, Debug)]
struct Case {
    shapes: Shapes,
    upsample: Upsample,
    dtype: DType,
    kind: Kind,
    magnitude: f64,
    n_images: usize,
    count: usize,
    first: usize,
    /// Columns of the projection.
    projected: Option<usize>,
    seed: u64,
}

impl Case {
    fn new(shapes: &[(usize, usize, usize)], kind: Kind, n_images: usize, count: usize) -> Self {
        Self {
            shapes: shapes.to_vec(),
            upsample: Upsample::Bilinear,
            dtype: DType::F32,
            kind,
            magnitude: 1.0,
            n_images,
            count,
            first: 0,
            projected: None,
            seed: 1,
        }
    }

    fn cells(&self) -> usize {
        self.shapes[0].0 * self.shapes[0].1
    }

    fn n_features(&self) -> usize {
        self.shapes.iter().map(|shape| shape.2).sum()
    }

    fn normal(&self) -> Vec<Vec<f32>> {
        let mut levels = features(self.kind, self.seed, self.n_images, &self.shapes);
        for value in levels.iter_mut().flatten() {
            *value = (f64::from(*value) * self.magnitude) as f32;
            if self.dtype == DType::F16 {
                *value = f16::from_f32(*value).to_f32();
            }
        }
        levels
    }

    fn projection(&self) -> Option<Vec<f32>> {
        let mut numbers = Numbers(3);
        self.projected.map(|n| {
            let values = (0..n * self.n_features()).map(|_| numbers.uniform() as f32);
            values.collect()
        })
    }

    fn gallery(&self, normal: &[Vec<f32>]) -> Gallery {
        let mut gallery = Gallery::new(self.upsample, self.dtype);
        let images = batch(&self.shapes, self.n_images, normal);
        gallery.add(&images, &ids(self.n_images)).unwrap();
        gallery
    }

    /// Rows as they are, and as they are compared.
    fn rows(&self, normal: &[Vec<f32>]) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let kept = kept(&self.shapes, self.dtype, self.n_images, normal);
        let rows: Vec<Vec<f32>> = upsampled(&self.shapes, self.n_images, &kept, self.upsample)
            .iter()
            .map(|feature| feature.values.iter().map(|&v| v as f32).collect())
            .collect();
        let compared = match (self.projected, self.projection()) {
            (Some(n), Some(matrix)) => rows.iter().map(|row| projected(row, &matrix, n)).collect(),
            _ => rows.clone(),
        };
        (rows, compared)
    }

    /// Picks in every way and compares with the naive selection.
    fn check(&self) -> Picks {
        self.check_rounds(&[None, NonZero::new(1), NonZero::new(7), NonZero::new(100)])
    }

    fn check_rounds(&self, rounds: &[Option<NonZero<usize>>]) -> Picks {
        let normal = self.normal();
        let gallery = self.gallery(&normal);
        let (context, all) = (
            gallery.pyramid_context().unwrap(),
            gallery.select(None).unwrap(),
        );
        let (rows, compared) = self.rows(&normal);
        let (expected, radius) = greedy(&compared, self.count, self.first);
        let projection = self.projection();
        let mut last = None;
        for set in InstructionSet::available() {
            for (&round, threads) in rounds.iter().zip([1, 2, 3, 2]) {
                let options = PickOptions {
                    first: (
                        (self.first / self.cells()) as u32,
                        (self.first % self.cells()) as u32,
                    ),
                    projection: projection.as_deref(),
                    threads: NonZero::new(threads),
                    instruction_set: Some(set),
                    round,
                    ..PickOptions::new(self.count)
                };
                let picks = pick(&context, &all, &options).unwrap();
                let places: Vec<usize> = numbers_of(&picks, self.cells());
                let how = format!("{set:?}, {threads} threads, round {round:?}, {self:?}");
                assert_eq!(places, expected, "{how}");
                assert_eq!(picks.sq_radius.to_bits(), radius.to_bits(), "{how}");
                let values: Vec<f32> = expected.iter().flat_map(|&at| rows[at].clone()).collect();
                assert_eq!(picks.rows, values, "{how}");
                assert_eq!(picks.stats.pairs, (rows.len() * places.len()) as u64);
                last = Some(picks);
            }
        }
        last.unwrap()
    }
}

fn numbers_of(picks: &Picks, cells: usize) -> Vec<usize> {
    let places = picks.ranks.iter().zip(&picks.cells);
    places
        .map(|(&rank, &cell)| rank as usize * cells + cell as usize)
        .collect()
}

fn projected(row: &[f32], matrix: &[f32], n: usize) -> Vec<f32> {
    (0..n)
        .map(|column| {
            let mut sum = 0.0;
            for (at, &value) in row.iter().enumerate() {
                sum += f64::from(value) * f64::from(matrix[at * n + column]);
            }
            sum as f32
        })
        .collect()
}

/// One pass over all rows after each pick. Sums are taken in the order that the core promises, lest
/// equal distances are told apart by their rounding.
fn greedy(rows: &[Vec<f32>], count: usize, first: usize) -> (Vec<usize>, f64) {
    let sq_l2 = |x: &[f32], y: &[f32]| {
        let mut sums = [0.0_f64; 8];
        for at in 0..x.len() {
            sums[at % 8] += (f64::from(x[at]) - f64::from(y[at])).powi(2);
        }
        ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
    };
    let mut nearest = vec![f64::INFINITY; rows.len()];
    let mut picks = vec![first];
    loop {
        let last = &rows[picks[picks.len() - 1]];
        for (nearest, row) in nearest.iter_mut().zip(rows) {
            *nearest = nearest.min(sq_l2(row, last));
        }
        let mut farthest = 0;
        for (at, &sq) in nearest.iter().enumerate() {
            if sq > nearest[farthest] {
                farthest = at;
            }
        }
        if picks.len() == count || nearest[farthest] == 0.0 {
            return (picks, nearest[farthest]);
        }
        picks.push(farthest);
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let channels = || prop_oneof![1 => Just(1_usize), 4 => 1..=67_usize];
    let ratio = || prop::sample::select(vec![1_usize, 2, 3, 4]);
    let shapes = prop_oneof![
        (1..=9_usize, 1..=9_usize, channels()).prop_map(|shape| vec![shape]),
        (
            (1..=3_usize, 1..=3_usize),
            (ratio(), ratio()),
            channels(),
            channels()
        )
            .prop_map(|((h, w), (down, across), fine, coarse)| {
                vec![
                    (2 * h * down, w * across, fine),
                    (h * down, w, 3),
                    (h, w, coarse),
                ]
            }),
    ];
    (
        shapes,
        prop::sample::select(MODES.to_vec()),
        prop::sample::select(KINDS.to_vec()),
        (1..=4_usize, any::<u64>(), 0.0..=1.0_f64),
        prop::sample::select(vec![DType::F32, DType::F16, DType::I8]),
        prop::sample::select(vec![1.0, 1.0, 1e-30, 1e-20, 1e15]),
        prop::option::weighted(0.2, 1..=20_usize),
    )
        .prop_map(
            |(shapes, upsample, kind, (n_images, seed, share), dtype, magnitude, projected)| {
                let n_rows = n_images * shapes[0].0 * shapes[0].1;
                let half = kind.fits_half() && magnitude == 1.0;
                Case {
                    upsample,
                    dtype: if dtype == DType::F16 && !half {
                        DType::F32
                    } else {
                        dtype
                    },
                    magnitude,
                    count: 1 + (share * (n_rows - 1) as f64) as usize,
                    first: (seed % n_rows as u64) as usize,
                    projected,
                    seed,
                    ..Case::new(&shapes, kind, n_images, 1)
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn picks_what_a_naive_selection_picks(case in cases()) {
        case.check();
    }
}

/// Many picks, so that rows see some of them late, and first filters, second filters and float64 all
/// have something to decide.
#[test]
fn every_kind_of_feature() {
    for kind in KINDS {
        for (shapes, projected) in [
            (vec![(16, 16, 40)], None),
            (vec![(16, 16, 20), (8, 8, 24), (4, 4, 30)], None),
            (vec![(16, 16, 20), (4, 4, 30)], Some(24)),
        ] {
            let mut case = Case::new(&shapes, kind, 4, 500);
            (case.projected, case.first) = (projected, 777);
            case.check();
        }
    }
}

#[test]
fn all_rows_one_row_and_the_only_row() {
    let mut case = Case::new(&[(6, 7, 9), (2, 7, 3)], Kind::Uniform, 3, 126);
    assert_eq!(case.check().sq_radius, 0.0);
    case.count = 1;
    assert!(case.check().sq_radius > 0.0);
    let case = Case::new(&[(1, 1, 5)], Kind::Uniform, 1, 1);
    assert_eq!(case.check().sq_radius, 0.0);
}

/// What coincides with a pick adds nothing.
#[test]
fn the_selection_ends_where_all_else_coincides_with_picks() {
    for kind in [Kind::Constant, Kind::Repeated, Kind::Copies] {
        let mut case = Case::new(&[(6, 8, 12)], kind, 3, 144);
        case.first = 100;
        let picks = case.check();
        let expected = match kind {
            Kind::Constant => 3, // each image has a feature of its own
            Kind::Repeated => 5,
            _ => 48,
        };
        assert_eq!(picks.ranks.len(), expected, "{kind:?}");
        assert_eq!(picks.sq_radius, 0.0, "{kind:?}");
    }
}

/// Rows so far from each other that squares overflow float32, or too small for it, and rows too far
/// off for the proof of the filters, which only float64 can compare.
#[test]
fn no_magnitude_is_too_small_or_too_large() {
    for magnitude in [1e-44, 1e-38, 1e-25, 1e18, 1e30, 3e38] {
        for shapes in [vec![(6, 8, 12)], vec![(6, 8, 12), (3, 4, 7)]] {
            let mut case = Case::new(&shapes, Kind::Uniform, 3, 60);
            case.magnitude = magnitude;
            case.check();
        }
    }
    // Images of their own scale, from 1e-15 to 1e15, and one of 1e38 that the sample may miss.
    let shapes = vec![(9, 9, 10)];
    let mut levels = features(Kind::Scales, 5, 40, &shapes);
    let last = levels[0].len() - 3;
    levels[0][last] = 3e38;
    let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
    gallery.add(&batch(&shapes, 40, &levels), &ids(40)).unwrap();
    let rows: Vec<Vec<f32>> = levels[0].chunks(10).map(<[f32]>::to_vec).collect();
    let (expected, _) = greedy(&rows, 200, 0);
    let context = gallery.pyramid_context().unwrap();
    let picks = pick(
        &context,
        &gallery.select(None).unwrap(),
        &PickOptions::new(200),
    )
    .unwrap();
    assert_eq!(numbers_of(&picks, 81), expected);
}

/// The directions are fitted to every other row. Of the others one is too far off for the proof of
/// the filters and is picked, and one is nearer to it than to the rest.
#[test]
fn a_pick_that_is_too_far_off_for_the_filters() {
    let shapes = vec![(64, 64, 5)];
    let mut levels = features(Kind::Uniform, 2, 1, &shapes);
    for value in &mut levels[0] {
        *value *= 0.7; // so that the scale is 2
    }
    levels[0][5 * 1001] = 6e14;
    levels[0][5 * 3001] = 4e14;
    let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
    gallery.add(&batch(&shapes, 1, &levels), &ids(1)).unwrap();
    let rows: Vec<Vec<f32>> = levels[0].chunks(5).map(<[f32]>::to_vec).collect();
    let context = gallery.pyramid_context().unwrap();
    for count in [2, 3, 20] {
        let (expected, radius) = greedy(&rows, count, 0);
        let all = gallery.select(None).unwrap();
        let picks = pick(&context, &all, &PickOptions::new(count)).unwrap();
        assert_eq!(numbers_of(&picks, 64 * 64), expected);
        assert_eq!(picks.sq_radius, radius);
    }
}

/// A few images of many: ranks are those of the whole gallery, and ties follow them.
#[test]
fn a_selection_of_images() {
    let shapes = vec![(5, 5, 6), (5, 1, 2)];
    let levels = features(Kind::Quantised, 8, 6, &shapes);
    let mut gallery = Gallery::new(Upsample::Block, DType::F32);
    gallery.add(&batch(&shapes, 6, &levels), &ids(6)).unwrap();
    let some = gallery.select(Some(&["004".into(), "001".into()])).unwrap();
    let context = gallery.pyramid_context().unwrap();
    let options = PickOptions {
        first: (4, 3),
        ..PickOptions::new(30)
    };
    let picks = pick(&context, &some, &options).unwrap();
    let rows = upsampled(&shapes, 6, &levels, Upsample::Block);
    let rows: Vec<Vec<f32>> = [1, 4]
        .into_iter()
        .flat_map(|image| &rows[image * 25..(image + 1) * 25])
        .map(|feature| feature.values.iter().map(|&v| v as f32).collect())
        .collect();
    let (expected, _) = greedy(&rows, 30, 28);
    let expected: Vec<usize> = expected
        .into_iter()
        .map(|at| [1, 4][at / 25] * 25 + at % 25)
        .collect();
    assert_eq!(numbers_of(&picks, 25), expected);
}

#[test]
fn a_gallery_in_a_file() {
    for dtype in [DType::F32, DType::F16, DType::I8] {
        let mut case = Case::new(&[(8, 8, 20), (4, 4, 9)], Kind::Structured, 5, 80);
        case.dtype = dtype;
        let gallery = case.gallery(&case.normal());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gallery.ks");
        let (metadata, tensors) = Default::default();
        gallery
            .save(
                &path,
                Links::Follow,
                "gallery",
                &metadata,
                tensors,
                Cancel::NEVER,
            )
            .unwrap();
        let store = Arc::new(Store::open(&path, Links::Follow, true, Cancel::NEVER).unwrap());
        let mapped = Gallery::from_store(&store).unwrap();
        let context = mapped.pyramid_context().unwrap();
        let all = mapped.select(None).unwrap();
        let picks = pick(&context, &all, &PickOptions::new(80)).unwrap();
        let expected = case.check();
        assert_eq!((picks.ranks, picks.rows), (expected.ranks, expected.rows));
    }
}

/// What coarse features make alike is hardly ever compared in full.
#[test]
fn filters_leave_out_nearly_all_pairs() {
    let case = Case::new(&[(32, 32, 64)], Kind::Structured, 8, 400);
    let picks = case.check_rounds(&[None]);
    let stages: Vec<(&str, u64)> = picks.stats.stages.iter().map(|(s, n)| (&**s, *n)).collect();
    let [("filter 1", first), ("filter 2", _), ("float64", float64)] = stages[..] else {
        panic!("{stages:?}");
    };
    assert!(first <= picks.stats.pairs * 5 / 4, "{:?}", picks.stats);
    assert!(float64 * 8 < picks.stats.pairs, "{:?}", picks.stats);
}

#[test]
fn rows_are_upsampled_concatenated_features() {
    for upsample in MODES {
        for kind in [Kind::Uniform, Kind::Offset, Kind::Scales] {
            let shapes = vec![(12, 6, 5), (4, 6, 3), (2, 2, 7)];
            let levels = features(kind, 3, 2, &shapes);
            let batch = batch(&shapes, 2, &levels);
            let context = PyramidContext::new(batch.shape().clone(), upsample);
            let expected: Vec<f32> = upsampled(&shapes, 2, &levels, upsample)
                .into_iter()
                .flat_map(|feature| feature.values)
                .map(|value| value as f32)
                .collect();
            assert_eq!(
                concatenate(&batch, &context, Cancel::NEVER).unwrap(),
                expected
            );
        }
    }
}

fn large() -> (PyramidContext, Selection) {
    let case = Case::new(&[(32, 32, 64)], Kind::Uniform, 8, 1);
    let gallery = case.gallery(&case.normal());
    (
        gallery.pyramid_context().unwrap(),
        gallery.select(None).unwrap(),
    )
}

#[test]
fn progress_is_told_and_ends_with_all() {
    let (context, all) = large();
    let told = RefCell::new(Vec::new());
    let progress = |picked: usize| told.borrow_mut().push(picked);
    let options = PickOptions {
        progress: Some(&progress),
        ..PickOptions::new(300)
    };
    pick(&context, &all, &options).unwrap();
    let told = told.into_inner();
    assert!(told.is_sorted() && told.len() > 3, "{told:?}");
    assert_eq!(told.last(), Some(&300));
}

/// At every moment: after any number of questions the work ends, and asks little more.
#[test]
fn it_can_be_cancelled() {
    let (context, all) = large();
    let count = |limit: usize, threads: usize| {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= limit;
        let options = PickOptions {
            threads: NonZero::new(threads),
            cancel: Cancel::when(&stop),
            ..PickOptions::new(1000)
        };
        let result = pick(&context, &all, &options);
        (result, asked.load(Ordering::Relaxed))
    };
    for threads in [1, 2] {
        let (whole, asked) = count(usize::MAX, threads);
        whole.unwrap();
        assert!(asked > 1000, "{asked}");
        for limit in [0, 1, 5, 50, asked / 2] {
            let (result, asked) = count(limit, threads);
            assert!(matches!(result, Err(Error::Interrupted)), "{limit}");
            assert!(asked <= limit + 2 + threads, "{asked} after {limit}");
        }
    }
}

#[test]
fn what_cannot_be_picked_is_said() {
    let (context, all) = large();
    let fail = |options: &PickOptions<'_>| pick(&context, &all, options).unwrap_err().to_string();
    assert_eq!(
        fail(&PickOptions::new(0)),
        "size: expected between 1 and the number of rows, 8192, got 0"
    );
    assert!(fail(&PickOptions::new(8193)).ends_with("8192, got 8193"));
    for first in [(8, 0), (0, 1024)] {
        let message = fail(&PickOptions {
            first,
            ..PickOptions::new(1)
        });
        assert!(message.starts_with("first: there is no cell"), "{message}");
    }
    for len in [0, 63, 65] {
        let message = fail(&PickOptions {
            projection: Some(&vec![1.0; len]),
            ..PickOptions::new(1)
        });
        assert!(message.starts_with("projection: "), "{message}");
    }
    let message = fail(&PickOptions {
        projection: Some(&[f32::INFINITY; 64]),
        ..PickOptions::new(1)
    });
    assert!(message.contains("not finite"), "{message}");
}

/// Rows that may not be picked are as if they were not there.
#[test]
fn rows_that_are_not_kept() {
    let shapes = vec![(6, 6, 7), (3, 3, 4)];
    let levels = features(Kind::Quantised, 5, 4, &shapes);
    let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
    gallery.add(&batch(&shapes, 4, &levels), &ids(4)).unwrap();
    let (context, all) = (
        gallery.pyramid_context().unwrap(),
        gallery.select(None).unwrap(),
    );
    let rows: Vec<Vec<f32>> = upsampled(&shapes, 4, &levels, Upsample::Bilinear)
        .iter()
        .map(|feature| feature.values.iter().map(|&v| v as f32).collect())
        .collect();
    let kept: Vec<bool> = (0..rows.len()).map(|row| row % 3 == 1).collect();
    let places: Vec<usize> = (0..rows.len()).filter(|&row| kept[row]).collect();
    let some: Vec<Vec<f32>> = places.iter().map(|&row| rows[row].clone()).collect();
    for count in [1, 5, places.len()] {
        let (expected, radius) = greedy(&some, count, 2);
        let first = places[2];
        let options = PickOptions {
            first: ((first / 36) as u32, (first % 36) as u32),
            kept: Some(&kept),
            ..PickOptions::new(count)
        };
        let picks = pick(&context, &all, &options).unwrap();
        let expected: Vec<usize> = expected.into_iter().map(|at| places[at]).collect();
        assert_eq!(numbers_of(&picks, 36), expected);
        assert_eq!(picks.sq_radius, radius);
    }
    for (kept, first, count, what) in [
        (&kept[1..], (0, 1), 1, "kept: expected one value"),
        (&kept[..], (0, 0), 1, "first: there is no cell 0"),
        (
            &kept[..],
            (0, 1),
            places.len() + 1,
            "size: expected between",
        ),
    ] {
        let options = PickOptions {
            first,
            kept: Some(kept),
            ..PickOptions::new(count)
        };
        let error = pick(&context, &all, &options).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
