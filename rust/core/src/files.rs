//! Writing files so that a crash at any moment leaves the old one or the new one.

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes between two looks at whether to stop.
pub(crate) const STEP: usize = 1 << 24;

/// Writes beside `path`, syncs, and renames: a reader sees the old file or the new one. Returns the new
/// one, open for reading and writing.
///
/// # Errors
/// [`Error::Store`] when the file cannot be written, [`Error::Interrupted`]; what was at `path` is
/// then still there.
pub(crate) fn replace_file<'a>(
    path: &Path,
    parts: impl Iterator<Item = &'a [u8]>,
    cancel: Cancel<'_>,
) -> Result<File> {
    let fail = |error: std::io::Error| Error::store(path, format!("cannot be written: {error}"));
    // What a symbolic link points to is replaced, not the link.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if target.is_dir() {
        return Err(Error::store(path, "cannot be written: it is a folder"));
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".knnspect-");
    #[cfg(unix)]
    builder.permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666)); // less the umask
    let file = builder.tempfile_in(folder).map_err(fail)?;
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
    sync_folder(folder);
    Ok(file)
}

/// Makes the names of new and renamed files durable, on the file systems that can.
pub(crate) fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = folder;
}
