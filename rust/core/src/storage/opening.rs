//! Opening files: regular ones only, and without ever waiting.
//!
//! What stands in a folder may have come out of an archive: a symbolic link would lead a
//! writer to a file of the user's, opening a FIFO waits for another process, and a device may have no
//! end.

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Whether the last part of a path may be a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// For paths that the user gave.
    Follow,
    /// For names in a folder.
    Refuse,
}

/// Opens a regular file for reading.
///
/// # Errors
/// When it cannot be opened, or is something else; the message says what.
pub(crate) fn to_read(path: &Path, links: Links) -> io::Result<File> {
    open(path, OpenOptions::new().read(true), links)
}

/// Opens a regular file that has no other name for changing it in place.
///
/// # Errors
/// When it cannot be opened, or is something else; the message says what.
pub(crate) fn to_write(path: &Path) -> io::Result<File> {
    let file = open(
        path,
        OpenOptions::new().read(true).write(true),
        Links::Refuse,
    )?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1 {
        return Err(io::Error::other(format!(
            "{} has another name (a hard link), and that file would be changed, too",
            name(path)
        )));
    }
    Ok(file)
}

/// Makes a file, and opens it for reading and writing. A regular file that is there is deleted.
///
/// # Errors
/// When it cannot be made; when there is something that is not a regular file.
pub(crate) fn new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Never follows a link, and fails for all that is there.
    options.read(true).write(true).create_new(true);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check(path, &std::fs::symlink_metadata(path)?)?;
            std::fs::remove_file(path)?;
            options.open(path)
        }
        opened => opened,
    }
}

fn open(path: &Path, options: &mut OpenOptions, links: Links) -> io::Result<File> {
    // Looked at before it is opened, as opening a device may do something.
    let about = match links {
        Links::Follow => std::fs::metadata(path)?,
        Links::Refuse => std::fs::symlink_metadata(path)?,
    };
    check(path, &about)?;
    #[cfg(unix)]
    {
        let no_links = match links {
            Links::Follow => 0,
            Links::Refuse => libc::O_NOFOLLOW,
        };
        // Something else may have come there meanwhile.
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            options,
            libc::O_NONBLOCK | libc::O_NOCTTY | no_links,
        );
    }
    let file = options.open(path)?;
    check(path, &file.metadata()?)?;
    Ok(file)
}

/// Checks that something is a regular file.
///
/// # Errors
/// When it is not; the message says what it is.
pub(crate) fn check(path: &Path, about: &Metadata) -> io::Result<()> {
    let kind = about.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let mut what = "something else";
    if kind.is_dir() {
        what = "a folder";
    } else if kind.is_symlink() {
        what = "a symbolic link";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            what = "a FIFO";
        } else if kind.is_socket() {
            what = "a socket";
        } else if kind.is_char_device() || kind.is_block_device() {
            what = "a device";
        }
    }
    Err(io::Error::other(format!(
        "expected a regular file, {} is {what}",
        name(path)
    )))
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

/// Reads a whole regular file of up to `limit` bytes.
///
/// # Errors
/// [`Error::Store`] when it cannot be read, is larger, or is not a regular file;
/// [`Error::Interrupted`].
pub fn read_file(path: &Path, links: Links, limit: u64, cancel: Cancel<'_>) -> Result<Vec<u8>> {
    let fail = |error: io::Error| Error::store(path, format!("cannot be opened: {error}"));
    let file = to_read(path, links).map_err(fail)?;
    let mut contents = Vec::new();
    read_pieces(file.take(limit.saturating_add(1)), cancel, |piece| {
        contents.extend_from_slice(piece);
    })?
    .map_err(fail)?;
    if contents.len() as u64 > limit {
        let reason = format!("cannot be opened: expected at most {limit} bytes, it has more");
        return Err(Error::store(path, reason));
    }
    Ok(contents)
}

/// Hands over the bytes of a file piece by piece.
///
/// # Errors
/// [`Error::Interrupted`]; within, what reading says.
pub(crate) fn read_pieces(
    mut file: impl Read,
    cancel: Cancel<'_>,
    mut keep: impl FnMut(&[u8]),
) -> Result<io::Result<()>> {
    const PIECE: usize = 1 << 18;
    let mut piece = vec![0; PIECE];
    loop {
        cancel.check()?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(Ok(())),
            Ok(n) => keep(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn refusals(path: &Path) -> [String; 3] {
        [
            to_read(path, Links::Refuse).unwrap_err().to_string(),
            to_write(path).unwrap_err().to_string(),
            new(path).unwrap_err().to_string(),
        ]
    }

    #[test]
    fn what_is_not_a_regular_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("victim"), "precious").unwrap();
        symlink(at("victim"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for (name, what) in [
            ("link", "link is a symbolic link"),
            ("dangling", "dangling is a symbolic link"),
            ("folder", "folder is a folder"),
            ("socket", "socket is a socket"),
        ] {
            for refusal in refusals(&at(name)) {
                assert_eq!(refusal, format!("expected a regular file, {what}"));
            }
        }
        let device = refusals(Path::new("/dev/zero"));
        assert!(
            device
                .iter()
                .all(|refusal| refusal.ends_with("is a device"))
        );
        assert!(to_read(Path::new("/dev/zero"), Links::Follow).is_err());
        assert!(to_read(&at("link"), Links::Follow).is_ok());
        assert_eq!(std::fs::read(at("victim")).unwrap(), b"precious");
        assert!(!at("nothing").exists());
    }

    #[test]
    fn a_file_with_two_names_is_not_changed_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        std::fs::write(&one, "precious").unwrap();
        to_write(&one).unwrap();
        std::fs::hard_link(&one, &other).unwrap();
        let refusal = to_write(&other).unwrap_err().to_string();
        assert!(refusal.starts_with("other has another name"), "{refusal}");
        new(&other).unwrap(); // a file of its own takes its place
        assert_eq!(std::fs::read(one).unwrap(), b"precious");
    }

    #[test]
    fn a_file_beyond_the_limit_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 100]).unwrap();
        let read = |limit| read_file(&path, Links::Follow, limit, Cancel::NEVER);
        assert_eq!(read(100).unwrap(), [7; 100]);
        let refusal = read(99).unwrap_err().to_string();
        assert!(refusal.contains("at most 99 bytes"), "{refusal}");
        let stopped = read_file(&path, Links::Follow, 100, Cancel::when(&|| true));
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
