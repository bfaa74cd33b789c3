//! Writing files so that a crash at any moment leaves the old one or the new one.

use super::opening::{self, Links};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// Bytes between two looks at whether to stop.
pub(crate) const STEP: usize = 1 << 24;

/// What the names of files begin with that are being written. Each is locked by its writer, so that
/// one without a lock was left by a process that was killed.
const TEMPORARY: &str = ".knnspect-";

/// A folder to which many files are written is searched for left ones in this part of the time.
const SWEEP_SHARE: u32 = 100;

/// Writes beside `path`, syncs, and renames: a reader sees the old file or the new one. A file that is
/// replaced passes on its permissions, and its owner where possible. Returns the new one, open for
/// reading and writing.
///
/// What killed processes have left in the folder is deleted.
///
/// # Errors
/// [`Error::Store`] when the file cannot be written, or there is something that is not a regular
/// file; [`Error::Interrupted`]. What was at `path` is then still there.
pub fn replace_file<'a>(
    path: &Path,
    links: Links,
    parts: impl Iterator<Item = &'a [u8]>,
    cancel: Cancel<'_>,
) -> Result<File> {
    let fail = |error: io::Error| Error::store(path, format!("cannot be written: {error}"));
    let target = match links {
        // What the link points to is replaced, not the link.
        Links::Follow => std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        Links::Refuse => path.to_owned(),
    };
    let replaced = match std::fs::symlink_metadata(&target) {
        // A link that leads nowhere; the new file takes its place.
        Ok(about) if about.is_symlink() && links == Links::Follow => None,
        Ok(about) => {
            opening::check(&target, &about).map_err(fail)?;
            Some(about)
        }
        Err(_) => None,
    };
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sweep(folder);
    let file = temporary(folder, replaced.as_ref()).map_err(fail)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    for piece in parts.flat_map(|part| part.chunks(STEP)) {
        cancel.check()?;
        writer.write_all(piece).map_err(fail)?;
    }
    let file = writer
        .into_inner()
        .map_err(|error| fail(error.into_error()))?;
    file.as_file().sync_all().map_err(fail)?;
    cancel.check()?;
    let file = file.persist(&target).map_err(|error| fail(error.error))?;
    // It has its own name now.
    let _ = file.unlock();
    sync_folder(folder);
    Ok(file)
}

/// A new file in a folder, locked, with the permissions of the one that it is to replace.
fn temporary(folder: &Path, replaced: Option<&Metadata>) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    #[cfg(unix)]
    {
        // Of a new file: all that the umask leaves. Of others: nothing, until they are set.
        let mode = if replaced.is_some() { 0o600 } else { 0o666 };
        builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode));
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        // Another process may have found it, to delete it, before it was locked: then it is gone, or will be.
        match file.as_file().try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            Ok(()) if !is_linked(file.as_file()) => continue,
            // Where nothing can be locked, nothing is swept either.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if let Some(replaced) = replaced {
            keep_owner_and_mode(file.as_file(), replaced)?;
        }
        return Ok(file);
    }
}

#[cfg(unix)]
fn is_linked(file: &File) -> bool {
    let about = file.metadata();
    about.is_ok_and(|about| std::os::unix::fs::MetadataExt::nlink(&about) > 0)
}

#[cfg(not(unix))]
fn is_linked(_: &File) -> bool {
    true
}

#[cfg(unix)]
fn keep_owner_and_mode(file: &File, replaced: &Metadata) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let (owner, group) = (replaced.uid(), replaced.gid());
    let about = file.metadata()?;
    if (about.uid(), about.gid()) != (owner, group) {
        // Only root may give files away; others may have the group.
        let _ = fchown(file, Some(owner), Some(group)).or_else(|_| fchown(file, None, Some(group)));
    }
    file.set_permissions(Permissions::from_mode(replaced.mode() & 0o777))
}

#[cfg(not(unix))]
fn keep_owner_and_mode(file: &File, replaced: &Metadata) -> io::Result<()> {
    file.set_permissions(replaced.permissions())
}

/// Deletes what killed processes have left in a folder; what cannot be deleted does no harm.
fn sweep(folder: &Path) {
    /// The folder that was last searched, when, and for how long.
    static LAST: Mutex<Option<(PathBuf, Instant, Duration)>> = Mutex::new(None);
    // Not waited for: in a forked process there may be no thread left that would give it back.
    let mut last = LAST.try_lock();
    if let Ok(last) = &last
        && let Some((swept, begun, took)) = &**last
        && swept == folder
        && begun.elapsed() < *took * SWEEP_SHARE
    {
        return;
    }
    let begun = Instant::now();
    delete_left(folder, |_| false);
    if let Ok(last) = &mut last {
        **last = Some((folder.to_owned(), begun, begun.elapsed()));
    }
}

/// Deletes the temporary files in a folder that have no writer any more, and those that `is_left`
/// says.
pub(crate) fn delete_left(folder: &Path, is_left: impl Fn(&OsStr) -> bool) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if is_left(&name) {
            let _ = std::fs::remove_file(&path);
        } else if is_temporary(&name)
            && let Ok(file) = opening::to_read(&path, Links::Refuse)
            && file.try_lock().is_ok()
        {
            // Its lock is held until it is gone, so that no writer goes on with it.
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Whether a name is one of a file that is being written.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(TEMPORARY)
}

/// Makes the names of new and renamed files durable, on the file systems that can.
pub(crate) fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = folder;
}
