//! The files of a gallery's folder that hold features: records of one size, one after the other.

use super::record::RecordLayout;
use crate::storage::Mapping;
use crate::storage::atomic::sync_folder;
use crate::storage::opening::{self, Links};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment grows to about this many bytes, and is mapped whole, before it has them.
const CAPACITY: usize = 1 << 28;

/// The path of a segment.
pub(super) fn path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("features-{number:08}"))
}

/// The number of the segment of this name.
pub(super) fn number(name: &str) -> Option<u32> {
    name.strip_prefix("features-")?.parse().ok()
}

/// Maps `n_records` records of a segment for reading.
///
/// # Errors
/// When it cannot be opened, or is shorter.
pub(super) fn map(path: &Path, n_records: usize, stride: usize) -> io::Result<Arc<Mapping>> {
    let file = opening::to_read(path, Links::Refuse)?;
    let len = n_records
        .checked_mul(stride)
        .filter(|len| *len as u64 <= file.metadata().map_or(0, |about| about.len()))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("it is shorter than its {n_records} images"),
            )
        })?;
    Ok(Arc::new(Mapping::new(&file, len)?))
}

/// A segment, as the journal describes it.
#[derive(Debug)]
pub(super) struct Segment {
    pub layout: RecordLayout,
    pub n_records: usize,
}

/// The segment that records are appended to.
#[derive(Debug)]
pub(super) struct Tail {
    pub number: u32,
    pub layout: RecordLayout,
    /// Records that are in the journal.
    pub n_records: usize,
    file: File,
    mapping: Arc<Mapping>,
    /// Records written; those beyond the journal's are not there for anybody yet.
    n_written: usize,
}

impl Tail {
    /// Goes on with a segment of so many records, or begins one; what an interrupted change has left
    /// beyond them is cut off.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn open(
        folder: &Path,
        number: u32,
        layout: RecordLayout,
        n_records: usize,
    ) -> io::Result<Self> {
        let path = path(folder, number);
        let file = if n_records == 0 {
            // What an interrupted change has left goes.
            let file = opening::new(&path)?;
            sync_folder(folder);
            file
        } else {
            let file = opening::to_write(&path)?;
            file.set_len((n_records * layout.stride) as u64)?;
            file
        };
        // Beyond the end of the file, so that what is appended need not be mapped anew: a process may
        // not have very many mappings.
        let len = CAPACITY.max((n_records + 1) * layout.stride);
        Ok(Self {
            number,
            n_records,
            mapping: Arc::new(Mapping::new(&file, len)?),
            file,
            n_written: n_records,
            layout,
        })
    }

    /// Whether the next record belongs into another segment.
    pub(super) const fn is_full(&self) -> bool {
        (self.n_written + 1) * self.layout.stride > CAPACITY && self.n_written > 0
    }

    /// Appends a record, and returns the mapping in which it will be read, and its number.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&mut self, record: &[u8]) -> io::Result<(Arc<Mapping>, usize)> {
        let number = self.n_written;
        let start = number * self.layout.stride;
        self.file.seek(SeekFrom::Start(start as u64))?;
        self.file.write_all(record)?;
        self.n_written += 1;
        if start + record.len() > self.mapping.len() {
            self.mapping = Arc::new(Mapping::new(&self.file, start + record.len())?);
        }
        Ok((Arc::clone(&self.mapping), number))
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The records written are in the journal now.
    pub(super) const fn commit(&mut self) {
        self.n_records = self.n_written;
    }

    /// Takes back what is not in the journal.
    pub(super) fn undo(&mut self) {
        self.n_written = self.n_records;
        // Where this fails, the next record is written over what is left.
        let _ = self
            .file
            .set_len((self.n_records * self.layout.stride) as u64);
    }
}
