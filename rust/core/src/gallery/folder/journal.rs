//! The journal of a gallery's folder: what was added and removed, one line per change.
//!
//! ```text
//! HASH {"format":"knnspect gallery",…}
//! ok
//! HASH {"add":[…]}
//! ok
//! ```
//!
//! A line begins with the checksum of the line before it and of its own JSON, so that none can be
//! altered, left out or moved. A change is made when its line is on the disk; only then the mark `ok`
//! is written after it. What follows the last line that is right was therefore never promised to
//! anybody, unless a mark follows: then it was, and the journal is damaged. JSON has no line ends of
//! its own, so a line that was cut short holds no mark.

use super::checksum::{Checksum, first_half, hex};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

const MARK: &[u8] = b"ok\n";
const FORMAT: &str = "knnspect gallery";
/// The newest that is read.
const VERSION: u32 = 1;

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Header {
    format: String,
    format_version: u32,
    pub upsample: String,
    pub dtype: String,
    /// Segments that are made from here on have this number or a higher one: a reader that still has
    /// an older journal must not take them for others that were deleted.
    pub next_segment: u32,
    /// See [`Change::compacts`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacts: Option<String>,
}

impl Header {
    pub(super) fn new(upsample: &str, dtype: &str) -> Self {
        Self {
            format: FORMAT.into(),
            format_version: VERSION,
            upsample: upsample.into(),
            dtype: dtype.into(),
            next_segment: 1,
            compacts: None,
        }
    }
}

/// A change: what is removed, and then what is added.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Change {
    /// `(height, width, channels)` of each level, from here on; given when the gallery was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<(usize, usize, usize)>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Run>,
    /// On the last line that compacting wrote: the checksum of the last line of the journal before, which
    /// had left the same images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacts: Option<String>,
}

/// Images that follow each other in a segment.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Run {
    pub segment: u32,
    /// Which record of the segment the first one is.
    pub first: usize,
    pub ids: Vec<String>,
    /// The checksums of their records, 32 digits each.
    pub checksums: Vec<String>,
}

/// What stands in a journal.
#[derive(Debug)]
pub(super) struct Contents {
    pub header: Header,
    pub changes: Vec<Change>,
    /// Where the last line ends, what the next one is chained to, and whether it has its mark.
    pub end: End,
    /// The ends of all lines, the header's first.
    ends: Vec<End>,
}

impl End {
    /// The checksum of the last line.
    pub(super) const fn chain(&self) -> Checksum {
        self.chain
    }
}

impl Contents {
    /// The contents as they were after an earlier line.
    ///
    /// With `to_write`, at most one line may follow it: the last change, which was not promised to anyone.
    ///
    /// # Errors
    /// In words, when the journal has no such line, or more follow it than may.
    pub(super) fn at(mut self, state: Checksum, to_write: bool) -> Result<Self, String> {
        let compacts = |line: usize| match line {
            0 => self.header.compacts.as_deref(),
            _ => self.changes[line - 1].compacts.as_deref(),
        };
        let digits = hex(state);
        let mut lines = (0..self.ends.len()).rev();
        let found = lines.find(|&line| {
            self.ends[line].chain == state || compacts(line) == Some(digits.as_str())
        });
        let line = found.ok_or_else(|| {
            format!("its journal has no line {digits}: it is another gallery, or an older copy")
        })?;
        let more = self.ends.len() - 1 - line;
        if to_write && more > 1 {
            return Err(format!(
                "{more} changes follow line {digits} of its journal: it was changed on its own"
            ));
        }
        self.changes.truncate(line);
        self.end = self.ends[line];
        self.ends.truncate(line + 1);
        Ok(self)
    }
}

/// The end of a journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    len: u64,
    chain: Checksum,
    marked: bool,
}

/// Reads a journal.
///
/// # Errors
/// In words, when it is damaged or not one.
pub(super) fn parse(bytes: &[u8]) -> Result<Contents, String> {
    let mut end = End {
        len: 0,
        chain: Checksum::default(),
        marked: true,
    };
    let damaged = |at: u64| format!("is damaged: its journal was altered at byte {at} or after");
    let mut header = None;
    let mut changes = Vec::new();
    let mut ends: Vec<End> = Vec::new();
    loop {
        let rest = &bytes[end.len as usize..];
        if !end.marked {
            if let Some(after) = rest.strip_prefix(MARK) {
                end.len = (bytes.len() - after.len()) as u64;
                end.marked = true;
                ends.pop();
                ends.push(end);
                continue;
            }
            if may_become_mark(rest) {
                break;
            }
            return Err(damaged(end.len));
        }
        let Some((json, len, chain)) = next_line(rest, end.chain) else {
            if rest.windows(MARK.len()).any(|window| window == MARK) {
                return Err(damaged(end.len));
            }
            break;
        };
        if header.is_none() {
            header = Some(read_header(json, end.len)?);
        } else {
            changes.push(read_json(json, end.len)?);
        }
        end = End {
            len: end.len + len as u64,
            chain,
            marked: false,
        };
        ends.push(end);
    }
    let header = header.ok_or("is damaged: its journal has no beginning")?;
    Ok(Contents {
        header,
        changes,
        end,
        ends,
    })
}

/// Whether the bytes after a line without a mark are the beginning of one: it may be on its way, or have
/// been lost by a crash.
fn may_become_mark(rest: &[u8]) -> bool {
    let written = rest
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |at| at + 1);
    let zeros = rest.len() > MARK.len(); // room that was made for what was never written
    MARK.starts_with(&rest[..if zeros { written } else { rest.len() }])
}

/// The first line of a journal.
fn read_header(json: &[u8], at: u64) -> Result<Header, String> {
    let header: Header = read_json(json, at)?;
    if header.format != FORMAT {
        return Err("is not a gallery that knnspect wrote".into());
    }
    if header.format_version > VERSION {
        return Err(format!(
            "was written by a newer knnspect: its format is {}, this one reads up to {VERSION}",
            header.format_version
        ));
    }
    Ok(header)
}

fn read_json<T: DeserializeOwned>(json: &[u8], at: u64) -> Result<T, String> {
    serde_json::from_slice(json)
        .map_err(|error| format!("is damaged: byte {at} of its journal cannot be read ({error})"))
}

/// The JSON of the first line, the line's length, and its checksum; None unless it is whole and right.
fn next_line(bytes: &[u8], chain: Checksum) -> Option<(&[u8], usize, Checksum)> {
    let len = bytes.iter().position(|byte| *byte == b'\n')? + 1;
    let (digits, json) = bytes[..len - 1].split_at_checked(2 * chain.len())?;
    let json = json.strip_prefix(b" ")?;
    let checksum = chained(chain, json);
    (hex(checksum).as_bytes() == digits).then_some((json, len, checksum))
}

fn chained(chain: Checksum, json: &[u8]) -> Checksum {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&chain).update(json);
    first_half(&hasher.finalize())
}

/// The bytes of a whole journal.
pub(super) fn text(header: &Header, changes: &[Change]) -> (Vec<u8>, End) {
    let mut text = Vec::new();
    let mut chain = Checksum::default();
    let mut append = |json: &[u8]| {
        let line = line(chain, json);
        chain = line.1;
        text.extend(line.0);
        text.extend(MARK);
    };
    append(&to_json(header));
    for change in changes {
        append(&to_json(change));
    }
    let len = text.len() as u64;
    let end = End {
        len,
        chain,
        marked: true,
    };
    (text, end)
}

fn line(chain: Checksum, json: &[u8]) -> (Vec<u8>, Checksum) {
    let checksum = chained(chain, json);
    let line = [hex(checksum).as_bytes(), b" ", json, b"\n"].concat();
    (line, checksum)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings and numbers can be written as JSON")
}

/// A journal that is written to.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    end: End,
    /// What a failed change wrote could not be taken back.
    broken: bool,
}

impl Journal {
    /// The checksum of the last line, which tells the state of the gallery from every other.
    pub(super) const fn state(&self) -> Checksum {
        self.end.chain
    }

    /// A journal that was just written, and ends there.
    pub(super) const fn new(file: File, end: End) -> Self {
        Self {
            file,
            end,
            broken: false,
        }
    }

    /// Goes on after the end of a journal; what an interrupted change has left there is cut off.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn go_on(file: File, end: End) -> io::Result<Self> {
        let mut journal = Self::new(file, end);
        journal.cut()?;
        journal.mark()?;
        Ok(journal)
    }

    /// Makes a change durable. After an error it was not made.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn append(&mut self, change: &Change) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other(
                "an earlier change failed and could not be taken back: open the gallery again",
            ));
        }
        self.mark()?;
        let (line, chain) = line(self.end.chain, &to_json(change));
        let written = self.write(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // The line may be there in part or as a whole. It must go, or it would be found by those
            // who open the gallery next, although this change is reported to have failed.
            self.broken = self.cut().is_err();
            return Err(error);
        }
        self.end = End {
            len: self.end.len + line.len() as u64,
            chain,
            marked: false,
        };
        // The change is made; its mark can follow later, too.
        let _ = self.mark();
        Ok(())
    }

    fn mark(&mut self) -> io::Result<()> {
        if !self.end.marked {
            self.write(MARK)?;
            self.end.len += MARK.len() as u64;
            self.end.marked = true;
        }
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end.len)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end.len))?;
        self.file.write_all(bytes)
    }
}

#[cfg(test)]
mod tests;
