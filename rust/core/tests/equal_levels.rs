//! Several levels of equal size are one flat gallery: the same answers, by the same matcher, as when
//! they are concatenated into one.

mod common;

use common::{Case, Kind, MATCHERS, MODES, Shapes, batch, ids, same_bits, search, stage};
use knnspect_core::pyramid::Upsample;
use knnspect_core::search::Matcher;
use knnspect_core::{DType, Gallery, InstructionSet};

const CELLS: usize = 36 * 32;
const CHANNELS: [usize; 3] = [20, 9, 35];

/// Cells that lie near a surface of few dimensions, with a little noise: `[cell][channel]`.
fn surface(n_images: usize, phase: f32) -> Vec<f32> {
    let n: usize = CHANNELS.iter().sum();
    let value = |at: usize| {
        let (cell, channel) = (at / n, at % n);
        let (down, across) = ((cell / 32) as f32, (cell % 32) as f32);
        let (a, b) = ((channel % 5) as f32, (channel % 3) as f32);
        let wave = phase + 0.05 * (down * (2.0 + a).sqrt() + across * (3.0 + b).sqrt());
        let noise = ((cell * 7919 + channel * 104_729) % 97) as f32 / 97.0;
        4.0 * (wave + channel as f32).sin() + 0.2 * noise
    };
    (0..n_images * CELLS * n).map(value).collect()
}

/// The same, level by level.
fn split(rows: &[f32]) -> Vec<Vec<f32>> {
    let n: usize = CHANNELS.iter().sum();
    let mut first = 0;
    CHANNELS
        .iter()
        .map(|&channels| {
            let values = first..first + channels;
            first += channels;
            rows.chunks_exact(n)
                .flat_map(|row| row[values.clone()].to_vec())
                .collect()
        })
        .collect()
}

fn gallery_of(shapes: &Shapes, dtype: DType, levels: &[Vec<f32>]) -> Gallery {
    let mut gallery = Gallery::new(Upsample::Bilinear, dtype);
    gallery.add(&batch(shapes, 3, levels), &ids(3)).unwrap();
    gallery
}

#[test]
fn they_are_searched_as_one_level() {
    let (normal, query) = (surface(3, 0.0), surface(1, 1.005));
    let one = vec![(36, 32, CHANNELS.iter().sum())];
    let several: Shapes = CHANNELS
        .iter()
        .map(|&channels| (36, 32, channels))
        .collect();
    for dtype in [DType::F32, DType::F16, DType::I8] {
        let flat = gallery_of(&one, dtype, std::slice::from_ref(&normal));
        let levels = gallery_of(&several, dtype, &split(&normal));
        for k in [1, 5] {
            for matcher in MATCHERS {
                let way = (k, InstructionSet::best(), 2, matcher);
                let flat_selection = [flat.select(None).unwrap()];
                let selection = [levels.select(None).unwrap()];
                let whole = [query.clone()];
                let expected = search(&flat, &batch(&one, 1, &whole), &flat_selection, way);
                let parts = split(&query);
                let found = search(&levels, &batch(&several, 1, &parts), &selection, way);
                assert!(
                    same_bits(&found, &expected),
                    "{dtype:?}, k {k}, {}",
                    matcher.name()
                );
                assert_eq!(found.stats, expected.stats);
                let is_pruned = matcher != Matcher::Exhaustive;
                assert_eq!(
                    stage(&found, "filter 2").is_some(),
                    is_pruned,
                    "{:?}",
                    found.stats
                );
            }
        }
    }
}

#[test]
fn what_the_oracle_finds_is_found_in_equal_levels() {
    for upsample in MODES {
        for kind in [
            Kind::Uniform,
            Kind::Structured,
            Kind::Quantised,
            Kind::Offset,
        ] {
            for dtype in [DType::F32, DType::I8] {
                let mut case = Case::new(&[(7, 9, 11), (7, 9, 1), (7, 9, 40)], upsample, kind);
                (case.dtype, case.n_images) = (dtype, 3);
                case.check();
            }
        }
    }
}

#[test]
fn one_level_alone_is_searched_as_a_gallery_of_that_level() {
    let (normal, query) = (split(&surface(3, 0.0)), split(&surface(1, 1.005)));
    let shapes: Shapes = vec![(36, 32, CHANNELS[0]), (18, 16, CHANNELS[1])];
    let coarse = |level: &[f32]| level[..level.len() / 4].to_vec();
    let normal = [normal[0].clone(), coarse(&normal[1])];
    let query = [query[0].clone(), coarse(&query[1])];
    for dtype in [DType::F32, DType::F16, DType::I8] {
        let whole = gallery_of(&shapes, dtype, &normal);
        for index in 0..shapes.len() {
            let shape = vec![shapes[index]];
            let level = whole.level(index).unwrap();
            let alone = gallery_of(&shape, dtype, std::slice::from_ref(&normal[index]));
            assert_eq!(level.shape(), alone.shape());
            assert_eq!(level.n_bytes(), alone.n_bytes());
            let parts = [query[index].clone()];
            let way = (3, InstructionSet::best(), 2, Matcher::Auto);
            let found = search(
                &level,
                &batch(&shape, 1, &parts),
                &[level.select(None).unwrap()],
                way,
            );
            let expected = search(
                &alone,
                &batch(&shape, 1, &parts),
                &[alone.select(None).unwrap()],
                way,
            );
            assert!(same_bits(&found, &expected), "{dtype:?}, level {index}");
        }
        assert!(whole.level(2).is_err());
    }
}
