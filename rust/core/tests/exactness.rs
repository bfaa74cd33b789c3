//! The contract of exactness against a naive float64 oracle, on every instruction set of this
//! machine and with several numbers of threads, which must all give the same to the bit.

#![allow(clippy::too_many_lines)] // cases and checks read from top to bottom

mod common;

use common::{
    Case, KINDS, Kind, MATCHERS, MODES, Numbers, batch, features, ids, kept, same_bits, search,
    search_every_way, stage,
};
use half::f16;
use knnspect_core::pyramid::Upsample;
use knnspect_core::search::{self, Matcher, Neighbors, Options};
use knnspect_core::storage::Links;
use knnspect_core::storage::Store;
use knnspect_core::{Cancel, DType, Error, Gallery, InstructionSet};
use proptest::prelude::*;
use std::sync::Arc;

fn cases() -> impl Strategy<Value = Case> {
    let channels = || prop_oneof![1 => Just(1_usize), 4 => 1..=67_usize];
    let ratio = || prop::sample::select(vec![1_usize, 2, 2, 4]);
    let shapes = prop_oneof![
        (1..=9_usize, 1..=9_usize, channels()).prop_map(|shape| vec![shape]),
        (
            (1..=3_usize, 1..=3_usize),
            (ratio(), ratio()),
            channels(),
            channels()
        )
            .prop_map(|((h, w), (down, across), fine, coarse)| {
                vec![(h * down, w * across, fine), (h, w, coarse)]
            }),
        (
            (1..=2_usize, 1..=2_usize),
            (1..=3_usize, 1..=3_usize),
            channels(),
            channels()
        )
            .prop_map(|((h, w), (down, across), fine, coarse)| {
                vec![
                    (2 * h * down, 2 * w * across, fine),
                    (h * down, w * across, 2),
                    (h, w, coarse),
                ]
            }),
    ];
    (
        shapes,
        prop::sample::select(MODES.to_vec()),
        prop::sample::select(KINDS.to_vec()),
        (1..=4_usize, 1..=2_usize),
        prop::sample::select(vec![DType::F32, DType::F16, DType::I8]),
        prop::sample::select(vec![1_usize, 2, 5, 1000]),
        any::<u64>(),
    )
        .prop_map(
            |(shapes, upsample, kind, (n_images, n_queries), dtype, k, seed)| Case {
                kind,
                magnitude: 1.0,
                selections: Vec::new(),
                radii: Vec::new(),
                dtype: if dtype == DType::F16 && !kind.fits_half() {
                    DType::F32
                } else {
                    dtype
                },
                k: k.min(n_images * shapes[0].0 * shapes[0].1),
                shapes,
                upsample,
                n_images,
                n_queries,
                seed,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_the_oracle_finds(case in cases()) {
        case.check();
    }
}

#[test]
fn every_remainder_of_a_register_block() {
    for width in 1..=19 {
        for upsample in MODES {
            Case::new(&[(2, width, 3)], upsample, Kind::Uniform).check();
            Case::new(&[(2, width, 3), (1, width, 2)], upsample, Kind::Uniform).check();
            Case::new(&[(2, 2 * width, 3), (1, width, 2)], upsample, Kind::Uniform).check();
        }
    }
}

#[test]
fn every_remainder_of_a_tile() {
    for cells in [
        1, 11, 12, 13, 23, 24, 25, 35, 36, 37, 47, 48, 49, 71, 72, 73, 95, 96, 97,
    ] {
        for shapes in [[(cells, 1, 2), (1, 1, 3)], [(1, cells, 2), (1, cells, 3)]] {
            Case::new(&shapes, Upsample::Bilinear, Kind::Uniform).check();
        }
    }
}

#[test]
fn every_number_of_channels() {
    for channels in 1..=67 {
        for upsample in MODES {
            Case::new(
                &[(4, 4, channels), (2, 2, 68 - channels)],
                upsample,
                Kind::Uniform,
            )
            .check();
        }
    }
}

#[test]
fn every_number_of_channels_of_a_flat_gallery() {
    for channels in (1..=67).chain([175, 176, 177]) {
        for kind in [Kind::Uniform, Kind::Offset, Kind::Scales] {
            Case::new(&[(4, 7, channels)], Upsample::Bilinear, kind).check();
        }
        let (normal, query) = (
            correlated(channels, 2, 28, 1),
            correlated(channels, 1, 28, 2),
        );
        let mut case = Case::new(&[(4, 7, channels)], Upsample::Bilinear, Kind::Uniform);
        case.check_features(std::slice::from_ref(&query), std::slice::from_ref(&normal));
        case.dtype = DType::F16;
        let normal: Vec<f32> = normal.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
        case.check_features(&[query], &[normal]);
    }
}

/// Features that a few directions nearly tell, far from 0, and alike in neighbouring cells.
fn correlated(channels: usize, n_images: usize, cells: usize, seed: u64) -> Vec<f32> {
    let mut numbers = Numbers(7);
    let directions: Vec<f64> = (0..6 * channels).map(|_| numbers.uniform()).collect();
    let mut numbers = Numbers(seed);
    let mut walk = [0.0_f64; 6];
    let mut values = Vec::new();
    for _ in 0..n_images * cells {
        for step in &mut walk {
            *step = 0.9 * *step + numbers.uniform();
        }
        for channel in 0..channels {
            let along: f64 = (0..6)
                .map(|d| walk[d] * directions[d * channels + channel])
                .sum();
            values.push((10.0 + along + 0.1 * numbers.uniform()) as f32);
        }
    }
    values
}

/// Large enough to be pruned unasked, and to have more than one chunk of rows.
#[test]
fn a_flat_gallery_of_many_rows() {
    for (channels, half, k) in [(64, false, 1), (176, true, 5), (49, false, 64)] {
        let shapes = vec![(37, 31, channels)];
        let mut normal = correlated(channels, 4, 37 * 31, 1);
        let mut query = correlated(channels, 1, 37 * 31, 2);
        if half {
            for value in &mut normal {
                *value = f16::from_f32(*value).to_f32();
            }
        }
        // Some are in the gallery, some more than once.
        let copied = 500 * channels;
        normal.copy_within(..copied, 3 * copied);
        query[..copied].copy_from_slice(&normal[..copied]);
        let mut case = Case::new(&shapes, Upsample::Bilinear, Kind::Uniform);
        (case.n_images, case.k) = (4, k);
        case.dtype = if half { DType::F16 } else { DType::F32 };
        case.check_features(&[query], &[normal]);
    }
}

/// Features of one level are found whatever the grids that they and the query's lie on.
#[test]
fn one_level_is_searched_on_any_grid() {
    let mut numbers = Numbers(5);
    let grids = [(1, 1), (1, 5), (5, 1), (7, 6), (1, 97), (3, 50)];
    for (at, kind) in (0..).zip(KINDS.into_iter().cycle().take(48)) {
        let channels = numbers.within(1, 70);
        let [gallery_grid, query_grid] = [0, 0].map(|_| numbers.choose(&grids));
        let dtype = [DType::F32, DType::F32, DType::I8][at % 3];
        let k = numbers.choose(&[1, 2, 5, 1000]);
        check_grids(
            (channels, kind, dtype),
            gallery_grid,
            query_grid,
            k,
            at as u64,
        );
    }
    // Large enough to be pruned unasked.
    for (gallery_grid, query_grid) in [((1, 3000), (19, 21)), ((60, 50), (1, 400))] {
        let of = (64, Kind::Structured, DType::F32);
        let found = check_grids(of, gallery_grid, query_grid, 2, 3);
        assert!(stage(&found, "filter 1").is_some(), "{:?}", found.stats);
    }
}

/// Searches an image and a half of the gallery's grid in every way and compares with an oracle.
fn check_grids(
    (channels, kind, dtype): (usize, Kind, DType),
    gallery_grid: (usize, usize),
    query_grid: (usize, usize),
    k: usize,
    seed: u64,
) -> Neighbors {
    let shapes = |(height, width): (usize, usize)| vec![(height, width, channels)];
    let (cells, n_queries) = (gallery_grid.0 * gallery_grid.1, query_grid.0 * query_grid.1);
    let normal = features(kind, seed, 2, &shapes(gallery_grid));
    let mut query = features(kind, seed + 1, 2, &shapes(query_grid));
    let n = channels.min(query[0].len());
    query[0][..n].copy_from_slice(&normal[0][..n]);
    let mut gallery = Gallery::new(Upsample::Bilinear, dtype);
    let images = batch(&shapes(gallery_grid), 2, &normal);
    gallery.add(&images, &ids(2)).unwrap();
    let k = k.min(2 * cells);
    let (of_query, all) = (
        batch(&shapes(query_grid), 2, &query),
        [gallery.select(None).unwrap()],
    );
    let mut first: Option<Neighbors> = None;
    for set in InstructionSet::available() {
        for (threads, matcher) in [1, 3].into_iter().flat_map(|n| MATCHERS.map(|m| (n, m))) {
            let found = search(&gallery, &of_query, &all, (k, set, threads, matcher));
            let same = first.as_ref().is_none_or(|first| same_bits(&found, first));
            assert!(same, "{set:?} {threads} {matcher:?}");
            first = Some(found);
        }
    }
    let found = first.unwrap();
    assert_eq!(found.stats.pairs, (4 * cells * n_queries) as u64);

    let kept = kept(&shapes(gallery_grid), dtype, 2, &normal);
    let places: Vec<&[f32]> = kept[0].chunks(channels).collect();
    let sq_l2 = |x: &[f32], y: &[f32]| -> f64 {
        let pairs = x.iter().zip(y);
        pairs
            .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2))
            .sum()
    };
    for (at, feature) in query[0].chunks(channels).enumerate() {
        let mut distances: Vec<f64> = places.iter().map(|place| sq_l2(feature, place)).collect();
        for rank in at * k..(at + 1) * k {
            let place = found.ranks[rank] as usize * cells + found.cells[rank] as usize;
            let sq = distances[place];
            let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(sq <= nearest * (1.0 + 1e-12), "{sq} instead of {nearest}");
            let earlier = distances[..place].iter().position(|&d| d == sq);
            assert!(
                earlier.is_none_or(|e| places[e] != places[place]),
                "a tie goes to the first place"
            );
            let given = f64::from(found.sq_distances[rank]);
            assert!(
                (given - sq).abs() <= 1e-7 * sq + 1e-40,
                "{given} instead of {sq}"
            );
            distances[place] = f64::INFINITY; // each is found once
        }
    }
    found
}

#[test]
fn other_grids_need_one_level_and_the_same_channels() {
    let normal: [&[(usize, usize, usize)]; 2] = [&[(4, 4, 3)], &[(4, 4, 3), (2, 2, 1)]];
    let queries: [&[(usize, usize, usize)]; 3] = [
        &[(4, 4, 4)],
        &[(8, 4, 3), (2, 2, 1)],
        &[(4, 4, 3), (4, 4, 1)],
    ];
    for shapes in normal {
        let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
        let levels = features(Kind::Uniform, 1, 1, &shapes.to_vec());
        let images = batch(&shapes.to_vec(), 1, &levels);
        gallery.add(&images, &ids(1)).unwrap();
        let context = gallery.pyramid_context().unwrap();
        let all = [gallery.select(None).unwrap()];
        for query in queries {
            let levels = features(Kind::Uniform, 1, 1, &query.to_vec());
            let query = batch(&query.to_vec(), 1, &levels);
            let error = search::search(&query, &context, &all, &Options::new(1)).unwrap_err();
            assert!(matches!(error, Error::Shape(_)), "{error:?}");
        }
    }
}

/// What searches keep of a flat gallery must not show: whatever came and went, in whatever selection,
/// every search finds what an exhaustive one of the same images finds.
#[test]
fn a_flat_gallery_may_change_between_searches() {
    let shapes = vec![(9, 8, 50)];
    let values = [correlated(50, 6, 72, 1)];
    let far: Vec<f32> = correlated(50, 1, 72, 3).iter().map(|v| 1e12 * v).collect();
    let too_far: Vec<f32> = far.iter().map(|v| 1e25 * v).collect();
    let query = [correlated(50, 2, 72, 2)];
    let ids = |names: &[&str]| -> Vec<String> { names.iter().map(|&id| id.to_owned()).collect() };
    let check = |gallery: &Gallery, names: Option<&[&str]>| {
        let names = names.map(ids);
        let selections = [gallery.select(names.as_deref()).unwrap()];
        let context = gallery.pyramid_context().unwrap();
        let found = MATCHERS.map(|matcher| {
            let options = Options {
                matcher,
                ..Options::new(4)
            };
            search::search(&batch(&shapes, 2, &query), &context, &selections, &options).unwrap()
        });
        let same = found.iter().all(|found_so| same_bits(found_so, &found[0]));
        assert!(same, "{names:?}");
    };
    let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
    let images = ids(&["a", "c", "e", "g", "i", "k"]);
    gallery.add(&batch(&shapes, 6, &values), &images).unwrap();
    check(&gallery, Some(&["c"])); // the directions are those of one image
    check(&gallery, None);
    let mut copy = gallery.clone();
    copy.remove(&ids(&["a", "i"])).unwrap();
    check(&copy, None);
    gallery
        .add(&batch(&shapes, 1, &[far]), &ids(&["b"]))
        .unwrap();
    check(&gallery, None);
    check(&gallery, Some(&["b", "k"]));
    gallery
        .add(&batch(&shapes, 1, &[too_far]), &ids(&["d"]))
        .unwrap();
    check(&gallery, None); // exhaustively
    check(&gallery, Some(&["e", "a"]));
    check(&copy, Some(&["k", "g"]));
    copy.remove(&ids(&["c", "e", "g", "k"])).unwrap();
    copy.add(&batch(&shapes, 2, &query), &ids(&["x", "y"]))
        .unwrap();
    check(&copy, None);

    // Several query images with selections of their own, and a gallery in a file.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gallery.safetensors");
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
    check(&mapped, Some(&["a", "b", "c"]));
    for gallery in [&gallery, &mapped] {
        let selections = [&["a", "g"][..], &["c", "e", "k"]]
            .map(|names| gallery.select(Some(&ids(names))).unwrap());
        let context = gallery.pyramid_context().unwrap();
        let found = MATCHERS.map(|matcher| {
            let options = Options {
                matcher,
                ..Options::new(3)
            };
            search::search(&batch(&shapes, 2, &query), &context, &selections, &options).unwrap()
        });
        assert!(found.iter().all(|found_so| same_bits(found_so, &found[0])));
    }
}

#[test]
fn ties_go_to_the_first_place() {
    for upsample in MODES {
        for k in [1, 4, 33, 100] {
            let mut case = Case::new(&[(8, 8, 2), (4, 2, 1)], upsample, Kind::Quantised);
            (case.n_images, case.k) = (4, k);
            case.check();
        }
    }
}

#[test]
fn a_place_that_comes_again_is_a_tie() {
    // Coarse columns 0 1 0 1 0 1: the weights of equal places must be equal to the bit.
    for ratio in 2..=9 {
        let shapes = vec![(1, 6 * ratio, 1), (1, 6, 1)];
        let levels = [vec![0.0; 6 * ratio], [0.3, -0.7].repeat(3)];
        let modes = (Upsample::Bilinear, DType::F32);
        let found = search_every_way(&shapes, modes, (1, &levels), (1, &levels), (1, &[]));
        // From the centre of the second coarse cell to that of the last but one.
        for column in 3 * ratio..5 * ratio {
            let first = found.cells[column] as usize;
            assert!(first < 3 * ratio, "ratio {ratio}, column {column}: {first}");
        }
    }
}

#[test]
fn a_constant_region_is_a_tie() {
    for ratio in 2..=9 {
        let shapes = vec![(2 * ratio, 2 * ratio, 1), (2, 2, 3)];
        let levels = [vec![0.1; 4 * ratio * ratio], [0.1, 0.7, 1e-3].repeat(4)];
        let modes = (Upsample::Bilinear, DType::F32);
        let found = search_every_way(&shapes, modes, (1, &levels), (1, &levels), (2, &[]));
        let expected = [0, 1].repeat(4 * ratio * ratio);
        assert_eq!(found.cells, expected, "ratio {ratio}");
        assert!(
            found.sq_distances.iter().all(|&d| d == 0.0),
            "ratio {ratio}"
        );
    }
}

/// Two far clusters, so that centring does not help, and differences of the last bits of float32:
/// the kernels' partial distances say nothing at all, and only float64 decides.
#[test]
fn large_norms_and_tiny_differences() {
    for (upsample, channels) in MODES.into_iter().zip([5, 40]) {
        for magnitude in [1e-3, 1.0, 1e3, 1e18] {
            let shapes = vec![(8, 8, channels), (4, 4, 3)];
            let cluster = |seed, n_images| {
                let mut numbers = Numbers(seed);
                let mut levels = features(Kind::Uniform, 1, n_images, &shapes);
                for value in levels.iter_mut().flatten() {
                    let bits = (value.signum() * magnitude).to_bits();
                    *value = f32::from_bits(bits + numbers.below(4) as u32);
                }
                levels
            };
            let mut case = Case::new(&shapes, upsample, Kind::Uniform);
            (case.n_images, case.k) = (3, 5);
            case.check_features(&cluster(2, 1), &cluster(3, 3));
        }
    }
}

/// A gallery so near to the query's mean that float64 sees only ties, where float32 partial
/// distances still differ by about their error bound.
#[test]
fn what_float64_cannot_tell_apart_does_not_depend_on_the_kernels() {
    for seed in 0..4 {
        for channels in [3, 16] {
            let mut numbers = Numbers(seed);
            let shapes = vec![(12, 24, channels)];
            let half: Vec<f32> = (0..144 * channels)
                .map(|_| (numbers.uniform() * 1024.0).round() as f32 / 1024.0)
                .collect();
            let query = [half
                .iter()
                .copied()
                .chain(half.iter().map(|v| -v))
                .collect()];
            let base: Vec<f64> = (0..channels).map(|_| numbers.uniform()).collect();
            let normal = [(0..2 * 288 * channels)
                .map(|at| (1e-20 * base[at % channels] * (1.0 + 2e-3 * numbers.uniform())) as f32)
                .collect()];
            let modes = (Upsample::Block, DType::F32);
            let found = search_every_way(&shapes, modes, (1, &query), (2, &normal), (1, &[]));
            assert!(
                found.cells.iter().all(|&cell| cell == 0),
                "ties go to the first place"
            );
        }
    }
}

#[test]
fn no_scale_is_too_small_or_too_large() {
    let shapes = vec![(4, 6, 3), (2, 2, 5)];
    for query_scale in [1e-40, 1e-30, 1.0, 1e30, 3e38] {
        for (scale, dtype) in [1e-40, 1e-30, 1e-19, 1.0, 1e19, 1e30, 3e38]
            .into_iter()
            .flat_map(|scale| [(scale, DType::F32), (scale, DType::I8)])
        {
            let scaled = |seed, n, scale: f64| {
                let mut levels = features(Kind::Uniform, seed, n, &shapes);
                for value in levels.iter_mut().flatten() {
                    *value = (f64::from(*value) * scale) as f32;
                }
                levels
            };
            let mut case = Case::new(&shapes, Upsample::Bilinear, Kind::Uniform);
            case.dtype = dtype;
            case.check_features(&scaled(1, 1, query_scale), &scaled(2, 2, scale));
        }
    }
}

/// Two levels and three, interpolated and not: enough images that later ones meet low limits.
fn pyramids() -> impl Iterator<Item = Case> {
    let shapes: [&[(usize, usize, usize)]; 4] = [
        &[(8, 8, 5), (2, 2, 19)],
        &[(8, 12, 7), (4, 6, 3), (2, 2, 9)],
        &[(7, 9, 2), (1, 3, 33)],
        &[(8, 8, 1), (8, 4, 1), (4, 2, 5), (1, 1, 2)],
    ];
    shapes.into_iter().flat_map(|shapes| {
        KINDS.into_iter().flat_map(move |kind| {
            MODES.into_iter().map(move |upsample| {
                let mut case = Case::new(shapes, upsample, kind);
                case.n_images = 5;
                case
            })
        })
    })
}

#[test]
fn every_kind_of_feature_in_pyramids() {
    for (seed, mut case) in (1..).zip(pyramids()) {
        // In every third case the query is in the gallery.
        (case.seed, case.k) = (seed, [1, 3, 17, 2][seed as usize % 4]);
        case.dtype = match seed / 2 % 3 {
            1 => DType::I8,
            2 if case.kind.fits_half() => DType::F16,
            _ => DType::F32,
        };
        case.check();
    }
}

#[test]
fn any_number_of_neighbours() {
    for case in pyramids().filter(|case| matches!(case.kind, Kind::Structured | Kind::Repeated)) {
        let rows = case.n_images * case.cells();
        // 64 is the most that pyramids are pruned for.
        for k in [63, 64, 65, rows - 1, rows] {
            Case { k, ..case.clone() }.check();
        }
    }
    for kind in [Kind::Uniform, Kind::Structured, Kind::Repeated] {
        let mut case = Case::new(&[(6, 7, 50)], Upsample::Bilinear, kind);
        case.n_images = 5;
        for k in [64, 65, 209, 210] {
            Case { k, ..case.clone() }.check();
        }
    }
}

/// Limits come from pairs that are equal to the query on all levels but one: the bounds of the levels
/// before that one are then as tight as rounding lets them be.
#[test]
fn pairs_that_differ_on_one_level_only() {
    let shapes = vec![(8, 8, 3), (4, 4, 2), (2, 2, 4)];
    for upsample in MODES {
        for (level, seed) in (0..3).flat_map(|level| (0..8).map(move |seed| (level, seed))) {
            for kind in [Kind::Uniform, Kind::LastBits, Kind::Offset] {
                let mut case = Case::new(&shapes, upsample, kind);
                (case.n_images, case.k) = (6, 4);
                let query = features(kind, seed, 1, &shapes);
                let other = features(kind, seed + 100, 6, &shapes);
                let mut normal: Vec<Vec<f32>> = query.iter().map(|v| v.repeat(6)).collect();
                normal[level].clone_from(&other[level]);
                case.check_features(&query, &normal);
            }
        }
    }
}

/// NaN and infinity are errors that say where, whatever would have been looked at.
#[test]
fn what_is_not_finite_is_refused() {
    for shapes in [vec![(4, 4, 3)], vec![(4, 4, 3), (2, 2, 5)]] {
        for (level, value) in (0..shapes.len())
            .flat_map(|level| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(|v| (level, v)))
        {
            let normal = features(Kind::Uniform, 1, 2, &shapes);
            let mut query = features(Kind::Uniform, 2, 2, &shapes);
            let at = query[level].len() - 1; // in the second image
            query[level][at] = value;
            let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
            let images = batch(&shapes, 2, &normal);
            gallery.add(&images, &ids(2)).unwrap();
            let selections = [gallery.select(None).unwrap()];
            let context = gallery.pyramid_context().unwrap();
            for matcher in MATCHERS {
                let options = Options {
                    matcher,
                    ..Options::new(1)
                };
                let query = batch(&shapes, 2, &query);
                let error = search::search(&query, &context, &selections, &options).unwrap_err();
                assert!(matches!(error, Error::Image { .. }), "{error:?}");
                let message = error.to_string();
                assert!(message.contains("query image 1"), "{message}");
                assert!(message.contains(&format!("level {level}")), "{message}");
            }
            let error = gallery
                .add(&batch(&shapes, 2, &query), &["x".into(), "y".into()])
                .unwrap_err();
            assert!(error.to_string().contains('y'), "{error}");
            assert_eq!(gallery.len(), 2);
        }
    }
}

/// `Auto` does what pays: where bounds exclude nothing, all is compared, after a few images at most.
#[test]
fn auto_prunes_what_can_be_pruned_and_nothing_else() {
    let shapes = vec![(32, 32, 48), (16, 16, 24), (8, 8, 12)];
    let (n_images, n_queries, k) = (16, 1, 1);
    let work = |kind, upsample, matcher| -> Neighbors {
        let normal = features(kind, 1, n_images, &shapes);
        let query = features(kind, 2, n_queries, &shapes);
        let mut gallery = Gallery::new(upsample, DType::F32);
        let images = batch(&shapes, n_images, &normal);
        gallery.add(&images, &ids(n_images)).unwrap();
        let selections = [gallery.select(None).unwrap()];
        let query = batch(&shapes, n_queries, &query);
        let way = (k, InstructionSet::best(), 2, matcher);
        search(&gallery, &query, &selections, way)
    };
    for upsample in MODES {
        let random = work(Kind::Uniform, upsample, Matcher::Auto);
        let exhaustive = stage(&random, "exhaustive").unwrap_or(0);
        let cascade = stage(&random, "level 0").unwrap_or(0);
        // One image of 16 shows that it does not pay.
        assert!(
            exhaustive * 8 >= random.stats.pairs * 7,
            "{:?}",
            random.stats
        );
        assert!(cascade * 8 <= random.stats.pairs, "{:?}", random.stats);

        let smooth = work(Kind::Structured, upsample, Matcher::Auto);
        assert_eq!(stage(&smooth, "exhaustive"), None, "{:?}", smooth.stats);
        let in_full = stage(&smooth, "level 0").unwrap();
        assert!(in_full * 10 < smooth.stats.pairs, "{:?}", smooth.stats);
        assert!(stage(&smooth, "level 2").is_some(), "{:?}", smooth.stats);

        // Whoever asks for pruning gets it.
        let pruned = work(Kind::Uniform, upsample, Matcher::Pruned);
        assert_eq!(stage(&pruned, "exhaustive"), None, "{:?}", pruned.stats);
        assert!(same_bits(&pruned, &random));
    }
}
