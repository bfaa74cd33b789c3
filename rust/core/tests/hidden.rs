//! Cells that are hidden are as if they were not there: the same neighbours, to the bit, as in a gallery
//! without them.

#![allow(clippy::single_range_in_vec_init)] // one run is hidden

mod common;

use common::{KINDS, Kind, MATCHERS, Shapes, batch, features, ids, same_bits, search};
use knnspect_core::gallery::Selection;
use knnspect_core::pyramid::{Upsample, Window};
use knnspect_core::search::{self, Neighbors, Options};
use knnspect_core::{DType, Error, Gallery, InstructionSet};
use std::ops::Range;

fn bank(n_rows: usize, channels: usize, rows: &[f32]) -> Gallery {
    let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
    let shapes: Shapes = vec![(1, n_rows, channels)];
    gallery
        .add(&batch(&shapes, 1, &[rows.to_vec()]), &ids(1))
        .unwrap();
    gallery
}

fn hiding(bank: &Gallery, hidden: &[Range<usize>]) -> Selection {
    let n_cells = bank.pyramid_context().unwrap().shape().finest().cells();
    bank.select(None)
        .unwrap()
        .hiding(hidden.to_vec(), n_cells)
        .unwrap()
}

/// Searches the rows that are left as a bank of their own, and says where they were.
fn expected(
    (channels, rows): (usize, &[f32]),
    hidden: &[Range<usize>],
    query: &[Vec<f32>],
    k: usize,
) -> Neighbors {
    let n_rows = rows.len() / channels;
    let left: Vec<usize> = (0..n_rows)
        .filter(|row| !hidden.iter().any(|run| run.contains(row)))
        .collect();
    let values: Vec<f32> = left
        .iter()
        .flat_map(|row| rows[row * channels..][..channels].to_vec())
        .collect();
    let bank = bank(left.len(), channels, &values);
    let shapes = vec![(1, query[0].len() / channels, channels)];
    let selections = [bank.select(None).unwrap()];
    let how = (k, InstructionSet::best(), 1, search::Matcher::Exhaustive);
    let mut found = search(&bank, &batch(&shapes, 1, query), &selections, how);
    for cell in &mut found.cells {
        *cell = left[*cell as usize] as u32;
    }
    found
}

fn check(channels: usize, rows: &[f32], hidden: &[Range<usize>], query: &[f32], k: usize) {
    let n_rows = rows.len() / channels;
    let query = [query.to_vec()];
    let expected = expected((channels, rows), hidden, &query, k);
    let shapes = vec![(1, query[0].len() / channels, channels)];
    for set in InstructionSet::available() {
        for matcher in MATCHERS {
            let bank = bank(n_rows, channels, rows);
            let selections = [hiding(&bank, hidden)];
            let how = (k, set, 3, matcher);
            let found = search(&bank, &batch(&shapes, 1, &query), &selections, how);
            assert!(same_bits(&found, &expected), "{hidden:?}, {how:?}");
        }
    }
}

#[test]
fn what_is_hidden_is_as_if_it_were_not_there() {
    let (channels, n_rows) = (49, 1300);
    let shapes = vec![(1, n_rows, channels)];
    let runs: [&[Range<usize>]; 6] = [
        &[],
        &[0..1],
        &[1299..1300],
        &[0..511, 512..513, 1024..1300],
        &[3..4, 4..5, 700..1100],
        &[0..600, 602..1300],
    ];
    for kind in KINDS {
        let rows = &features(kind, 3, 1, &shapes)[0];
        // Queries that are rows, of which some are hidden, and others.
        let mut query = features(kind, 4, 1, &vec![(1, 300, channels)]).remove(0);
        query[..100 * channels].copy_from_slice(&rows[..100 * channels]);
        for hidden in runs {
            check(channels, rows, hidden, &query, 2);
        }
    }
}

#[test]
fn each_query_image_may_have_others() {
    let (channels, n_rows, width) = (49, 1300, 300);
    let rows = &features(Kind::Repeated, 3, 1, &vec![(1, n_rows, channels)])[0];
    let bank = bank(n_rows, channels, rows);
    let query = rows[..2 * width * channels].to_vec();
    let shapes = vec![(1, width, channels)];
    let runs = [vec![0..width], vec![width..2 * width]];
    let selections: Vec<_> = runs.iter().map(|hidden| hiding(&bank, hidden)).collect();
    for matcher in MATCHERS {
        let how = (1, InstructionSet::best(), 2, matcher);
        let both = batch(&shapes, 2, std::slice::from_ref(&query));
        let found = search(&bank, &both, &selections, how);
        for (image, hidden) in runs.iter().enumerate() {
            let own = query[image * width * channels..][..width * channels].to_vec();
            let expected = expected((channels, rows), hidden, &[own], 1);
            let cells = &found.cells[image * width..][..width];
            assert_eq!(cells, expected.cells, "{matcher:?}");
        }
    }
}

#[test]
fn runs_are_in_order_and_something_is_left() {
    let rows = vec![0.0; 10];
    let bank = bank(10, 1, &rows);
    let all = || bank.select(None).unwrap();
    for runs in [vec![3..3], vec![5..11], vec![4..6, 5..7], vec![6..7, 1..2]] {
        let refused = all().hiding(runs.clone(), 10).unwrap_err();
        assert!(matches!(refused, Error::Parameter { .. }), "{runs:?}");
    }
    let (shapes, context) = (vec![(1, 10, 1)], bank.pyramid_context().unwrap());
    let query = [rows.clone()];
    let query = batch(&shapes, 1, &query);
    let of = |hidden, k| {
        let selections = [all().hiding(vec![hidden], 10).unwrap()];
        search::search(&query, &context, &selections, &Options::new(k))
    };
    assert!(of(0..9, 1).is_ok());
    assert!(matches!(of(0..9, 2), Err(Error::Parameter { .. })));
    assert!(matches!(of(0..10, 1), Err(Error::Parameter { .. })));
    let window = Window::new(query.shape(), &[Some(1)]).unwrap();
    let options = Options {
        window: window.as_ref(),
        ..Options::new(1)
    };
    let selections = [all().hiding(vec![0..1], 10).unwrap()];
    let refused = search::search(&query, &context, &selections, &options);
    assert!(matches!(refused, Err(Error::Parameter { .. })));
}
