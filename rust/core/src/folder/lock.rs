//! One writer at a time.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The name of the file that is locked. It stays; the lock is the kernel's, and ends with the process.
pub(super) const NAME: &str = "lock";

/// The right to change a gallery, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a folder.
    ///
    /// # Errors
    /// [`Error::Store`] when another writer has it, with the number of its process; when the folder
    /// cannot be written.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let fail = |reason: String| Error::store(folder, reason);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(folder.join(NAME))
            .map_err(|error| fail(format!("cannot be opened for writing: {error}")))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => String::new(),
                    id if id == std::process::id().to_string() => " by this process".into(),
                    id => format!(" by process {id}"),
                };
                return Err(fail(format!(
                    "is open for writing{holder}: close it there first, or open it for reading"
                )));
            }
            Err(TryLockError::Error(error)) => {
                return Err(fail(format!("cannot be locked: {error}")));
            }
        }
        // For the message above only; that it cannot be written does not matter.
        let id = format!("{}\n", std::process::id());
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(id.as_bytes()));
        Ok(Self { _file: file })
    }
}
