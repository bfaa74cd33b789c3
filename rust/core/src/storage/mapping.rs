//! Files in memory.

use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;

/// A file, mapped read-only. It may be longer than the file is, and the file may grow into it.
///
/// The file must not be cut short, nor what was read be written over, as long as it is mapped: as with
/// every memory-mapped format, reading beyond the end of a file ends the process.
#[derive(Debug)]
pub(crate) struct Mapping(MmapRaw);

impl Mapping {
    /// Maps `len` bytes of a file, of which those that [`slice`](Self::slice) is asked for must be
    /// there by then.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        MmapOptions::new()
            .len(len)
            .map_raw_read_only(file)
            .map(Self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes that are in the file.
    ///
    /// # Panics
    /// When they are not mapped.
    pub(crate) fn slice(&self, start: usize, len: usize) -> &[u8] {
        assert!(
            start <= self.len() && len <= self.len() - start,
            "within the mapping"
        );
        // SAFETY: the bytes are mapped as long as `self` lives, readable, and not written to.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(start), len) }
    }
}
