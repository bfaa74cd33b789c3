//! Search of one query in eight images, with the levels of EfficientNet-Lite0 at 224 pixels, or with
//! one level of as many channels: per matcher, instruction set, way of upsampling and `k`, on one
//! thread.
//!
//! ```text
//! cargo bench -p knnspect-core                                  # run, compare with the last run
//! cargo bench -p knnspect-core -- --save-baseline main          # keep a baseline
//! cargo bench -p knnspect-core -- --baseline main               # compare with it
//! cargo bench -p knnspect-core -- 'pruned/avx512/bilinear'      # only some
//! ```

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use knnspect_core::pyramid::{LevelData, PyramidBatch, PyramidShape, Upsample};
use knnspect_core::search::{self, Matcher, Options};
use knnspect_core::{DType, Gallery, InstructionSet};
use std::hint::black_box;
use std::num::NonZero;
use std::time::Duration;

type Shapes = [(usize, usize, usize)];

const PYRAMID: &Shapes = &[(56, 56, 24), (28, 28, 40), (14, 14, 112)];
const FLAT: &Shapes = &[(56, 56, 176)];
const N_IMAGES: usize = 8;

/// Features that change slowly over an image and differ from image to image, with some noise, as
/// those of a convolutional network do.
fn features(shapes: &Shapes, seed: u64, n_images: usize) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    };
    shapes
        .iter()
        .map(|&(height, width, channels)| {
            let mut values = Vec::with_capacity(n_images * height * width * channels);
            for image in 0..n_images {
                for row in 0..height {
                    for column in 0..width {
                        let (y, x) = (row as f32 / height as f32, column as f32 / width as f32);
                        for channel in 0..channels {
                            let (c, shift) = (channel as f32, 0.05 * image as f32);
                            let wave =
                                (3.0 * y + 0.7 * c + shift).sin() * (4.0 * x + 1.3 * c).cos();
                            values.push(wave + 0.1 * uniform());
                        }
                    }
                }
            }
            values
        })
        .collect()
}

fn batch<'a>(shapes: &Shapes, n_images: usize, levels: &'a [Vec<f32>]) -> PyramidBatch<'a> {
    let shape = PyramidShape::new(shapes).expect("the levels nest");
    let levels = levels.iter().map(|level| LevelData::F32(level)).collect();
    PyramidBatch::new(shape, n_images, levels).expect("the sizes agree")
}

fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    let ids: Vec<String> = (0..N_IMAGES).map(|image| image.to_string()).collect();
    for (name, shapes, upsample) in [
        ("bilinear", PYRAMID, Upsample::Bilinear),
        ("block", PYRAMID, Upsample::Block),
        ("one level", FLAT, Upsample::Bilinear),
    ] {
        let (normal, query) = (features(shapes, 1, N_IMAGES), features(shapes, 2, 1));
        let query = batch(shapes, 1, &query);
        let mut gallery = Gallery::new(upsample, DType::F32);
        gallery
            .add(&batch(shapes, N_IMAGES, &normal), &ids)
            .expect("a new gallery");
        let context = gallery.pyramid_context().expect("a gallery of images");
        let selection = [gallery.select(None).expect("all images")];
        let cells = shapes[0].0 * shapes[0].1;
        group.throughput(Throughput::Elements((cells * cells * N_IMAGES) as u64));
        for matcher in [Matcher::Exhaustive, Matcher::Pruned] {
            for set in InstructionSet::available() {
                for k in [1, 5] {
                    let options = Options {
                        threads: NonZero::new(1),
                        instruction_set: Some(set),
                        matcher,
                        ..Options::new(k)
                    };
                    let path = format!("{}/{}/{name}", matcher.name(), set.name());
                    let id = BenchmarkId::new(path, format!("k={k}"));
                    group.bench_function(id, |bencher| {
                        bencher.iter(|| {
                            search::search(black_box(&query), &context, &selection, &options)
                                .expect("a search without mistakes")
                        });
                    });
                }
            }
        }
    }
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
