//! Tests of the module above.

use super::super::checksum::from_hex;
use super::*;

fn sample() -> Vec<u8> {
    let add = |segment, id: &str| Change {
        add: vec![Run {
            segment,
            first: 0,
            ids: vec![id.into()],
            checksums: vec![hex([segment as u8; 16])],
        }],
        ..Change::default()
    };
    let remove = Change {
        remove: vec!["ok\n".into()],
        ..Change::default()
    };
    let header = Header::new("bilinear", "float32");
    text(&header, &[add(1, "ok\n"), remove, add(2, "ä")]).0
}

#[test]
fn what_is_written_is_read() {
    let contents = parse(&sample()).unwrap();
    assert_eq!(contents.header.upsample, "bilinear");
    assert_eq!(contents.changes.len(), 3);
    assert_eq!(contents.changes[1].remove, ["ok\n"]);
    let run = &contents.changes[2].add[0];
    assert_eq!(from_hex(&run.checksums[0]), Some([2; 16]));
    assert_eq!(contents.end.len, sample().len() as u64);
}

#[test]
fn a_newer_version_and_another_format_are_refused() {
    let mut header = Header::new("bilinear", "float32");
    header.format_version = VERSION + 1;
    let newer = parse(&text(&header, &[]).0).unwrap_err();
    assert!(
        newer.contains("a newer knnspect: its format is 2"),
        "{newer}"
    );
    header.format = "other".into();
    let other = parse(&text(&header, &[]).0).unwrap_err();
    assert!(other.contains("not a gallery"), "{other}");
}

#[test]
fn every_altered_byte_is_noticed() {
    let good = sample();
    for at in 0..good.len() {
        for flip in [0x01, 0x20, 0x80, good[at], good[at] ^ b'\n'] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            if flip != 0 {
                parse(&bad).expect_err(&format!("byte {at} flipped by {flip:#x}"));
            }
        }
    }
}

#[test]
fn a_journal_that_was_cut_short_is_one_of_before() {
    let good = sample();
    let ends: Vec<usize> = (0..good.len())
        .filter(|at| good[..*at].ends_with(b"}\n"))
        .collect();
    for at in ends[0]..=good.len() {
        let contents = parse(&good[..at]).unwrap();
        let whole = ends.iter().filter(|end| **end <= at).count();
        assert_eq!(contents.changes.len(), whole - 1, "cut to {at} bytes");
        // The disk may have made room for what was never written.
        let contents = parse(&[&good[..at], &[0; 50]].concat()).unwrap();
        assert_eq!(contents.changes.len(), whole - 1, "zeros from byte {at}");
    }
    assert!(
        parse(&good[..ends[0] - 1]).is_err(),
        "half of the first line"
    );
}

#[test]
fn what_a_crash_has_left_is_cut_off_and_the_next_change_is_read() {
    let good = sample();
    for left in [&b""[..], b"o", b"0123 half a li"] {
        for start in [good.len(), good.len() - MARK.len()] {
            let marked = start == good.len();
            if left.starts_with(b"0") && !marked {
                continue; // nothing is written before the mark of what was
            }
            let bytes = [
                &good[..start],
                if marked && left == b"o" { b"" } else { left },
            ];
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes.concat()).unwrap();
            let contents = parse(&bytes.concat()).unwrap();
            let mut journal = Journal::go_on(file, contents.end).unwrap();
            journal.append(&Change::default()).unwrap();
            let mut text = Vec::new();
            journal.file.seek(SeekFrom::Start(0)).unwrap();
            io::Read::read_to_end(&mut journal.file, &mut text).unwrap();
            assert_eq!(parse(&text).unwrap().changes.len(), 4);
        }
    }
}

#[test]
fn a_state_is_found_by_the_checksum_of_its_line_or_of_what_it_compacts() {
    let contents = || parse(&sample()).unwrap();
    let chains: Vec<Checksum> = contents().ends.iter().map(|end| end.chain).collect();
    assert_eq!(chains.len(), 4);
    for (line, chain) in chains.iter().enumerate() {
        let at = contents().at(*chain, false).unwrap();
        assert_eq!((at.changes.len(), at.end.chain), (line, *chain));
        let to_write = contents().at(*chain, true);
        assert_eq!(to_write.is_ok(), line >= 2, "more than one change follows");
    }
    contents().at([7; 16], false).unwrap_err();

    let change = Change {
        compacts: Some(hex([7; 16])),
        ..Change::default()
    };
    let header = Header::new("bilinear", "float32");
    let more = [change, Change::default()];
    let compacted = parse(&text(&header, &more).0).unwrap();
    assert_eq!(compacted.at([7; 16], true).unwrap().changes.len(), 1);
    let empty = Header {
        compacts: Some(hex([7; 16])),
        ..header
    };
    let compacted = parse(&text(&empty, &more[1..]).0).unwrap();
    assert_eq!(compacted.at([7; 16], true).unwrap().changes.len(), 0);
}
