//! One writer at a time.

use crate::error::{Error, Result};
use crate::storage::opening;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// The name of the file that is locked. It stays; the lock is the kernel's, and ends with the process.
pub(super) const NAME: &str = "lock";

/// Longer than the number of a process and its line end.
const CONTENTS_LIMIT: u64 = 32;

/// The process that has opened something.
///
/// A forked process inherits what its parent has opened, and shares the kernel's lock on it, so that
/// the lock keeps neither from writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u32);

impl Owner {
    pub(crate) fn this_process() -> Self {
        Self(std::process::id())
    }

    pub(crate) fn is_this_process(self) -> bool {
        self == Self::this_process()
    }

    pub(crate) const fn id(self) -> u32 {
        self.0
    }
}

/// The right to change a gallery, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    owner: Owner,
}

impl Drop for Lock {
    /// Gives the lock back even where forked processes still have the file open. These only close it.
    fn drop(&mut self) {
        if self.owner.is_this_process() {
            let _ = self.file.unlock();
        }
    }
}

impl Lock {
    /// Takes the lock of a folder.
    ///
    /// # Errors
    /// [`Error::Store`] when another writer has it, with the number of its process; when the folder
    /// cannot be written, or what is called `lock` is not the file of a lock.
    pub fn take(folder: &Path) -> Result<Self> {
        let fail = |reason: String| Error::store(folder, reason);
        let mut file = open(&folder.join(NAME))
            .map_err(|error| fail(format!("cannot be opened for writing: {error}")))?;
        let mut holder = String::new();
        let read = (&mut file).take(CONTENTS_LIMIT).read_to_string(&mut holder);
        let holder = holder.trim();
        if read.is_err() || !holder.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fail(format!(
                "cannot be opened for writing: its file {NAME} has other contents than the number \
                 of a process"
            )));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = match holder {
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
        Ok(Self {
            file,
            owner: Owner::this_process(),
        })
    }
}

/// Opens the file of a lock, or makes it.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Several may make it at the same time; all of them must come to have the same file.
    match options.read(true).write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => opening::to_write(path),
        opened => opened,
    }
}
