//! Tests of the module above.

use super::*;

fn sample(path: &Path) {
    let bytes: Vec<u8> = (0..40).collect();
    let tensors = BTreeMap::from([
        (
            "half".to_owned(),
            Tensor {
                dtype: Dtype::F16,
                shape: vec![3],
                parts: vec![&bytes[..2], &bytes[2..6]],
            },
        ),
        (
            "single".to_owned(),
            Tensor {
                dtype: Dtype::F32,
                shape: vec![2, 3],
                parts: vec![&bytes[6..30]],
            },
        ),
    ]);
    let metadata = BTreeMap::from([("note".to_owned(), "ä \"quoted\" {".to_owned())]);
    write(
        path,
        Links::Follow,
        "sample",
        &metadata,
        &tensors,
        Cancel::NEVER,
    )
    .unwrap();
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ks");
    sample(&path);
    let store = Store::open(&path, Links::Follow, true, Cancel::NEVER).unwrap();
    assert_eq!(store.kind(), "sample");
    assert_eq!(store.entry("note").unwrap(), "ä \"quoted\" {");
    let half = store.tensor("half").unwrap();
    assert_eq!(
        (half.dtype, half.shape.as_slice(), store.bytes(half)),
        (Dtype::F16, &[3][..], &[0, 1, 2, 3, 4, 5][..])
    );
    assert_eq!(store.bytes(store.tensor("single").unwrap())[0], 6);
    assert_eq!(
        store
            .bytes(store.tensor("single").unwrap())
            .as_ptr()
            .align_offset(4),
        0
    );
    assert!(store.tensor("other").is_err());
}

#[test]
fn the_same_contents_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    sample(&a);
    sample(&b);
    assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
}

#[test]
fn every_altered_byte_and_every_truncation_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ks");
    sample(&path);
    let good = std::fs::read(&path).unwrap();
    let other = folder.path().join("b.ks");
    for at in 0..good.len() {
        for flip in [0x01, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            std::fs::write(&other, &bad).unwrap();
            let error = Store::open(&other, Links::Follow, true, Cancel::NEVER)
                .expect_err(&format!("byte {at} flipped by {flip:#x}"));
            assert!(error.to_string().contains("b.ks"), "{error}");
        }
        std::fs::write(&other, &good[..at]).unwrap();
        assert!(
            Store::open(&other, Links::Follow, true, Cancel::NEVER).is_err(),
            "truncated to {at} bytes"
        );
    }
    std::fs::write(&other, [&good[..], b"more"].concat()).unwrap();
    assert!(
        Store::open(&other, Links::Follow, true, Cancel::NEVER)
            .unwrap_err()
            .to_string()
            .contains("truncated or damaged")
    );
}

#[test]
fn a_newer_version_and_a_foreign_file_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ks");
    sample(&path);
    let text = std::fs::read(&path).unwrap();
    let at = text
        .windows(20)
        .position(|w| w == b"\"format_version\":\"1\"")
        .unwrap();
    let mut newer = text.clone();
    newer[at + 18] = b'7';
    std::fs::write(&path, newer).unwrap();
    assert!(
        Store::open(&path, Links::Follow, true, Cancel::NEVER)
            .unwrap_err()
            .to_string()
            .contains("newer knnspect: its format is 7")
    );
    std::fs::write(&path, b"\x02\0\0\0\0\0\0\0{}").unwrap();
    assert!(
        Store::open(&path, Links::Follow, true, Cancel::NEVER)
            .unwrap_err()
            .to_string()
            .contains("not one that knnspect wrote")
    );
    std::fs::write(&path, b"\x89PNG\r\n\x1a\n and so on").unwrap();
    assert!(
        Store::open(&path, Links::Follow, true, Cancel::NEVER)
            .unwrap_err()
            .to_string()
            .contains("not a knnspect file")
    );
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        write(
            &folder.path().join("no/such/folder.ks"),
            Links::Follow,
            "x",
            &BTreeMap::new(),
            &BTreeMap::new(),
            Cancel::NEVER
        )
        .is_err()
    );
    assert!(
        write(
            folder.path(),
            Links::Follow,
            "x",
            &BTreeMap::new(),
            &BTreeMap::new(),
            Cancel::NEVER
        )
        .is_err()
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}
