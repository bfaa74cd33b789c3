//! Coresets of galleries in shards: those of one gallery, to the bit.

mod common;

use common::{KINDS, Kind, Numbers, Shapes, batch, features, image_of};
use knnspect_core::pyramid::Upsample;
use knnspect_core::select::{
    Chooser, Front, PickOptions, Picks, ShardOptions, ShardRows, Shown, Whole, pick,
};
use knnspect_core::{Cancel, DType, Gallery, InstructionSet};
use proptest::prelude::*;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Images of a gallery, the shard of each, and what is to be picked.
#[derive(Clone, Debug)]
struct Case {
    shapes: Shapes,
    kind: Kind,
    dtype: DType,
    /// Of each image.
    owners: Vec<usize>,
    count: usize,
    kept: Option<Vec<bool>>,
    projected: Option<usize>,
    round: Option<usize>,
    seed: u64,
}

/// A shard, and what makes it anew.
struct Shard {
    rows: ShardRows,
    front: Front,
}

impl Case {
    fn new(shapes: &[(usize, usize, usize)], kind: Kind, owners: &[usize], count: usize) -> Self {
        Self {
            shapes: shapes.to_vec(),
            kind,
            dtype: DType::F32,
            owners: owners.to_vec(),
            count,
            kept: None,
            projected: None,
            round: None,
            seed: 1,
        }
    }

    fn cells(&self) -> usize {
        self.shapes[0].0 * self.shapes[0].1
    }

    fn n_rows(&self) -> usize {
        self.owners.len() * self.cells()
    }

    fn n_shards(&self) -> usize {
        self.owners.iter().max().unwrap() + 1
    }

    fn projection(&self) -> Option<Vec<f32>> {
        let mut numbers = Numbers(3);
        let n_features: usize = self.shapes.iter().map(|shape| shape.2).sum();
        self.projected.map(|n| {
            let values = (0..n * n_features).map(|_| numbers.uniform() as f32);
            values.collect()
        })
    }

    fn is_kept(&self, row: usize) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept[row])
    }

    fn gallery(&self, levels: &[Vec<f32>], images: &[usize]) -> Gallery {
        let mut gallery = Gallery::new(Upsample::Bilinear, self.dtype);
        for &image in images {
            let levels = image_of(&self.shapes, levels, image);
            let id = format!("{image:03}");
            gallery
                .add(&batch(&self.shapes, 1, &levels), &[id])
                .unwrap();
        }
        gallery
    }

    fn shard(&self, levels: &[Vec<f32>], shard: usize) -> Option<Shard> {
        let all = 0..self.owners.len();
        let images: Vec<usize> = all.filter(|&at| self.owners[at] == shard).collect();
        let cells = self.cells();
        let of_image = |image: usize| image * cells..(image + 1) * cells;
        let gallery = (!images.is_empty()).then(|| self.gallery(levels, &images))?;
        let options = ShardOptions {
            ranks: images.iter().map(|&image| image as u32).collect(),
            kept: self.kept.as_ref().map(|kept| {
                let cells = images.iter().flat_map(|&image| of_image(image));
                cells.map(|row| kept[row]).collect()
            }),
            projection: self.projection(),
            threads: NonZero::new(1 + shard % 2),
            // Filters of machines may differ, too.
            instruction_set: Some(InstructionSet::available()[shard % 2]),
        };
        let context = gallery.pyramid_context().unwrap();
        let all = gallery.select(None).unwrap();
        let rows = ShardRows::new(context, all, options, Cancel::NEVER).unwrap();
        let front = Front::default();
        Some(Shard { rows, front })
    }

    fn pick_over_shards(&self, levels: &[Vec<f32>], first: usize) -> (Vec<usize>, f64) {
        let shards = 0..self.n_shards();
        let mut shards: Vec<Shard> = shards.filter_map(|at| self.shard(levels, at)).collect();
        let mut owner = shards.iter().map(|shard| shard.rows.values(&[first], true));
        let values = owner.find_map(Result::ok).unwrap();
        let sample: Vec<f32> = shards
            .iter()
            .flat_map(|shard| shard.rows.sample_of_values(50))
            .collect();
        let whole = Whole {
            n_shards: NonZero::new(shards.len()).unwrap(),
            n_rows: NonZero::new(self.n_rows()).unwrap(),
            count: NonZero::new(self.count).unwrap(),
            sample: &sample,
            instruction_set: None,
            round: self.round.and_then(NonZero::new),
        };
        let mut chooser = Chooser::new(&whole, first, &values).unwrap();
        for shard in &mut shards {
            shard.rows.begin(&values, Cancel::NEVER).unwrap();
        }
        let (mut numbers, mut n_forgotten) = (Numbers(self.seed), 0);
        while chooser.sq_radius().is_none() {
            let step = NonZero::new(chooser.step()).unwrap();
            let mut sample: Vec<f64> = shards
                .iter()
                .flat_map(|shard| shard.rows.sample(step).unwrap())
                .collect();
            let reach = chooser.reach(&mut sample).unwrap();
            let most = NonZero::new(chooser.most()).unwrap();
            for shard in &mut shards {
                if n_forgotten < 4 && numbers.one_in(4) {
                    // As one whose process has died.
                    n_forgotten += 1;
                    let picks = chooser.values_after(0);
                    shard.rows.begin(picks, Cancel::NEVER).unwrap();
                }
                shard.front = shard.rows.front(reach, most, Cancel::NEVER).unwrap();
            }
            let fronts: Vec<Front> = shards.iter().map(|shard| shard.front.clone()).collect();
            let n_picks = chooser.rows().len();
            let shown = chooser.choose(&fronts, Cancel::NEVER).unwrap();
            for (shard, Shown { sq, seen }) in shards.iter_mut().zip(&shown) {
                let picks = chooser.values_after(n_picks);
                let rows = &shard.front.rows;
                shard.rows.advance(picks, rows, sq, seen).unwrap();
            }
        }
        (chooser.rows().to_vec(), chooser.sq_radius().unwrap())
    }

    fn check(&self) -> Picks {
        let levels = features(self.kind, self.seed, self.owners.len(), &self.shapes);
        let images: Vec<usize> = (0..self.owners.len()).collect();
        let gallery = self.gallery(&levels, &images);
        let kept: Vec<usize> = (0..self.n_rows())
            .filter(|&row| self.is_kept(row))
            .collect();
        let first = kept[(self.seed % kept.len() as u64) as usize];
        let projection = self.projection();
        let options = PickOptions {
            first: ((first / self.cells()) as u32, (first % self.cells()) as u32),
            kept: self.kept.as_deref(),
            projection: projection.as_deref(),
            ..PickOptions::new(self.count.min(kept.len()))
        };
        let all = gallery.select(None).unwrap();
        let expected = pick(&gallery.pyramid_context().unwrap(), &all, &options).unwrap();
        let case = Self {
            count: self.count.min(kept.len()),
            ..self.clone()
        };
        let (rows, sq_radius) = case.pick_over_shards(&levels, first);
        let places = expected.ranks.iter().zip(&expected.cells);
        let numbers = places.map(|(&rank, &cell)| rank as usize * self.cells() + cell as usize);
        assert_eq!(rows, numbers.collect::<Vec<_>>(), "{self:?}");
        assert_eq!(
            sq_radius.to_bits(),
            expected.sq_radius.to_bits(),
            "{self:?}"
        );
        expected
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let shapes = prop_oneof![
        (1..=7_usize, 1..=7_usize, 1..=40_usize).prop_map(|shape| vec![shape]),
        (1..=3_usize, 1..=3_usize, 1..=20_usize)
            .prop_map(|(h, w, n)| vec![(2 * h, 2 * w, n), (h, w, 5)]),
    ];
    let owners = prop::collection::vec(0..5_usize, 1..=9);
    let round = prop::option::of(prop::sample::select(vec![1_usize, 3, 20, 100]));
    let others = (
        prop::sample::select(vec![DType::F32, DType::I8]),
        prop::option::weighted(0.2, 1..=9_usize),
        round,
        prop::bool::weighted(0.3),
    );
    (
        shapes,
        prop::sample::select(KINDS.to_vec()),
        owners,
        (any::<u64>(), 0.0..=1.0_f64),
        others,
    )
        .prop_map(
            |(shapes, kind, owners, (seed, share), (dtype, projected, round, is_masked))| {
                let mut case = Case::new(&shapes, kind, &owners, 1);
                case.count = 1 + (share * (case.n_rows() - 1) as f64) as usize;
                let mut numbers = Numbers(seed);
                let kept = (0..case.n_rows()).map(|row| row == 0 || !numbers.one_in(3));
                case.kept = is_masked.then(|| kept.collect());
                Case {
                    dtype,
                    projected,
                    round,
                    seed,
                    ..case
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shards_pick_what_one_gallery_picks(case in cases()) {
        case.check();
    }
}

/// Many picks, so that shards cut their fronts, and rows that were left behind come first again.
#[test]
fn every_kind_of_feature() {
    for kind in KINDS {
        for owners in [vec![0; 6], vec![0, 1, 2, 0, 1, 2], vec![0, 1, 1, 1, 1, 6]] {
            for round in [None, Some(40), Some(400)] {
                let mut case = Case::new(&[(16, 16, 20), (8, 8, 24)], kind, &owners, 300);
                case.round = round;
                case.check();
            }
        }
    }
}

#[test]
fn it_ends_where_all_else_coincides_with_picks() {
    let case = Case::new(&[(6, 8, 12)], Kind::Constant, &[0, 1, 0], 144);
    let picks = case.check();
    assert_eq!((picks.ranks.len(), picks.sq_radius), (3, 0.0));
}

#[test]
fn what_does_not_fit_is_said() {
    let case = Case::new(&[(4, 4, 3)], Kind::Uniform, &[0, 1, 0], 5);
    let levels = features(case.kind, 1, 3, &case.shapes);
    let mut shard = case.shard(&levels, 0).unwrap().rows;
    let one = NonZero::new(1).unwrap();
    let unready = shard.front(1.0, one, Cancel::NEVER).unwrap_err();
    assert_eq!(
        unready.to_string(),
        "picks: expected the first one before others"
    );
    assert!(shard.sample(one).is_err());
    assert!(shard.advance(&[], &[], &[], &[]).is_err());
    assert!(shard.begin(&[], Cancel::NEVER).is_err());
    assert!(shard.begin(&[1.0; 4], Cancel::NEVER).is_err());
    let other = shard.values(&[16], true).unwrap_err().to_string();
    assert_eq!(other, "rows: there is no row 16 in this shard");
    let values = shard.values(&[32], true).unwrap();
    shard.begin(&values, Cancel::NEVER).unwrap();
    assert!(shard.advance(&[], &[33], &[1.0], &[2]).is_err());
    assert!(shard.advance(&[], &[33], &[1.0], &[]).is_err());
    assert!(shard.advance(&[], &[17], &[1.0], &[1]).is_err());
    shard.advance(&values, &[33], &[1.0], &[2]).unwrap();

    let gallery = case.gallery(&levels, &[0, 1]);
    let make = |ranks: Vec<u32>, kept: Option<Vec<bool>>| {
        let context = gallery.pyramid_context().unwrap();
        let options = ShardOptions {
            ranks,
            kept,
            ..ShardOptions::default()
        };
        let all = gallery.select(None).unwrap();
        ShardRows::new(context, all, options, Cancel::NEVER).map(|_| ())
    };
    make(vec![3, 7], Some(vec![true; 32])).unwrap();
    for ranks in [vec![], vec![3], vec![7, 3], vec![3, 3]] {
        let error = make(ranks, None).unwrap_err().to_string();
        assert_eq!(error, "ranks: expected one for each of 2 images, in order");
    }
    assert!(make(vec![3, 7], Some(vec![true; 31])).is_err());

    let whole = Whole {
        n_shards: one,
        n_rows: one,
        count: one,
        sample: &[1.0; 4],
        instruction_set: None,
        round: None,
    };
    assert!(Chooser::new(&whole, 0, &values).is_err());
    let whole = Whole {
        sample: &[],
        ..whole
    };
    assert!(Chooser::new(&whole, 0, &[]).is_err());
    let mut chooser = Chooser::new(&whole, 0, &values).unwrap();
    assert!(chooser.reach(&mut []).is_err());
    let short = Front {
        n_rows: 1,
        rows: vec![1],
        ..Front::default()
    };
    assert!(chooser.choose(&[short], Cancel::NEVER).is_err());
}

#[test]
fn a_shard_can_be_cancelled() {
    let case = Case::new(&[(32, 32, 40)], Kind::Uniform, &[0, 0, 0, 0], 5);
    let levels = features(case.kind, 1, 4, &case.shapes);
    let mut shard = case.shard(&levels, 0).unwrap().rows;
    let values = shard.values(&[0], true).unwrap();
    let asked = AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, Ordering::Relaxed) >= 2;
    assert!(shard.begin(&values, Cancel::when(&stop)).is_err());
    shard.begin(&values, Cancel::NEVER).unwrap();
    asked.store(0, Ordering::Relaxed);
    let many = NonZero::new(1000).unwrap();
    assert!(shard.front(0.1, many, Cancel::when(&stop)).is_err());
    let front = shard.front(0.1, many, Cancel::NEVER).unwrap();
    assert!(front.n_rows >= 1000 && !front.rows.is_empty());
}
