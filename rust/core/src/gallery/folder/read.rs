//! Opening a folder for reading.

use super::checksum::Checksum;
use super::journal::{self, Contents};
use super::replay::{State, replay};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::storage::opening::{self, Links, read_pieces};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub(super) const JOURNAL: &str = "journal";

/// Readers try this often to see a journal and its segments while they are being replaced.
const ATTEMPTS: u32 = 100;

/// Opens a folder for reading: as it is, or at an earlier state. Returns the state, too.
///
/// # Errors
/// [`Error::Store`] when it holds no gallery, is damaged, or never had that state.
pub(crate) fn read(
    path: &Path,
    at: Option<Checksum>,
    cancel: Cancel<'_>,
) -> Result<(State, Checksum)> {
    let mut journal = read_journal(path, cancel)?;
    let mut attempt = 1;
    loop {
        let read = parse_at(path, &journal, at, false).and_then(|contents| {
            let chain = contents.end.chain();
            Ok((replay(&Arc::from(path), contents)?.0, chain))
        });
        let error = match read {
            Ok(read) => return Ok(read),
            Err(error) => error,
        };
        // A writer may have replaced the journal meanwhile and deleted segments that it named, or cut
        // off what an interrupted change had left.
        let again = read_journal(path, cancel)?;
        if again == journal || attempt == ATTEMPTS {
            return Err(error);
        }
        journal = again;
        attempt += 1;
        thread::sleep(Duration::from_millis(1));
    }
}

pub(super) fn journal_at(folder: &Path) -> Result<File> {
    opening::to_read(&folder.join(JOURNAL), Links::Refuse).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound if folder.is_dir() => {
                "is not a gallery: it has no journal".into()
            }
            _ => format!("cannot be opened: {error}"),
        };
        Error::store(folder, reason)
    })
}

/// The bytes of a folder's journal. Of the zeros at its end, which mean nothing, only some are kept, as
/// a file may have any number of them without taking room on the disk.
pub(super) fn read_journal(folder: &Path, cancel: Cancel<'_>) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = read_pieces(journal_at(folder)?, cancel, |piece| {
        if !text.ends_with(&[0]) || piece.iter().any(|byte| *byte != 0) {
            text.extend_from_slice(piece);
        }
    })?;
    read.map_err(|error| Error::store(folder, format!("cannot be read: {error}")))?;
    Ok(text)
}

/// What stands in a journal, up to the line with the checksum `at` if there is one.
pub(super) fn parse_at(
    path: &Path,
    journal: &[u8],
    at: Option<Checksum>,
    to_write: bool,
) -> Result<Contents> {
    let contents = journal::parse(journal);
    let contents = contents.and_then(|contents| match at {
        Some(state) => contents.at(state, to_write),
        None => Ok(contents),
    });
    contents.map_err(|reason| Error::store(path, reason))
}
