//! Position windows: the contract of exactness, with every matcher, instruction set and number of
//! threads, and with the oracle's own definition of what lies within.

mod common;

use common::{Case, KINDS, Kind, MODES, batch, features, ids, search, search_within, stage};
use knnspect_core::pyramid::{PyramidShape, Upsample, Window};
use knnspect_core::search::{self, Matcher, Options};
use knnspect_core::{DType, Gallery, InstructionSet};
use proptest::prelude::*;

type Shapes = Vec<(usize, usize, usize)>;

fn shapes() -> impl Strategy<Value = Shapes> {
    let channels = || 1..=19_usize;
    let ratio = || prop::sample::select(vec![1_usize, 2, 3, 4]);
    let side = |most| 1..=most;
    prop_oneof![
        (side(13_usize), side(13_usize), channels()).prop_map(|shape| vec![shape]),
        (
            side(5_usize),
            side(5_usize),
            ratio(),
            ratio(),
            channels(),
            channels()
        )
            .prop_map(|(h, w, down, across, c, d)| vec![(h * down, w * across, c), (h, w, d)]),
        (
            side(3_usize),
            side(3_usize),
            ratio(),
            ratio(),
            channels(),
            channels()
        )
            .prop_map(|(h, w, down, across, c, d)| {
                let (tall, wide) = (h * down, w * across);
                vec![(2 * tall, 2 * wide, c), (tall, wide, 3), (h, w, d)]
            }),
        // As many columns as fill the lanes of vectors, and some of the next.
        (
            side(3_usize),
            4..=17_usize,
            ratio(),
            ratio(),
            channels(),
            channels()
        )
            .prop_map(|(h, w, down, across, c, d)| {
                let (tall, wide) = (h * down, w * across);
                vec![(tall, wide, c), (tall, wide, 2), (h, wide, 3), (h, w, d)]
            }),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let radius = || prop::sample::select(vec![None, Some(0), Some(1), Some(2), Some(4), Some(7)]);
    (
        shapes(),
        prop::sample::select(MODES.to_vec()),
        prop::sample::select(KINDS.to_vec()),
        (1..=4_usize, 1..=2_usize),
        prop::sample::select(vec![DType::F32, DType::F16, DType::I8]),
        prop::sample::select(vec![1_usize, 1, 2, 5, 70, 1000]),
        prop::array::uniform4(radius()),
        any::<u64>(),
    )
        .prop_map(
            |(shapes, upsample, kind, (n_images, n_queries), dtype, k, radii, seed)| {
                let mut case = Case {
                    n_images,
                    n_queries,
                    seed,
                    dtype: if dtype == DType::F16 && !kind.fits_half() {
                        DType::F32
                    } else {
                        dtype
                    },
                    radii: radii[..shapes.len()].to_vec(),
                    ..Case::new(&shapes, upsample, kind)
                };
                case.k = k.min(n_images * case.fewest());
                case
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn finds_what_the_oracle_finds_within_a_window(case in cases()) {
        case.check();
    }
}

#[test]
fn a_large_grid_is_searched_within_a_window() {
    let shapes = [(32, 48, 8), (16, 24, 12), (8, 12, 20)];
    for upsample in MODES {
        for kind in [Kind::Structured, Kind::Uniform] {
            for radii in [
                vec![Some(0), None, None],
                vec![Some(4), None, None],
                vec![Some(5), Some(2), None],
                vec![None, None, Some(1)],
            ] {
                let mut case = Case::new(&shapes, upsample, kind);
                (case.n_images, case.k, case.radii) = (5, 3, radii);
                case.check();
            }
        }
    }
}

fn gallery_of(shapes: &Shapes, upsample: Upsample, kind: Kind, n_images: usize) -> Gallery {
    let normal = features(kind, 1, n_images, shapes);
    let mut gallery = Gallery::new(upsample, DType::F32);
    let images = batch(shapes, n_images, &normal);
    gallery.add(&images, &ids(n_images)).unwrap();
    gallery
}

#[test]
fn only_what_is_within_is_counted_and_bounds_leave_most_of_it_out() {
    let shapes = vec![(32, 32, 48), (16, 16, 24), (8, 8, 12)];
    for upsample in MODES {
        let gallery = gallery_of(&shapes, upsample, Kind::Structured, 16);
        let selections = [gallery.select(None).unwrap()];
        let query = features(Kind::Structured, 2, 1, &shapes);
        let query = batch(&shapes, 1, &query);
        let radii = [Some(4), None, None];
        let how = (1, InstructionSet::best(), 2, Matcher::Auto);
        let all = search(&gallery, &query, &selections, how);
        let near = search_within(&gallery, &query, &selections, &radii, how);
        // 9 rows for most, and 5 to 8 for the four at either end.
        let along = 32 * 9 - 2 * (1 + 2 + 3 + 4);
        assert_eq!(near.stats.pairs, 16 * along * along);
        assert_eq!(stage(&near, "exhaustive"), None, "{:?}", near.stats);
        if upsample == Upsample::Block {
            for level in ["level 2", "level 1", "level 0"] {
                let (near, all) = (stage(&near, level), stage(&all, level));
                assert!(near.unwrap() < all.unwrap(), "{level}: {near:?}, {all:?}");
            }
            continue;
        }
        // All coarse levels are summed up at once, within the window alone.
        assert_eq!(stage(&near, "level 2"), None, "{:?}", near.stats);
        assert_eq!(stage(&near, "level 1"), Some(near.stats.pairs));
        let (left, all) = (stage(&near, "level 0").unwrap(), stage(&all, "level 0"));
        assert!(left < all.unwrap(), "{left}, {all:?}");
        assert!(left * 10 < near.stats.pairs, "{:?}", near.stats);
    }
}

#[test]
fn images_that_are_added_later_are_centred_as_those_before() {
    let shapes = vec![(8, 16, 5), (4, 8, 7)];
    let normal = features(Kind::Structured, 1, 4, &shapes);
    let query = features(Kind::Structured, 2, 1, &shapes);
    let query = batch(&shapes, 1, &query);
    let radii = [Some(2), None];
    let how = |matcher| (2, InstructionSet::best(), 2, matcher);
    for dtype in [DType::F32, DType::F16] {
        let mut gallery = Gallery::new(Upsample::Bilinear, dtype);
        let images = batch(&shapes, 4, &normal);
        for start in 0..3 {
            // Far from those before: what was kept of them stays right.
            let offset = [0.0, 30.0, -2.0][start];
            let moved: Vec<Vec<f32>> = normal
                .iter()
                .map(|level| level.iter().map(|value| value + offset).collect())
                .collect();
            let moved = batch(&shapes, 4, &moved);
            let names: Vec<String> = (0..4).map(|at| format!("{start}-{at}")).collect();
            gallery
                .add(if start == 0 { &images } else { &moved }, &names)
                .unwrap();
            let selections = [gallery.select(None).unwrap()];
            let of = |matcher| {
                let found = search_within(&gallery, &query, &selections, &radii, how(matcher));
                (found.sq_distances, found.ranks, found.cells)
            };
            assert_eq!(of(Matcher::Auto), of(Matcher::Exhaustive));
        }
    }
}

#[test]
fn what_cannot_be_searched_within_a_window_is_refused() {
    let shapes = vec![(4, 4, 3)];
    let gallery = gallery_of(&shapes, Upsample::Bilinear, Kind::Uniform, 2);
    let selections = [gallery.select(None).unwrap()];
    let context = gallery.pyramid_context().unwrap();
    let refused = |shapes: &Shapes, k, window: &Window| {
        let query = features(Kind::Uniform, 2, 1, shapes);
        let options = Options {
            window: Some(window),
            ..Options::new(k)
        };
        let query = batch(shapes, 1, &query);
        let found = search::search(&query, &context, &selections, &options);
        found.unwrap_err().to_string()
    };
    let window = |shapes: &Shapes| {
        let shape = PyramidShape::new(shapes).unwrap();
        Window::new(&shape, &[Some(1)]).unwrap().unwrap()
    };
    let message = refused(&shapes, 9, &window(&shapes));
    let expected = "gallery cells within the window, 8 (2 images of 4, at a corner), got 9";
    assert!(message.contains(expected), "{message}");
    let message = refused(&vec![(4, 8, 3)], 1, &window(&shapes));
    assert!(
        message.contains("the query has 4 x 8 cells, the gallery 4 x 4"),
        "{message}"
    );
    let message = refused(&shapes, 1, &window(&vec![(8, 4, 3)]));
    assert!(message.contains("another shape"), "{message}");
    let shape = PyramidShape::new(&shapes).unwrap();
    let message = Window::new(&shape, &[Some(1), None])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("one for each of 1 levels, got 2"),
        "{message}"
    );
}
