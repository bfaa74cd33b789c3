//! What the tests of exactness share: features of all kinds, a naive float64 oracle, and searches in
//! every way there is, which must all give the same to the bit.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::too_many_lines)] // cases and checks read from top to bottom

use half::f16;
use knnspect_core::gallery::Selection;
use knnspect_core::pyramid::{LevelData, PyramidBatch, PyramidShape, Upsample, Window};
use knnspect_core::search::{self, Matcher, Neighbors, Options};
use knnspect_core::{DType, Gallery, InstructionSet};
use std::collections::HashMap;
use std::num::NonZero;

pub type Shapes = Vec<(usize, usize, usize)>;

pub const MODES: [Upsample; 2] = [Upsample::Bilinear, Upsample::Block];

pub const MATCHERS: [Matcher; 3] = [Matcher::Exhaustive, Matcher::Pruned, Matcher::Auto];

/// Numbers without a pattern, from a seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in -1..1.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Uniform in `first..=last`.
    pub fn within(&mut self, first: usize, last: usize) -> usize {
        first + self.below((last - first + 1) as u64) as usize
    }

    /// Whether something of which one in `n` has it has it.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What features look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
    /// Every cell of an image is the same.
    Constant,
    /// Cells are taken from a handful, which all images share.
    Repeated,
    /// Far from their mean, and different in the last bits only: float32 sums say little.
    LastBits,
    /// Smooth waves with some noise, at about the same place in all images: what bounds are made for.
    Structured,
    /// The same, far from 0.
    StructuredOffset,
    /// Smooth waves, without noise on the finer levels: these tell nothing that the bounds do not know.
    StructuredCoarse,
}

pub const KINDS: [Kind; 12] = [
    Kind::Uniform,
    Kind::Quantised,
    Kind::Copies,
    Kind::Sparse,
    Kind::Offset,
    Kind::Scales,
    Kind::Constant,
    Kind::Repeated,
    Kind::LastBits,
    Kind::Structured,
    Kind::StructuredOffset,
    Kind::StructuredCoarse,
];

impl Kind {
    pub fn is_structured(self) -> bool {
        matches!(
            self,
            Self::Structured | Self::StructuredOffset | Self::StructuredCoarse
        )
    }

    /// Whether float16 can hold the values.
    pub fn fits_half(self) -> bool {
        !matches!(self, Self::Offset | Self::Scales | Self::StructuredOffset)
    }
}

/// The values of `n_images` images, per level.
pub fn features(kind: Kind, seed: u64, n_images: usize, shapes: &Shapes) -> Vec<Vec<f32>> {
    let mut numbers = Numbers(seed);
    let scales: Vec<f64> = (0..n_images)
        .map(|_| 10.0_f64.powi(numbers.below(31) as i32 - 15))
        .collect();
    let phases: Vec<f64> = (0..n_images).map(|_| 0.3 * numbers.uniform()).collect();
    shapes
        .iter()
        .enumerate()
        .map(|(level, &(height, width, channels))| {
            let len = height * width * channels;
            let mut values = Vec::with_capacity(n_images * len);
            let (mut waves, mut palette) = (Waves::new(channels), Numbers(9));
            let palette: Vec<f64> = (0..5 * channels).map(|_| palette.uniform()).collect();
            for (image, scale) in scales.iter().enumerate() {
                let mut entry = 0;
                for at in 0..len {
                    let (cell, channel) = (at / channels, at % channels);
                    if kind.is_structured() && channel == 0 {
                        let (row, column) = (cell / width, cell % width);
                        waves.move_to(
                            (row as f64 + 0.5) / height as f64,
                            (column as f64 + 0.5) / width as f64,
                            phases[image],
                        );
                    }
                    if kind == Kind::Repeated && channel == 0 {
                        entry = numbers.below(5) as usize;
                    }
                    let uniform = numbers.uniform();
                    values.push(match kind {
                        Kind::Quantised => (1.5 * uniform).round() as f32,
                        Kind::Copies if image > 0 => values[at],
                        Kind::Sparse if numbers.below(8) > 0 => 0.0,
                        Kind::Offset => (1e6 + uniform) as f32,
                        Kind::Scales => (scale * uniform) as f32,
                        Kind::Constant if cell > 0 => values[image * len + channel],
                        Kind::Uniform | Kind::Copies | Kind::Sparse | Kind::Constant => {
                            uniform as f32
                        }
                        Kind::Repeated => palette[entry * channels + channel] as f32,
                        Kind::LastBits => {
                            let bits = 1.0_f32.to_bits() + numbers.below(4) as u32;
                            let sign = if (cell + channel).is_multiple_of(2) {
                                1.0
                            } else {
                                -1.0
                            };
                            sign * f32::from_bits(bits)
                        }
                        Kind::Structured => (waves.value(channel) + 0.1 * uniform) as f32,
                        Kind::StructuredOffset => {
                            (1e6 + 100.0 * (waves.value(channel) + 0.1 * uniform)) as f32
                        }
                        Kind::StructuredCoarse if level + 1 < shapes.len() => 0.25,
                        Kind::StructuredCoarse => (waves.value(channel) + 0.01 * uniform) as f32,
                    });
                }
            }
            values
        })
        .collect()
}

/// A few waves across an image, each in a direction of its own among the channels.
struct Waves {
    directions: Vec<f64>,
    heights: [f64; 5],
}

impl Waves {
    fn new(channels: usize) -> Self {
        let mut numbers = Numbers(7);
        Self {
            directions: (0..5 * channels).map(|_| numbers.uniform()).collect(),
            heights: [0.0; 5],
        }
    }

    /// `down` and `across` are in 0..1.
    fn move_to(&mut self, down: f64, across: f64, phase: f64) {
        for (wave, height) in self.heights.iter_mut().enumerate() {
            let wave = wave as f64;
            let angle = (5.0 + wave) * down - (7.0 - 2.0 * wave) * across + wave;
            *height = 2.0 * (angle + phase).sin();
        }
    }

    fn value(&self, channel: usize) -> f64 {
        let directions = self.directions[5 * channel..].iter();
        directions.zip(self.heights).map(|(d, h)| d * h).sum()
    }
}

pub fn batch<'a>(shapes: &Shapes, n_images: usize, levels: &'a [Vec<f32>]) -> PyramidBatch<'a> {
    let shape = PyramidShape::new(shapes).unwrap();
    let levels = levels.iter().map(|level| LevelData::F32(level)).collect();
    PyramidBatch::new(shape, n_images, levels).unwrap()
}

/// The values of one image of many.
pub fn image_of(shapes: &Shapes, levels: &[Vec<f32>], image: usize) -> Vec<Vec<f32>> {
    let levels = levels.iter().zip(shapes);
    let of = |(level, &(h, w, channels)): (&Vec<f32>, &(usize, usize, usize))| {
        level[image * h * w * channels..][..h * w * channels].to_vec()
    };
    levels.map(of).collect()
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

/// An upsampled, concatenated feature.
pub struct Feature {
    pub values: Vec<f64>,
    /// Norm of the largest values that it was interpolated from.
    size: f64,
}

/// The features of all cells of all images.
pub fn upsampled(
    shapes: &Shapes,
    n_images: usize,
    levels: &[Vec<f32>],
    upsample: Upsample,
) -> Vec<Feature> {
    let (height, width, _) = shapes[0];
    let nothing = || Feature {
        values: Vec::new(),
        size: 0.0,
    };
    let mut cells: Vec<Feature> = (0..n_images * height * width).map(|_| nothing()).collect();
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
                let mut largest = 0.0_f64;
                let mut blend = |r| {
                    let (a, b) = (value(r, left, channel), value(r, right, channel));
                    largest = largest.max(a.abs()).max(b.abs());
                    a + across * (b - a)
                };
                let (a, b) = (blend(top), blend(bottom));
                feature.values.push(a + down * (b - a));
                feature.size = feature.size.hypot(largest);
            }
        }
    }
    cells
}

fn sq_l2(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// A gallery, a query, and how to compare them.
#[derive(Clone, Debug)]
pub struct Case {
    pub shapes: Shapes,
    pub upsample: Upsample,
    pub dtype: DType,
    pub kind: Kind,
    /// All features are multiplied by it.
    pub magnitude: f64,
    pub n_images: usize,
    pub n_queries: usize,
    /// The images that are searched, for all queries or for each; all where there is nothing.
    pub selections: Vec<Vec<usize>>,
    /// The radius of the position window on each level; no window where there is nothing.
    pub radii: Vec<Option<usize>>,
    pub k: usize,
    pub seed: u64,
}

impl Case {
    pub fn new(shapes: &[(usize, usize, usize)], upsample: Upsample, kind: Kind) -> Self {
        Self {
            shapes: shapes.to_vec(),
            upsample,
            dtype: DType::F32,
            kind,
            magnitude: 1.0,
            n_images: 2,
            n_queries: 1,
            selections: Vec::new(),
            radii: Vec::new(),
            k: 3.min(2 * shapes[0].0 * shapes[0].1),
            seed: 0,
        }
    }

    /// Fine cells of an image.
    pub fn cells(&self) -> usize {
        self.shapes[0].0 * self.shapes[0].1
    }

    /// Whether two cells of images are compared: on every level by the definition.
    pub fn is_within(&self, cell: usize, other: usize) -> bool {
        let (height, width, _) = self.shapes[0];
        let mut levels = self.radii.iter().zip(&self.shapes);
        levels.all(|(radius, &(h, w, _))| {
            let place = |cell: usize| (cell / width * h / height, cell % width * w / width);
            let ((row, column), (other_row, other_column)) = (place(cell), place(other));
            radius.is_none_or(|radius| {
                row.abs_diff(other_row) <= radius && column.abs_diff(other_column) <= radius
            })
        })
    }

    /// How many cells of an image a cell is compared with at least.
    pub fn fewest(&self) -> usize {
        let cells = 0..self.cells();
        let n_within = |cell| {
            cells
                .clone()
                .filter(|&other| self.is_within(cell, other))
                .count()
        };
        cells.clone().map(n_within).min().unwrap()
    }

    pub fn channels(&self) -> usize {
        self.shapes.iter().map(|shape| shape.2).sum()
    }

    pub fn normal(&self) -> Vec<Vec<f32>> {
        let mut levels = self.scaled(features(self.kind, self.seed, self.n_images, &self.shapes));
        if self.dtype == DType::F16 {
            for value in levels.iter_mut().flatten() {
                *value = f16::from_f32(*value).to_f32();
            }
        }
        levels
    }

    pub fn query(&self) -> Vec<Vec<f32>> {
        // Every third query is in the gallery.
        let seed = if self.seed.is_multiple_of(3) {
            self.seed
        } else {
            !self.seed
        };
        self.scaled(features(self.kind, seed, self.n_queries, &self.shapes))
    }

    fn scaled(&self, mut levels: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        if self.magnitude != 1.0 {
            for value in levels.iter_mut().flatten() {
                *value = (f64::from(*value) * self.magnitude) as f32;
            }
        }
        levels
    }

    /// Whether float64 computes every distance without rounding.
    fn is_exact(&self) -> bool {
        let whole = self.shapes.iter().all(|&(h, w, _)| {
            (self.shapes[0].0 / h).is_power_of_two() && (self.shapes[0].1 / w).is_power_of_two()
        });
        self.kind == Kind::Quantised
            && self.dtype != DType::I8
            && self.magnitude == 1.0
            && (self.upsample == Upsample::Block || whole)
    }

    pub fn check(&self) {
        self.check_features(&self.query(), &self.normal());
    }

    /// Searches in every way and compares with the oracle.
    pub fn check_features(&self, query: &[Vec<f32>], normal: &[Vec<f32>]) {
        let found = search_every_way(
            &self.shapes,
            (self.upsample, self.dtype),
            (self.n_queries, query),
            (self.n_images, normal),
            (self.k, &self.radii),
        );
        let cells: Vec<usize> = (0..self.n_queries * self.cells()).collect();
        self.compare(&found, query, normal, &cells);
    }

    /// Compares the neighbours of some query cells with the oracle's.
    pub fn compare(
        &self,
        found: &Neighbors,
        query: &[Vec<f32>],
        normal: &[Vec<f32>],
        query_cells: &[usize],
    ) {
        let queries = upsampled(&self.shapes, self.n_queries, query, self.upsample);
        let kept = kept(&self.shapes, self.dtype, self.n_images, normal);
        let places = upsampled(&self.shapes, self.n_images, &kept, self.upsample);
        let interpolated = self.upsample == Upsample::Bilinear && self.shapes.len() > 1;
        let n_cells = self.cells();
        let exact = self.is_exact();
        let all: Vec<usize> = (0..self.n_images).collect();
        // For each place the one before it that has the same feature, of the images that are searched.
        let earlier: Vec<HashMap<usize, usize>> = match &self.selections[..] {
            [] => vec![twins(&places, n_cells, &all)],
            selections => selections
                .iter()
                .map(|images| twins(&places, n_cells, images))
                .collect(),
        };
        let mut distances = vec![f64::NAN; places.len()];
        let mut seen = vec![usize::MAX; places.len()];
        for &cell in query_cells {
            let feature = &queries[cell];
            let of = |n: usize| if n == 1 { 0 } else { cell / n_cells };
            let images = match &self.selections[..] {
                [] => &all,
                selections => &selections[of(selections.len())],
            };
            let earlier = &earlier[of(earlier.len())];
            let mut order: Vec<usize> = Vec::with_capacity(images.len() * n_cells);
            distances.fill(f64::NAN);
            for image in images {
                for place in image * n_cells..(image + 1) * n_cells {
                    if !self.is_within(cell % n_cells, place % n_cells) {
                        continue;
                    }
                    distances[place] = sq_l2(&feature.values, &places[place].values);
                    order.push(place);
                }
            }
            let nearer =
                |a: &usize, b: &usize| distances[*a].total_cmp(&distances[*b]).then(a.cmp(b));
            if self.k < order.len() {
                order.select_nth_unstable_by(self.k, nearer);
                order.truncate(self.k);
            }
            order.sort_unstable_by(nearer);
            // What float64 may be wrong by: the sum, and the values that were interpolated.
            let allowed = |place: usize| {
                let blur = if interpolated {
                    8.0 * f64::EPSILON * (feature.size + places[place].size)
                } else {
                    0.0
                };
                1e-12 * distances[place] + 2.0 * distances[place].sqrt() * blur + blur * blur
            };
            for (rank, &want) in order.iter().enumerate() {
                let at = cell * self.k + rank;
                let got = found.ranks[at] as usize * n_cells + found.cells[at] as usize;
                let difference = (distances[got] - distances[want]).abs();
                assert!(
                    got == want || (!exact && difference < allowed(got) + allowed(want)),
                    "cell {cell}, neighbour {rank}: {got} at {:e} instead of {want} at {:e}; {self:?}",
                    distances[got],
                    distances[want],
                );
                assert!(
                    seen[got] != cell,
                    "cell {cell}, neighbour {rank}: {got} comes twice; {self:?}"
                );
                seen[got] = cell;
                let within = |twin: &&usize| self.is_within(cell % n_cells, **twin % n_cells);
                let mut twins = std::iter::successors(earlier.get(&got), |twin| earlier.get(twin));
                if let Some(&twin) = twins.find(within) {
                    assert!(
                        seen[twin] == cell,
                        "cell {cell}, neighbour {rank}: {got} comes before its twin {twin}; {self:?}"
                    );
                }
                let (given, expected) = (f64::from(found.sq_distances[at]), distances[got]);
                assert!(
                    (found.exact[at] - expected).abs() <= 1e-12 * expected + allowed(got),
                    "cell {cell}, neighbour {rank}: {:e} instead of {expected:e}; {self:?}",
                    found.exact[at],
                );
                let error = (given - expected).abs();
                assert!(
                    given == f64::from(expected as f32)
                        || error <= 1e-7 * expected + allowed(got) + f64::from(f32::from_bits(1)),
                    "cell {cell}, neighbour {rank}: {given:e} instead of {expected:e}; {self:?}"
                );
            }
        }
    }
}

fn twins(places: &[Feature], n_cells: usize, images: &[usize]) -> HashMap<usize, usize> {
    let mut last: HashMap<Vec<u64>, usize> = HashMap::new();
    let mut earlier = HashMap::new();
    for place in images.iter().flat_map(|i| i * n_cells..(i + 1) * n_cells) {
        // The zeros of either sign are the same.
        let bits = places[place].values.iter().map(|v| (v + 0.0).to_bits());
        if let Some(before) = last.insert(bits.collect(), place) {
            earlier.insert(place, before);
        }
    }
    earlier
}

/// The values that a gallery keeps of some images, decoded here once more where they are codes.
pub fn kept(shapes: &Shapes, dtype: DType, n_images: usize, normal: &[Vec<f32>]) -> Vec<Vec<f32>> {
    if dtype != DType::I8 {
        return normal.to_vec(); // these were rounded beforehand
    }
    let ids = ids(n_images);
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

/// Names that sort as numbers do.
pub fn ids(n_images: usize) -> Vec<String> {
    (0..n_images).map(|image| format!("{image:03}")).collect()
}

/// The neighbours, which must be the same to the bit with all matchers, instruction sets and threads.
pub fn search_every_way(
    shapes: &Shapes,
    (upsample, dtype): (Upsample, DType),
    (n_queries, query): (usize, &[Vec<f32>]),
    (n_images, normal): (usize, &[Vec<f32>]),
    (k, radii): (usize, &[Option<usize>]),
) -> Neighbors {
    let mut gallery = Gallery::new(upsample, dtype);
    let images = batch(shapes, n_images, normal);
    gallery.add(&images, &ids(n_images)).unwrap();
    let query = batch(shapes, n_queries, query);
    let selections = [gallery.select(None).unwrap()];
    let mut first: Option<Neighbors> = None;
    for set in InstructionSet::available() {
        for threads in 1..=4 {
            // The third chooses one of the others, or both, whatever the number of threads.
            for &matcher in &MATCHERS[..if threads == 2 { 3 } else { 2 }] {
                let how = (k, set, threads, matcher);
                let found = search_within(&gallery, &query, &selections, radii, how);
                assert_same_as_first(&found, &mut first, how);
            }
        }
    }
    first.unwrap()
}

/// Fails when what was found in one way differs from what was found first; the first is kept.
pub fn assert_same_as_first(found: &Neighbors, first: &mut Option<Neighbors>, how: How) {
    let expected = first.get_or_insert_with(|| found.clone());
    let (_, set, threads, matcher) = how;
    assert!(
        same_bits(found, expected),
        "{}, {} with {threads} threads differs",
        matcher.name(),
        set.name()
    );
}

/// A way to search: so many neighbours, instruction set, threads, matcher.
pub type How = (usize, InstructionSet, usize, Matcher);

/// Searches in one way.
pub fn search(
    gallery: &Gallery,
    query: &PyramidBatch<'_>,
    selections: &[Selection],
    how: How,
) -> Neighbors {
    search_within(gallery, query, selections, &[], how)
}

/// Searches in one way, within a window if there are radii.
pub fn search_within(
    gallery: &Gallery,
    query: &PyramidBatch<'_>,
    selections: &[Selection],
    radii: &[Option<usize>],
    (k, set, threads, matcher): How,
) -> Neighbors {
    let window = match radii {
        [] => None,
        radii => Window::new(query.shape(), radii).unwrap(),
    };
    let options = Options {
        window: window.as_ref(),
        threads: NonZero::new(threads),
        instruction_set: Some(set),
        matcher,
        exact: true,
        ..Options::new(k)
    };
    let context = gallery.pyramid_context().unwrap();
    let found = search::search(query, &context, selections, &options).unwrap();
    let rounded = found.exact.iter().map(|&exact| exact as f32);
    assert!(rounded.eq(found.sq_distances.iter().copied()));
    found
}

pub fn same_bits(found: &Neighbors, expected: &Neighbors) -> bool {
    let bits = |n: &Neighbors| -> Vec<u32> { n.sq_distances.iter().map(|d| d.to_bits()).collect() };
    bits(found) == bits(expected) && found.ranks == expected.ranks && found.cells == expected.cells
}

/// The pairs of one stage of a search.
pub fn stage(found: &Neighbors, name: &str) -> Option<u64> {
    let mut stages = found.stats.stages.iter();
    stages.find(|(stage, _)| stage == name).map(|stage| stage.1)
}
