//! Random cases of every description until time is up, each searched with every matcher and
//! instruction set and compared with the float64 oracle. Run by `make soak`; the environment says how:
//!
//! - `SOAK_SECONDS`: how long (600);
//! - `SOAK_SEED`: where the cases come from (the clock);
//! - `SOAK_CASE`: this case alone, by the number that a failure printed;
//! - `SOAK_JSON`: where to write what was done.

#![allow(clippy::too_many_lines)] // cases and checks read from top to bottom

mod common;

use common::{
    Case, KINDS, Kind, MATCHERS, MODES, Numbers, assert_same_as_first, batch, ids, image_of,
    same_bits, search, search_within, stage,
};
use knnspect_core::search::{Matcher, Neighbors};
use knnspect_core::{DType, Gallery, InstructionSet};
use serde_json::json;
use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Multiplications and additions that searching a case in one way, or asking the oracle, may take.
const MAX_WORK: usize = 30_000_000;

/// Rows of a flat gallery whose images are large enough for `Auto` to prune.
const FLAT_SIDE: usize = 16;

/// A case from its number. In `large` ones the products of a coarsest level take so much memory that
/// images are searched in several rounds.
fn draw(number: u64) -> Case {
    let numbers = &mut Numbers(number);
    let large = numbers.one_in(60);
    let upsample = numbers.choose(&MODES);
    let kind = if numbers.one_in(3) {
        numbers.choose(&KINDS[9..]) // structured
    } else {
        numbers.choose(&KINDS)
    };
    let dtype = match numbers.choose(&[DType::F32, DType::F32, DType::F16, DType::I8]) {
        DType::F16 if !kind.fits_half() => DType::F32,
        dtype => dtype,
    };
    let magnitude = match (kind, dtype) {
        (Kind::Scales, _) => 1.0,
        (_, DType::F16) if numbers.one_in(4) => power_of_ten(numbers, 2),
        (_, DType::F32 | DType::I8) if numbers.one_in(4) => power_of_ten(numbers, 15),
        _ => 1.0,
    };
    let shapes = if large {
        let (height, width) = (numbers.within(20, 26), numbers.within(20, 26));
        let channels = numbers.within(1, 3);
        let coarse = (height, width, numbers.within(1, 4));
        vec![(height * 2, width, channels), coarse]
    } else {
        shapes(numbers)
    };
    let flat = shapes.len() == 1 && shapes[0].0 >= FLAT_SIDE;
    let kind = if flat && numbers.one_in(2) {
        Kind::Structured
    } else {
        kind
    };
    let cells = shapes[0].0 * shapes[0].1;
    let channels: usize = shapes.iter().map(|shape| shape.2).sum();
    let n_queries = if large || flat {
        1
    } else {
        numbers.within(1, 3)
    };
    let most = MAX_WORK / (n_queries * cells * cells * channels.max(4));
    let most = if large { 40 } else { most.clamp(1, 40) };
    let n_images = match (large, flat) {
        (true, _) => 40,
        (_, true) => numbers.within(8, 12),
        _ => numbers.within(1, most),
    };

    let mut selections = Vec::new();
    let n_selections = match numbers.below(4) {
        0 => 1,
        1 => n_queries,
        _ => 0,
    };
    for _ in 0..n_selections {
        let mut images: Vec<usize> = (0..n_images).filter(|_| !numbers.one_in(3)).collect();
        if images.is_empty() {
            images.push(numbers.within(0, n_images - 1));
        }
        selections.push(images);
    }
    let rows = cells * selections.iter().map(Vec::len).min().unwrap_or(n_images);
    let k = match numbers.below(10) {
        0 if !large && !flat => rows,
        1 if !large && !flat => numbers.within(1, rows),
        2..6 => numbers.within(1, 64),
        _ => numbers.within(1, 5),
    };
    let mut case = Case {
        upsample,
        dtype,
        kind,
        magnitude,
        n_images,
        n_queries,
        selections,
        radii: Vec::new(),
        k: k.min(rows),
        seed: numbers.next(),
        shapes,
    };
    if numbers.one_in(3) {
        let fewest_images = case.selections.iter().map(Vec::len).min();
        let shapes = case.shapes.iter();
        let radius = |&(height, width, _): &(usize, usize, usize)| {
            let radius = numbers.within(0, height.max(width).min(8));
            (!numbers.one_in(3)).then_some(radius)
        };
        case.radii = shapes.map(radius).collect();
        case.k = case
            .k
            .min(fewest_images.unwrap_or(n_images) * case.fewest());
    }
    case
}

/// From `10^-most` to `10^most`.
fn power_of_ten(numbers: &mut Numbers, most: u64) -> f64 {
    10.0_f64.powi(numbers.below(2 * most + 1) as i32 - most as i32)
}

/// One to four levels. Most are small; ratios differ from level to level and from rows to columns.
fn shapes(numbers: &mut Numbers) -> Vec<(usize, usize, usize)> {
    let n_levels = numbers.choose(&[1, 2, 2, 2, 3, 3, 4]);
    let channels = |numbers: &mut Numbers| match numbers.below(12) {
        0 => numbers.choose(&[112, 176]),
        1 => 1,
        2..5 => numbers.within(1, 67),
        _ => numbers.within(1, 16),
    };
    if n_levels == 1 {
        let (height, width) = match numbers.below(4) {
            0 => (1, numbers.within(1, 60)),
            1 => (FLAT_SIDE, numbers.within(FLAT_SIDE, 20)),
            _ => (numbers.within(1, 14), numbers.within(1, 14)),
        };
        let channels = if height >= FLAT_SIDE {
            numbers.within(48, 67)
        } else {
            channels(numbers)
        };
        return vec![(height, width, channels)];
    }
    loop {
        let side = |numbers: &mut Numbers| match numbers.below(5) {
            0 => 1,
            _ => numbers.within(1, 8),
        };
        let mut shapes = vec![(side(numbers), side(numbers), channels(numbers))];
        for _ in 1..n_levels {
            let (height, width, _) = shapes[shapes.len() - 1];
            let (down, across) = match numbers.below(3) {
                0 => (
                    numbers.choose(&[1, 2, 3, 4, 7]),
                    numbers.choose(&[1, 2, 3, 4, 7]),
                ),
                _ => numbers.choose(&[(2, 2), (2, 2), (4, 4), (3, 3), (1, 1), (7, 7)]),
            };
            shapes.push((height * down, width * across, channels(numbers)));
        }
        shapes.reverse();
        if shapes[0].0 * shapes[0].1 <= 800 {
            return shapes;
        }
    }
}

/// What was done so far.
#[derive(Default)]
struct Tally {
    searches: u64,
    /// Of all searches.
    pairs: u64,
    oracle_cells: u64,
    kinds: BTreeMap<String, u64>,
    /// By a matcher that prunes and what it was asked for.
    shares: BTreeMap<&'static str, Share>,
}

#[derive(Default)]
struct Share {
    cases: u64,
    pairs: u64,
    /// Compared over all channels.
    in_full: u64,
    /// Cases in which fewer than half of the pairs were.
    mostly_pruned: u64,
}

impl Tally {
    fn add(&mut self, case: &Case, matcher: Matcher, found: &Neighbors) {
        self.searches += 1;
        self.pairs += found.stats.pairs;
        let pairs = |name| stage(found, name).unwrap_or(0);
        let exhaustive = pairs("exhaustive");
        // Stages of either matcher that prunes.
        let (name, in_full) = match (matcher, case.shapes.len()) {
            (Matcher::Exhaustive, _) => {
                let stages = &found.stats.stages;
                assert!(
                    stages.len() == 1 && exhaustive == found.stats.pairs,
                    "{stages:?}"
                );
                return;
            }
            (Matcher::Auto, 1) => ("flat, auto", exhaustive + pairs("float32")),
            (Matcher::Auto, _) => ("cascade, auto", exhaustive + pairs("level 0")),
            // Where the cascade suits a shape, it is not left.
            (Matcher::Pruned, 1) => ("flat", exhaustive + pairs("float32")),
            (Matcher::Pruned, _) if exhaustive == found.stats.pairs => return,
            (Matcher::Pruned, _) => {
                assert_eq!(exhaustive, 0, "{:?}", found.stats);
                ("cascade", pairs("level 0"))
            }
        };
        let share = self.shares.entry(name).or_default();
        share.cases += 1;
        share.pairs += found.stats.pairs;
        share.in_full += in_full;
        share.mostly_pruned += u64::from(2 * in_full < found.stats.pairs);
    }
}

/// Adds the images in some order and in batches; some galleries held another image before.
fn gallery_of(case: &Case, normal: &[Vec<f32>], numbers: &mut Numbers) -> Gallery {
    let names = ids(case.n_images);
    let mut gallery = Gallery::new(case.upsample, case.dtype);
    let mut order: Vec<usize> = (0..case.n_images).collect();
    for at in 1..order.len() {
        order.swap(at, numbers.within(0, at));
    }
    let passing = numbers.one_in(4);
    if passing {
        // Its place is before that of all others, and what a search keeps of it must not last.
        let image = image_of(&case.shapes, normal, 0);
        let image: Vec<Vec<f32>> = image
            .into_iter()
            .map(|level| level.into_iter().map(|v| v * 0.5 + 1e-3).collect())
            .collect();
        let id = ["!".to_owned()];
        gallery.add(&batch(&case.shapes, 1, &image), &id).unwrap();
    }
    while !order.is_empty() {
        let n = numbers.within(1, order.len().min(7));
        let chosen: Vec<usize> = order.drain(..n).collect();
        let mut levels = vec![Vec::new(); case.shapes.len()];
        for &image in &chosen {
            for (level, values) in levels.iter_mut().zip(image_of(&case.shapes, normal, image)) {
                level.extend(values);
            }
        }
        let names: Vec<String> = chosen.iter().map(|&image| names[image].clone()).collect();
        gallery
            .add(&batch(&case.shapes, n, &levels), &names)
            .unwrap();
    }
    if passing {
        let query = image_of(&case.shapes, normal, case.n_images - 1);
        let selection = [gallery.select(None).unwrap()];
        let way = (1, InstructionSet::best(), 2, Matcher::Pruned);
        search(&gallery, &batch(&case.shapes, 1, &query), &selection, way);
        gallery.remove(&["!".to_owned()]).unwrap();
    }
    gallery
}

fn check(case: &Case, numbers: &mut Numbers, tally: &mut Tally) {
    let (query, normal) = (case.query(), case.normal());
    let gallery = gallery_of(case, &normal, numbers);
    let names = ids(case.n_images);
    let selections: Vec<_> = match &case.selections[..] {
        [] => vec![gallery.select(None).unwrap()],
        selections => selections
            .iter()
            .map(|images| {
                let ids: Vec<String> = images.iter().map(|&image| names[image].clone()).collect();
                gallery.select(Some(&ids)).unwrap()
            })
            .collect(),
    };
    let queries = batch(&case.shapes, case.n_queries, &query);
    let mut first: Option<Neighbors> = None;
    for set in InstructionSet::available() {
        for matcher in MATCHERS {
            let threads = numbers.within(1, 6);
            let how = (case.k, set, threads, matcher);
            let found = search_within(&gallery, &queries, &selections, &case.radii, how);
            tally.add(case, matcher, &found);
            assert_same_as_first(&found, &mut first, how);
        }
    }
    let found = first.unwrap();
    if case.n_queries > 1 && numbers.one_in(3) {
        // One query of many, alone.
        let image = numbers.within(0, case.n_queries - 1);
        let alone = image_of(&case.shapes, &query, image);
        let at = if selections.len() == 1 { 0 } else { image };
        let way = (case.k, InstructionSet::best(), 2, numbers.choose(&MATCHERS));
        let (query, selections) = (batch(&case.shapes, 1, &alone), &selections[at..=at]);
        let alone = search_within(&gallery, &query, selections, &case.radii, way);
        let n = case.cells() * case.k;
        let range = image * n..(image + 1) * n;
        let part = Neighbors {
            sq_distances: found.sq_distances[range.clone()].to_vec(),
            exact: found.exact[range.clone()].to_vec(),
            ranks: found.ranks[range.clone()].to_vec(),
            cells: found.cells[range].to_vec(),
            stats: alone.stats.clone(),
        };
        assert!(same_bits(&alone, &part), "query {image} alone differs");
        tally.searches += 1;
        tally.pairs += alone.stats.pairs;
    }
    // The oracle is slow: of large cases it sees some of the queries.
    let n_cells = case.n_queries * case.cells();
    let work = case.n_images * case.cells() * (case.channels() + 16);
    let n = (MAX_WORK / work).clamp(1, n_cells);
    let start = numbers.within(0, n_cells - 1);
    let cells: Vec<usize> = (0..n)
        .map(|at| (start + at * n_cells / n) % n_cells)
        .collect();
    case.compare(&found, &query, &normal, &cells);
    tally.oracle_cells += n as u64;
    let of = |what: String| what.to_lowercase();
    *tally
        .kinds
        .entry(of(format!("{:?}", case.kind)))
        .or_default() += 1;
}

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no whole number")),
    )
}

#[test]
#[ignore = "as long as it is told to; see `make soak`"]
fn soak() {
    let alone = number("SOAK_CASE");
    let seconds = number("SOAK_SECONDS").unwrap_or(600);
    let seed = number("SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    println!("SOAK_SEED={seed}");
    let mut tally = Tally::default();
    let mut numbers = Numbers(seed);
    let started = Instant::now();
    let (mut cases, mut failed) = (0_u64, None);
    while failed.is_none() && started.elapsed() < Duration::from_secs(seconds) {
        let number = alone.unwrap_or_else(|| numbers.next());
        let case = draw(number);
        let checked = AssertUnwindSafe(|| check(&case, &mut Numbers(!number), &mut tally));
        if catch_unwind(checked).is_err() {
            println!("{case:?}\nagain, alone: SOAK_CASE={number} make soak");
            failed = Some(number);
        }
        cases += 1;
        if alone.is_some() {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let shares: BTreeMap<&str, _> = tally
        .shares
        .iter()
        .map(|(name, share)| {
            let report = json!({
                "searches": share.cases,
                "pairs": share.pairs,
                "compared_in_full": share.in_full,
                "share_pruned": 1.0 - share.in_full as f64 / share.pairs.max(1) as f64,
                "searches_mostly_pruned": share.mostly_pruned,
            });
            (*name, report)
        })
        .collect();
    let sets: Vec<&str> = InstructionSet::available()
        .into_iter()
        .map(InstructionSet::name)
        .collect();
    let report = json!({
        "command": "make soak",
        "seed": seed,
        "seconds": (10.0 * seconds).round() / 10.0,
        "cases": cases,
        "kinds": tally.kinds,
        "searches_compared": tally.searches,
        "pairs": tally.pairs,
        "query_cells_compared_with_oracle": tally.oracle_cells,
        "matchers": shares,
        "machine": {
            "processor": processor(),
            "threads": std::thread::available_parallelism().map_or(1, usize::from),
            "instruction_sets": sets,
        },
        "failed_case": failed,
        "result": if failed.is_some() { "failed" } else { "passed" },
    });
    let report = serde_json::to_string_pretty(&report).unwrap() + "\n";
    println!("{report}");
    if let Ok(path) = env::var("SOAK_JSON")
        && alone.is_none()
    {
        std::fs::write(path, report).unwrap();
    }
    assert!(failed.is_none(), "case {} failed", failed.unwrap());
    if alone.is_some() || cases < 100 {
        return;
    }
    // Had nothing been pruned, all would be as exact. `Auto` does so where it pays, which needs cases
    // that are large and structured: it takes many to be sure of some.
    let expected = [("cascade", 0.2), ("flat", 0.1), ("cascade, auto", 0.02)];
    let rare = (cases >= 1000).then_some(("flat, auto", 0.01));
    for (name, least) in expected.into_iter().chain(rare) {
        let share = &tally.shares[name];
        let part = share.mostly_pruned as f64 / share.cases as f64;
        assert!(
            part > least,
            "{name}: mostly pruned in {part} of the searches"
        );
    }
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}
