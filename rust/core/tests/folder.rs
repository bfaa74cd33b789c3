//! Galleries in folders: any sequence of changes leaves what it would leave in memory.

use knnspect_core::gallery::OnConflict;
use knnspect_core::pyramid::{LevelData, PyramidBatch, PyramidShape, Upsample};
use knnspect_core::{Cancel, DType, Error, Gallery, SharedGallery};
use proptest::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A change, of images whose ids are small numbers.
#[derive(Clone, Debug)]
enum Step {
    Add(Vec<u8>),
    Replace(Vec<u8>),
    Remove(Vec<u8>),
    Take(Vec<u8>),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let ids = || prop::collection::vec(0..12_u8, 1..4);
    prop_oneof![
        4 => ids().prop_map(Step::Add),
        2 => ids().prop_map(Step::Replace),
        2 => ids().prop_map(Step::Remove),
        2 => ids().prop_map(Step::Take),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

fn names(ids: &[u8]) -> Vec<String> {
    ids.iter().map(|id| format!("image {id}")).collect()
}

fn shape() -> PyramidShape {
    PyramidShape::new(&[(4, 2, 3), (2, 1, 5)]).unwrap()
}

/// Images of which every value depends on `seed`.
fn with_images<T>(n: usize, seed: usize, work: impl FnOnce(&PyramidBatch<'_>) -> T) -> T {
    let levels: Vec<Vec<f32>> = shape()
        .levels()
        .iter()
        .map(|level| {
            let values = (0..n * level.values()).map(|at| ((at * 31 + seed * 97) % 1009) as f32);
            values.collect()
        })
        .collect();
    let levels = levels.iter().map(|level| LevelData::F32(level)).collect();
    work(&PyramidBatch::new(shape(), n, levels).unwrap())
}

/// A gallery in a folder, of which others take images.
fn source(path: &Path, dtype: DType) -> SharedGallery {
    let source = SharedGallery::create(path, Upsample::Block, dtype).unwrap();
    let add = Step::Add((0..12).collect());
    change(&source, &add, 1000, &source).unwrap();
    source
}

fn change(
    gallery: &SharedGallery,
    step: &Step,
    seed: usize,
    source: &SharedGallery,
) -> Result<(), String> {
    let put = |ids: &[u8], known| {
        with_images(ids.len(), seed, |batch| {
            gallery.add(batch, &names(ids), known, Cancel::NEVER)
        })
    };
    match step {
        Step::Add(ids) => put(ids, OnConflict::Refuse),
        Step::Replace(ids) => put(ids, OnConflict::Replace),
        Step::Remove(ids) => gallery.remove(&names(ids)),
        Step::Take(ids) => gallery.take(source, &names(ids), Cancel::NEVER),
        Step::Compact => gallery.compact(Cancel::NEVER),
        Step::Reopen => Ok(()),
    }
    .map_err(|error| error.to_string())
}

/// The ids, and all values of all images.
fn contents(gallery: &SharedGallery) -> Vec<(String, Vec<f32>)> {
    gallery.read(|gallery| {
        let image = |id: &str| {
            let image = gallery.image(id).unwrap();
            let mut values = Vec::new();
            for level in image.levels() {
                let start = values.len();
                values.resize(start + level.len(), 0.0);
                level.decode_into(&mut values[start..]);
            }
            (id.to_owned(), values)
        };
        gallery.ids().map(image).collect()
    })
}

fn open(path: &Path, write: bool) -> SharedGallery {
    let gallery = SharedGallery::open(path, write, Cancel::NEVER).unwrap();
    gallery.verify(Cancel::NEVER).unwrap();
    gallery
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_is_as_a_gallery_in_memory(
        steps in prop::collection::vec(step(), 1..25),
        dtype in prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::I8)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gallery");
        let source = source(&folder.path().join("source"), dtype);
        let memory = SharedGallery::from(Gallery::new(Upsample::Block, dtype));
        let mut disk = SharedGallery::create(&path, Upsample::Block, dtype).unwrap();
        for (seed, step) in steps.iter().enumerate() {
            if matches!(step, Step::Reopen) {
                drop(disk);
                disk = open(&path, true);
            }
            let there = change(&disk, step, seed, &source);
            let here = change(&memory, step, seed, &source);
            match (&there, &here) {
                (Ok(()), Ok(())) => {}
                (Err(there), Err(here)) => prop_assert!(there.ends_with(here.as_str())),
                _ => prop_assert!(false, "{step:?}: {there:?}, in memory {here:?}"),
            }
            prop_assert_eq!(contents(&disk), contents(&memory));
            prop_assert_eq!(contents(&open(&path, false)), contents(&memory));
        }
        prop_assert_eq!(disk.read(Gallery::n_bytes), memory.read(Gallery::n_bytes));
    }
}

#[test]
fn an_interrupted_change_leaves_the_gallery_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gallery");
    let gallery = SharedGallery::create(&path, Upsample::Block, DType::F32).unwrap();
    let source = source(&folder.path().join("source"), DType::F32);
    change(&gallery, &Step::Add((0..9).collect()), 1, &source).unwrap();
    change(&gallery, &Step::Remove(vec![2]), 0, &source).unwrap();
    let before = contents(&gallery);
    let bytes = || {
        let entries = std::fs::read_dir(&path).unwrap().flatten();
        let mut files: Vec<_> = entries
            .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    let files = bytes();
    let mut interrupted = 0;
    for patience in 0.. {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= patience;
        let ids = names(&[20, 21, 22]);
        let added = with_images(3, 5, |batch| {
            gallery.add(batch, &ids, OnConflict::Refuse, Cancel::when(&stop))
        });
        let taken = gallery.take(&source, &names(&[9, 10, 11]), Cancel::when(&stop));
        let compacted = gallery.compact(Cancel::when(&stop));
        let changes = [added, taken, compacted];
        let is_interrupted = |change: &_| matches!(change, Err(Error::Interrupted));
        if !changes.iter().all(is_interrupted) {
            assert!(changes.iter().any(Result::is_ok), "{changes:?}");
            break;
        }
        interrupted += 1;
        assert_eq!(bytes(), files, "nothing is left behind");
        assert_eq!(contents(&gallery), before);
    }
    assert!(interrupted > 3, "between any two images");
    open_again(gallery, &path);
}

fn open_again(gallery: SharedGallery, path: &Path) {
    let contents_before = contents(&gallery);
    drop(gallery);
    assert_eq!(contents(&open(path, true)), contents_before);
}
