//! Writing the records of one change.

use super::checksum::{Checksum, hex};
use super::journal::Run;
use super::record::{RecordLayout, RecordPlace};
use super::segment::{self, Segment, Tail};
use crate::error::{Error, Result};
use crate::gallery::image::StoredImage;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Appends records to the last segment and to new ones.
pub(super) struct Writer<'a> {
    folder: &'a Arc<Path>,
    layout: &'a RecordLayout,
    /// The segments written to, the one that grows last.
    tails: Vec<Tail>,
    pub next_number: u32,
    /// What the journal is to say of it.
    pub runs: Vec<Run>,
}

impl<'a> Writer<'a> {
    /// Goes on with `tail`, if there is one, and with new segments from `next_number` on.
    pub(super) fn new(
        folder: &'a Arc<Path>,
        layout: &'a RecordLayout,
        next_number: u32,
        tail: Option<Tail>,
    ) -> Self {
        Self {
            folder,
            layout,
            tails: tail.into_iter().collect(),
            next_number,
            runs: Vec::new(),
        }
    }

    /// Writes records, each with its id and checksum, and syncs them; returns them as images.
    pub(super) fn write_all<'b, R: AsRef<[u8]>>(
        &mut self,
        records: impl Iterator<Item = Result<(&'b str, Checksum, R)>>,
    ) -> Result<BTreeMap<String, Arc<StoredImage>>> {
        let mut images = BTreeMap::new();
        for record in records {
            let (id, checksum, record) = record?;
            let image = self.write(id, checksum, record.as_ref())?;
            images.insert(id.to_owned(), Arc::new(image));
        }
        for tail in &self.tails {
            let synced = tail.sync();
            synced.map_err(|error| cannot_write(self.folder, &error))?;
        }
        Ok(images)
    }

    fn write(&mut self, id: &str, checksum: Checksum, record: &[u8]) -> Result<StoredImage> {
        let fail = |error: io::Error| cannot_write(self.folder, &error);
        if self.tails.last().is_none_or(Tail::is_full) {
            let next_number = after(self.next_number).map_err(fail)?;
            let tail = Tail::open(self.folder, self.next_number, self.layout.clone(), 0);
            self.tails.push(tail.map_err(fail)?);
            self.next_number = next_number;
        }
        let tail = self.tails.last_mut().expect("there is one now");
        let (mapping, record) = tail.write(record).map_err(fail)?;
        let place = RecordPlace {
            segment: tail.number,
            record,
        };
        add_to_runs(&mut self.runs, place, id, checksum);
        let name = (self.folder, id);
        Ok(StoredImage::in_record(
            &mapping,
            self.layout,
            place,
            name,
            checksum,
        ))
    }

    /// The change is in the journal.
    pub(super) fn commit(self, segments: &mut BTreeMap<u32, Segment>) -> Option<Tail> {
        let mut last = None;
        for mut tail in self.tails {
            tail.commit();
            let segment = Segment {
                layout: tail.layout.clone(),
                n_records: tail.n_records,
            };
            segments.insert(tail.number, segment);
            last = Some(tail);
        }
        last
    }

    /// The change is not made: takes back what was written.
    pub(super) fn undo(self) -> Option<Tail> {
        let mut first = None;
        for mut tail in self.tails {
            tail.undo();
            if tail.n_records > 0 {
                first = Some(tail);
            } else {
                // Where this fails, the process that opens the folder next does it.
                let _ = std::fs::remove_file(segment::path(self.folder, tail.number));
            }
        }
        first
    }
}

/// The number of the segment after this one.
///
/// # Errors
/// When there is none.
pub(super) fn after(number: u32) -> io::Result<u32> {
    let none = || io::Error::other("there are no numbers left for its files");
    number.checked_add(1).ok_or_else(none)
}

/// Adds a record to the runs, which are in the order of their places.
pub(super) fn add_to_runs(runs: &mut Vec<Run>, place: RecordPlace, id: &str, checksum: Checksum) {
    let follows = runs.last().is_some_and(|run| {
        run.segment == place.segment && run.first + run.ids.len() == place.record
    });
    if !follows {
        runs.push(Run {
            segment: place.segment,
            first: place.record,
            ids: Vec::new(),
            checksums: Vec::new(),
        });
    }
    if let Some(run) = runs.last_mut() {
        run.ids.push(id.to_owned());
        run.checksums.push(hex(checksum));
    }
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::store(path, format!("cannot be written: {error}"))
}
