//! Files of named tensors: safetensors with a versioned header and a checksum of every byte.
//!
//! A file is `u64 length | JSON header | tensors`, readable by any safetensors library. The header's
//! metadata holds `format`, `format_version`, `kind`, `checksum` and the writer's own entries. The
//! checksum is BLAKE3 over the whole file with the 64 digits of the checksum itself read as zeros.
//! Files are replaced atomically, and nothing in them is ever executed.

use super::atomic::{STEP, replace_file};
use super::mapping::Mapping;
use super::opening::{self, Links};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use safetensors::tensor::Metadata;
use safetensors::{SafeTensorError, SafeTensors};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use safetensors::Dtype;

const FORMAT: &str = "knnspect";
/// The newest that is read. Version 2 added int8 galleries.
const FORMAT_VERSION: u64 = 2;
const CHECKSUM_DIGITS: usize = 64;
/// What safetensors libraries accept.
const HEADER_LIMIT: usize = 100_000_000;

/// A tensor to be written; its bytes (little-endian, row-major) may come in several parts.
pub struct Tensor<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// The bytes, in order.
    pub parts: Vec<&'a [u8]>,
}

/// Writes a file of `kind`, replacing `path` only when everything is on the disk.
///
/// # Errors
/// [`Error::Store`] when the file cannot be written, [`Error::Interrupted`]; what was at `path` is
/// then still there.
pub fn write(
    path: &Path,
    links: Links,
    kind: &str,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, Tensor<'_>>,
    cancel: Cancel<'_>,
) -> Result<()> {
    // Widest elements first, so that every tensor is aligned for its type.
    let mut order: Vec<(&String, &Tensor<'_>)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype.bitsize()));

    let mut entries: Map<String, Value> = metadata
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect();
    entries.insert("format".into(), FORMAT.into());
    // The oldest version that has all of it, so that earlier releases open what they can.
    let int8 = tensors.values().any(|tensor| tensor.dtype == Dtype::I8);
    let version = if int8 { FORMAT_VERSION } else { 1 };
    entries.insert("format_version".into(), version.to_string().into());
    entries.insert("kind".into(), kind.into());
    entries.insert("checksum".into(), "0".repeat(CHECKSUM_DIGITS).into());
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(entries))]);
    let mut offset = 0;
    for (name, tensor) in &order {
        let len: usize = tensor.parts.iter().map(|part| part.len()).sum();
        header.insert(
            (*name).clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + len]}),
        );
        offset += len;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    while !header.len().is_multiple_of(8) {
        header.push(b' ');
    }

    if header.len() > HEADER_LIMIT {
        return Err(Error::store(
            path,
            format!(
                "cannot be written: its header of {} bytes exceeds {HEADER_LIMIT}",
                header.len()
            ),
        ));
    }

    let mut hasher = blake3::Hasher::new();
    let length = (header.len() as u64).to_le_bytes();
    hasher.update(&length).update(&header);
    let parts = || {
        order
            .iter()
            .flat_map(|(_, tensor)| tensor.parts.iter().copied())
    };
    hash_parts(&mut hasher, parts(), cancel)?;
    let digits = checksum_digits(&header)
        .ok_or_else(|| Error::store(path, "the metadata must not have a checksum of its own"))?;
    header[digits].copy_from_slice(hasher.finalize().to_hex().as_bytes());

    replace_file(
        path,
        links,
        [&length[..], &header].into_iter().chain(parts()),
        cancel,
    )?;
    Ok(())
}

fn hash_parts<'a>(
    hasher: &mut blake3::Hasher,
    parts: impl Iterator<Item = &'a [u8]>,
    cancel: Cancel<'_>,
) -> Result<()> {
    for piece in parts.flat_map(|part| part.chunks(STEP)) {
        cancel.check()?;
        hasher.update(piece);
    }
    Ok(())
}

/// The length of the header, as the first eight bytes of a file give it.
fn header_len(file: &[u8]) -> u64 {
    file[..8]
        .iter()
        .rev()
        .fold(0, |len, &byte| len << 8 | u64::from(byte))
}

/// Where the checksum's digits stand in the header.
fn checksum_digits(header: &[u8]) -> Option<Range<usize>> {
    const KEY: &[u8] = b"\"checksum\":\"";
    let mut places = header
        .windows(KEY.len())
        .enumerate()
        .filter(|(_, window)| *window == KEY);
    let start = places.next()?.0 + KEY.len();
    let digits = start..start + CHECKSUM_DIGITS;
    (places.next().is_none() && digits.end <= header.len()).then_some(digits)
}

/// A file written by [`write()`], memory-mapped.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    mapping: Arc<Mapping>,
    kind: String,
    metadata: HashMap<String, String>,
    tensors: BTreeMap<String, StoredTensor>,
}

/// A tensor of an open file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Where its bytes stand in the file.
    range: Range<usize>,
}

impl Store {
    /// Maps a file and checks its structure, and with `verify` the checksum of every byte.
    ///
    /// The file must not be changed in place while it is open; replacing it, as [`write()`] does, is
    /// safe.
    ///
    /// # Errors
    /// [`Error::Store`] when the file is missing, truncated, altered, of a newer version, or not one
    /// of ours.
    pub fn open(path: &Path, links: Links, verify: bool, cancel: Cancel<'_>) -> Result<Self> {
        let fail = |reason: String| Error::store(path, reason);
        let file = opening::to_read(path, links)
            .map_err(|error| fail(format!("cannot be opened: {error}")))?;
        let len = file.metadata().map_or(0, |about| {
            usize::try_from(about.len()).unwrap_or(usize::MAX)
        });
        if len < 8 {
            return Err(fail(format!("is not a knnspect file: it has {len} bytes")));
        }
        let mapping =
            Mapping::new(&file, len).map_err(|error| fail(format!("cannot be mapped: {error}")))?;
        let map = mapping.slice(0, len);
        let header_len = header_len(map);
        if header_len == 0 || map.get(8).is_none_or(|&byte| byte != b'{') {
            return Err(fail(
                "is not a knnspect file: it has no safetensors header".into(),
            ));
        }
        if header_len > len as u64 - 8 {
            return Err(fail(format!(
                "is truncated or damaged: a header of {header_len} bytes was expected, the file has {len}"
            )));
        }
        let (header_len, header) = SafeTensors::read_metadata(map).map_err(|error| {
            fail(match error {
                SafeTensorError::MetadataIncompleteBuffer => format!(
                    "is truncated or damaged: its {} bytes are not what its header says",
                    map.len()
                ),
                error => format!("is damaged: its header cannot be read ({error})"),
            })
        })?;
        let (kind, metadata) = check_metadata(&header).map_err(fail)?;
        let start = 8 + header_len;
        let tensors = header
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let range = start + info.data_offsets.0..start + info.data_offsets.1;
                (
                    name,
                    StoredTensor {
                        dtype: info.dtype,
                        shape: info.shape.clone(),
                        range,
                    },
                )
            })
            .collect();
        let store = Self {
            path: path.to_owned(),
            mapping: Arc::new(mapping),
            kind,
            metadata,
            tensors,
        };
        if verify {
            store.verify(cancel)?;
        }
        Ok(store)
    }

    /// Recomputes the checksum of the whole file.
    ///
    /// # Errors
    /// [`Error::Store`] when a byte was altered; [`Error::Interrupted`].
    pub fn verify(&self, cancel: Cancel<'_>) -> Result<()> {
        let fail = |reason: &str| Err(Error::store(&self.path, reason));
        let map = self.map();
        let header_len = header_len(map) as usize;
        let Some(digits) = checksum_digits(&map[..8 + header_len]) else {
            return fail("is damaged: its header has no checksum");
        };
        let mut hasher = blake3::Hasher::new();
        let zeros = [b'0'; CHECKSUM_DIGITS];
        let parts = [&map[..digits.start], &zeros, &map[digits.end..]];
        hash_parts(&mut hasher, parts.into_iter(), cancel)?;
        if hasher.finalize().to_hex().as_bytes() == &map[digits] {
            Ok(())
        } else {
            fail("is damaged: its checksum does not match its contents")
        }
    }

    /// What the file holds, as its writer named it.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata, the writer's own entries and those of the format.
    #[must_use]
    pub const fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The error that something in the file is not as it must be.
    #[must_use]
    pub fn damaged(&self, what: &str) -> Error {
        Error::store(&self.path, format!("is damaged: {what}"))
    }

    /// The writer's metadata entry `key`.
    ///
    /// # Errors
    /// [`Error::Store`] when there is none.
    pub fn entry(&self, key: &str) -> Result<&str> {
        let missing = || {
            Error::store(
                &self.path,
                format!("is damaged: its metadata has no {key:?}"),
            )
        };
        self.metadata
            .get(key)
            .map(String::as_str)
            .ok_or_else(missing)
    }

    /// All tensors, by name.
    #[must_use]
    pub const fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// The tensor `name`.
    ///
    /// # Errors
    /// [`Error::Store`] when there is none.
    pub fn tensor(&self, name: &str) -> Result<&StoredTensor> {
        self.tensors.get(name).ok_or_else(|| {
            Error::store(&self.path, format!("is damaged: it has no tensor {name:?}"))
        })
    }

    fn map(&self) -> &[u8] {
        self.mapping.slice(0, self.mapping.len())
    }

    /// The file in memory, for those who keep parts of it.
    pub(crate) const fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The bytes of a tensor of this file.
    #[must_use]
    pub fn bytes(&self, tensor: &StoredTensor) -> &[u8] {
        &self.map()[tensor.range.clone()]
    }
}

impl StoredTensor {
    /// The byte of the file at which the tensor starts.
    pub(crate) const fn start(&self) -> usize {
        self.range.start
    }
}

fn check_metadata(header: &Metadata) -> Result<(String, HashMap<String, String>), String> {
    let metadata = header.metadata().clone().unwrap_or_default();
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err("is a safetensors file, but not one that knnspect wrote".into());
    }
    match metadata
        .get("format_version")
        .and_then(|version| version.parse::<u64>().ok())
    {
        Some(version) if version > FORMAT_VERSION => {
            return Err(format!(
                "was written by a newer knnspect: its format is {version}, this one reads up to {FORMAT_VERSION}"
            ));
        }
        Some(1..=FORMAT_VERSION) => {}
        _ => return Err("is damaged: its format version cannot be read".into()),
    }
    let kind = metadata
        .get("kind")
        .cloned()
        .ok_or("is damaged: it does not say what it holds")?;
    Ok((kind, metadata))
}

#[cfg(test)]
mod tests;
