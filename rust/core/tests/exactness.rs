//! The contract of exactness against a naive float64 oracle, on every instruction set of this
//! machine and with several numbers of threads, which must all give the same to the bit.

use half::f16;
use knnspect_core::matching::{self, Matcher, Neighbors, Options};
use knnspect_core::pyramid::{LevelData, PyramidBatch, PyramidShape, Upsample};
use knnspect_core::store::Store;
use knnspect_core::{Cancel, DType, Gallery, InstructionSet};
use proptest::prelude::*;
use std::num::NonZero;
use std::sync::Arc;

type Shapes = Vec<(usize, usize, usize)>;

/// Numbers without a pattern, from a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Uniform in `0..n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What features look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uniform,
    /// Small integers: ties everywhere, and no rounding in float64.
    Quantised,
    /// All images are the same.
    Copies,
    /// Mostly zeros.
    Sparse,
    /// A large common offset.
    Offset,
    /// Each image has a scale of its own.
    Scales,
}

const KINDS: [Kind; 6] = [
    Kind::Uniform,
    Kind::Quantised,
    Kind::Copies,
    Kind::Sparse,
    Kind::Offset,
    Kind::Scales,
];

/// The values of `n_images` images, per level.
fn features(kind: Kind, seed: u64, n_images: usize, shapes: &Shapes) -> Vec<Vec<f32>> {
    let mut numbers = Numbers(seed);
    let scales: Vec<f64> = (0..n_images)
        .map(|_| 10.0_f64.powi(numbers.below(31) as i32 - 15))
        .collect();
    shapes
        .iter()
        .map(|&(height, width, channels)| {
            let len = height * width * channels;
            let mut values = Vec::with_capacity(n_images * len);
            for (image, scale) in scales.iter().enumerate() {
                for at in 0..len {
                    let uniform = numbers.uniform();
                    values.push(match kind {
                        Kind::Quantised => (1.5 * uniform).round() as f32,
                        Kind::Copies if image > 0 => values[at],
                        Kind::Sparse if numbers.below(8) > 0 => 0.0,
                        Kind::Uniform | Kind::Copies | Kind::Sparse => uniform as f32,
                        Kind::Offset => (1e6 + uniform) as f32,
                        Kind::Scales => (scale * uniform) as f32,
                    });
                }
            }
            values
        })
        .collect()
}

fn batch<'a>(shapes: &Shapes, n_images: usize, levels: &'a [Vec<f32>]) -> PyramidBatch<'a> {
    let shape = PyramidShape::new(shapes).unwrap();
    let levels = levels.iter().map(|level| LevelData::F32(level)).collect();
    PyramidBatch::new(shape, n_images, levels).unwrap()
}

/// The two coarse positions around each fine one, and the weight of the second.
fn taps(upsample: Upsample, fine: usize, coarse: usize) -> Vec<(usize, usize, f64)> {
    let ratio = fine / coarse;
    (0..fine)
        .map(|position| {
            if upsample == Upsample::Block {
                return (position / ratio, position / ratio, 0.0);
            }
            // Halves of fine cells after the first coarse centre.
            let halves = (2 * position + 1)
                .saturating_sub(ratio)
                .min(2 * ratio * (coarse - 1));
            let first = halves / (2 * ratio);
            let weight = (halves % (2 * ratio)) as f64 / (2 * ratio) as f64;
            (first, if weight == 0.0 { first } else { first + 1 }, weight)
        })
        .collect()
}

/// Upsampled, concatenated features of all cells of all images.
fn upsampled(
    shapes: &Shapes,
    n_images: usize,
    levels: &[Vec<f32>],
    upsample: Upsample,
) -> Vec<Vec<f64>> {
    let (height, width, _) = shapes[0];
    let mut cells = vec![Vec::new(); n_images * height * width];
    for (&(h, w, channels), values) in shapes.iter().zip(levels) {
        let (rows, columns) = (taps(upsample, height, h), taps(upsample, width, w));
        for (cell, feature) in cells.iter_mut().enumerate() {
            let (image, row, column) =
                (cell / (height * width), cell / width % height, cell % width);
            let value = |r: usize, c: usize, channel: usize| {
                f64::from(values[((image * h + r) * w + c) * channels + channel])
            };
            let ((top, bottom, down), (left, right, across)) = (rows[row], columns[column]);
            for channel in 0..channels {
                let blend = |r| {
                    let (a, b) = (value(r, left, channel), value(r, right, channel));
                    a + across * (b - a)
                };
                let (a, b) = (blend(top), blend(bottom));
                feature.push(a + down * (b - a));
            }
        }
    }
    cells
}

fn sq_l2(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A gallery, a query, and how to compare them.
#[derive(Clone, Debug)]
struct Case {
    shapes: Shapes,
    upsample: Upsample,
    dtype: DType,
    kind: Kind,
    n_images: usize,
    n_queries: usize,
    k: usize,
    seed: u64,
}

impl Case {
    fn new(shapes: &[(usize, usize, usize)], upsample: Upsample, kind: Kind) -> Self {
        Self {
            shapes: shapes.to_vec(),
            upsample,
            dtype: DType::F32,
            kind,
            n_images: 2,
            n_queries: 1,
            k: 3.min(2 * shapes[0].0 * shapes[0].1),
            seed: 0,
        }
    }

    fn normal(&self) -> Vec<Vec<f32>> {
        let mut levels = features(self.kind, self.seed, self.n_images, &self.shapes);
        if self.dtype == DType::F16 {
            for value in levels.iter_mut().flatten() {
                *value = f16::from_f32(*value).to_f32();
            }
        }
        levels
    }

    fn query(&self) -> Vec<Vec<f32>> {
        // Every third query is in the gallery.
        let seed = if self.seed.is_multiple_of(3) {
            self.seed
        } else {
            !self.seed
        };
        features(self.kind, seed, self.n_queries, &self.shapes)
    }

    fn check(&self) {
        self.check_features(&self.query(), &self.normal());
    }

    /// Searches in every way and compares with the oracle.
    fn check_features(&self, query: &[Vec<f32>], normal: &[Vec<f32>]) {
        let found = search_every_way(
            &self.shapes,
            (self.upsample, self.dtype),
            (self.n_queries, query),
            (self.n_images, normal),
            self.k,
        );
        let queries = upsampled(&self.shapes, self.n_queries, query, self.upsample);
        let kept = kept(&self.shapes, self.dtype, self.n_images, normal);
        let places = upsampled(&self.shapes, self.n_images, &kept, self.upsample);
        let interpolated = self.upsample == Upsample::Bilinear && self.shapes.len() > 1;
        let sizes: Vec<f64> = places.iter().map(|place| norm(place)).collect();
        let n_cells = self.shapes[0].0 * self.shapes[0].1;
        for (cell, feature) in queries.iter().enumerate() {
            let distances: Vec<f64> = places.iter().map(|place| sq_l2(feature, place)).collect();
            let mut order: Vec<usize> = (0..places.len()).collect();
            order.sort_by(|&a, &b| distances[a].total_cmp(&distances[b])); // stable
            // What float64 may be wrong by: the sum, and the values that were interpolated.
            let allowed = |place: usize| {
                let size = norm(feature) + sizes[place];
                let blur = if interpolated {
                    8.0 * f64::EPSILON * size
                } else {
                    0.0
                };
                1e-12 * distances[place] + 2.0 * distances[place].sqrt() * blur + blur * blur
            };
            for (rank, &want) in order.iter().take(self.k).enumerate() {
                let at = cell * self.k + rank;
                let got = found.ranks[at] as usize * n_cells + found.cells[at] as usize;
                let difference = (distances[got] - distances[want]).abs();
                let exact = self.kind == Kind::Quantised && self.dtype != DType::I8;
                assert!(
                    got == want || (!exact && difference < allowed(got) + allowed(want)),
                    "cell {cell}, neighbour {rank}: {got} at {:e} instead of {want} at {:e}; {self:?}",
                    distances[got],
                    distances[want],
                );
                let (given, expected) = (f64::from(found.sq_distances[at]), distances[got]);
                let error = (given - expected).abs();
                assert!(
                    given == f64::from(expected as f32)
                        || error <= 1e-6 * expected + allowed(got) + f64::from(f32::from_bits(1)),
                    "cell {cell}, neighbour {rank}: {given:e} instead of {expected:e}; {self:?}"
                );
            }
        }
    }
}

/// The values that a gallery keeps of some images, decoded here once more where they are codes.
fn kept(shapes: &Shapes, dtype: DType, n_images: usize, normal: &[Vec<f32>]) -> Vec<Vec<f32>> {
    if dtype != DType::I8 {
        return normal.to_vec(); // these were rounded beforehand
    }
    let ids: Vec<String> = (0..n_images).map(|image| format!("{image:03}")).collect();
    let mut gallery = Gallery::new(Upsample::Block, dtype);
    gallery.add(&batch(shapes, n_images, normal), &ids).unwrap();
    let mut kept = vec![Vec::new(); shapes.len()];
    for id in &ids {
        let image = gallery.image(id).unwrap();
        for (kept, level) in kept.iter_mut().zip(image.levels()) {
            let LevelData::I8(level) = level else {
                panic!("{level:?} in an int8 gallery")
            };
            for (at, &code) in level.codes.iter().enumerate() {
                let channel = at % level.scales.len();
                let product = level.scales[channel] * f32::from(code);
                kept.push(level.offsets[channel] + product);
            }
        }
    }
    kept
}

/// The neighbours, which must be the same to the bit with all instruction sets and threads.
fn search_every_way(
    shapes: &Shapes,
    (upsample, dtype): (Upsample, DType),
    (n_queries, query): (usize, &[Vec<f32>]),
    (n_images, normal): (usize, &[Vec<f32>]),
    k: usize,
) -> Neighbors {
    let ids: Vec<String> = (0..n_images).map(|image| format!("{image:03}")).collect();
    let mut gallery = Gallery::new(upsample, dtype);
    gallery.add(&batch(shapes, n_images, normal), &ids).unwrap();
    let query = batch(shapes, n_queries, query);
    let context = gallery.pyramid_context().unwrap();
    let selections = [gallery.select(None).unwrap()];
    let mut first: Option<Neighbors> = None;
    for set in InstructionSet::available() {
        for threads in 1..=4 {
            for matcher in MATCHERS {
                let options = Options {
                    threads: NonZero::new(threads),
                    instruction_set: Some(set),
                    matcher,
                    ..Options::new(k)
                };
                let found = matching::search(&query, &context, &selections, &options).unwrap();
                let expected = first.get_or_insert_with(|| found.clone());
                assert!(
                    same_bits(&found, expected),
                    "{}, {} with {threads} threads differs",
                    matcher.name(),
                    set.name()
                );
            }
        }
    }
    first.unwrap()
}

const MATCHERS: [Matcher; 2] = [Matcher::Exhaustive, Matcher::Pruned];

fn same_bits(found: &Neighbors, expected: &Neighbors) -> bool {
    let bits = |n: &Neighbors| -> Vec<u32> { n.sq_distances.iter().map(|d| d.to_bits()).collect() };
    bits(found) == bits(expected) && found.ranks == expected.ranks && found.cells == expected.cells
}

const MODES: [Upsample; 2] = [Upsample::Bilinear, Upsample::Block];

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
            |(shapes, upsample, kind, (n_images, n_queries), dtype, k, seed)| {
                let exact_ratios = shapes.iter().all(|&(h, w, _)| {
                    (shapes[0].0 / h).is_power_of_two() && (shapes[0].1 / w).is_power_of_two()
                });
                let rounds = upsample == Upsample::Bilinear && !exact_ratios;
                Case {
                    kind: if rounds && kind == Kind::Quantised {
                        Kind::Uniform
                    } else {
                        kind
                    },
                    dtype: if dtype == DType::F16 && matches!(kind, Kind::Offset | Kind::Scales) {
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
                }
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
            matching::search(&batch(&shapes, 2, &query), &context, &selections, &options).unwrap()
        });
        assert!(same_bits(&found[1], &found[0]), "{names:?}");
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
        .save(&path, "gallery", &metadata, tensors, Cancel::NEVER)
        .unwrap();
    let store = Arc::new(Store::open(&path, true, Cancel::NEVER).unwrap());
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
            matching::search(&batch(&shapes, 2, &query), &context, &selections, &options).unwrap()
        });
        assert!(same_bits(&found[1], &found[0]));
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
        let found = search_every_way(&shapes, modes, (1, &levels), (1, &levels), 1);
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
        let found = search_every_way(&shapes, modes, (1, &levels), (1, &levels), 2);
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
            let found = search_every_way(&shapes, modes, (1, &query), (2, &normal), 1);
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
