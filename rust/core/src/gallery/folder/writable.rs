//! A gallery's folder, open for writing.

use super::checksum::{Checksum, checksum, hex};
use super::journal::{self, Change, Header, Journal, Run};
use super::lock::{self, Lock};
use super::read::{JOURNAL, journal_at, parse_at, read_journal};
use super::record::{RecordLayout, RecordPlace};
use super::replay::{State, replay};
use super::segment::{self, Segment, Tail};
use super::writer::{Writer, add_to_runs, after, cannot_write};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::gallery::image::StoredImage;
use crate::gallery::images::Gallery;
use crate::pyramid::{DType, PyramidBatch, PyramidShape, Upsample};
use crate::storage::atomic::{delete_left, is_temporary, replace_file, sync_folder};
use crate::storage::opening::{self, Links};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A gallery's folder, open for writing.
#[derive(Debug)]
pub(crate) struct Folder {
    path: Arc<Path>,
    header: Header,
    dtype: DType,
    journal: Journal,
    /// The segments that the journal names, by number.
    segments: BTreeMap<u32, Segment>,
    /// The segment that grows; nothing before the first image, and after an error.
    tail: Option<Tail>,
    _lock: Lock,
}

impl Folder {
    /// Makes an empty gallery in a new folder, or in one that is empty.
    ///
    /// # Errors
    /// [`Error::Store`] when there is something already, or it cannot be written.
    pub(crate) fn create(path: &Path, upsample: Upsample, dtype: DType) -> Result<(Self, State)> {
        let fail = |error: io::Error| Error::store(path, format!("cannot be written: {error}"));
        match std::fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
            Err(_) if !path.is_dir() => {
                return Err(Error::store(path, "exists already, and is not a folder"));
            }
            _ => {}
        }
        let lock = Lock::take(path)?;
        for entry in std::fs::read_dir(path).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            if name == JOURNAL {
                return Err(Error::store(path, "holds a gallery already: open it"));
            }
            // What an interrupted attempt has left may stay.
            if name != lock::NAME && !is_temporary(&name) {
                return Err(Error::store(
                    path,
                    format!("is not empty: it has {:?}", name.to_string_lossy()),
                ));
            }
        }
        let header = Header::new(upsample.name(), dtype.name());
        let (text, end) = journal::text(&header, &[]);
        let journal = path.join(JOURNAL);
        let parts = [text.as_slice()].into_iter();
        let file = replace_file(&journal, Links::Refuse, parts, Cancel::NEVER)?;
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            sync_folder(parent);
        }
        let folder = Self {
            path: path.into(),
            header,
            dtype,
            journal: Journal::new(file, end),
            segments: BTreeMap::new(),
            tail: None,
            _lock: lock,
        };
        let state = State {
            gallery: Gallery::new(upsample, dtype),
            removed: Vec::new(),
        };
        Ok((folder, state))
    }

    /// The state of the gallery: the checksum of its last change.
    pub(crate) const fn state(&self) -> Checksum {
        self.journal.state()
    }

    /// Opens a folder for writing; with `at`, what follows that state is cut off.
    ///
    /// # Errors
    /// [`Error::Store`] when it holds no gallery, is damaged, open for writing elsewhere, or cannot be
    /// written; when it never had that state, or more than one change follows it.
    pub(crate) fn open(
        path: &Path,
        at: Option<Checksum>,
        cancel: Cancel<'_>,
    ) -> Result<(Self, State)> {
        let fail =
            |error: io::Error| Error::store(path, format!("cannot be opened for writing: {error}"));
        let journal = path.join(JOURNAL);
        // Looked at first, so that no lock file is left where there is no gallery.
        journal_at(path)?;
        let lock = Lock::take(path)?;
        let contents = parse_at(path, &read_journal(path, cancel)?, at, true)?;
        let end = contents.end;
        let (state, segments, header) = replay(&Arc::from(path), contents)?;
        let file = opening::to_write(&journal).map_err(fail)?;
        let folder = Self {
            path: path.into(),
            header,
            dtype: state.gallery.dtype(),
            journal: Journal::go_on(file, end).map_err(fail)?,
            segments,
            tail: None,
            _lock: lock,
        };
        folder.delete_leftovers();
        Ok((folder, state))
    }

    /// Appends the images of a batch, which were checked, after removing those of `remove`: both or
    /// neither.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk does not take them, [`Error::Image`] for features that cannot be
    /// stored, [`Error::Interrupted`]; the gallery is then as it was.
    pub(crate) fn append(
        &mut self,
        batch: &PyramidBatch<'_>,
        ids: &[String],
        remove: &[String],
        is_first: bool,
        cancel: Cancel<'_>,
    ) -> Result<BTreeMap<String, Arc<StoredImage>>> {
        let shape = batch.shape();
        let layout = RecordLayout::new(shape, self.dtype);
        let change = Change {
            shape: is_first.then(|| levels_of(shape)),
            remove: remove.to_vec(),
            ..Change::default()
        };
        let dtype = self.dtype;
        let records = ids.iter().enumerate().map(|(image, id)| {
            cancel.check()?;
            let stored = StoredImage::new(shape, &batch.image(image), dtype, id)?;
            let record = stored.to_record(&layout, shape);
            Ok((id.as_str(), checksum(&record), record))
        });
        self.write(&layout, records, change, cancel)
    }

    /// Appends images that are kept elsewhere in the same way, byte for byte, in one change.
    ///
    /// # Errors
    /// [`Error::Store`] when one is damaged, or the disk does not take them; [`Error::Interrupted`]; the
    /// gallery is then as it was.
    pub(crate) fn append_copies(
        &mut self,
        shape: &PyramidShape,
        images: &BTreeMap<String, Arc<StoredImage>>,
        is_first: bool,
        cancel: Cancel<'_>,
    ) -> Result<BTreeMap<String, Arc<StoredImage>>> {
        let layout = RecordLayout::new(shape, self.dtype);
        let change = Change {
            shape: is_first.then(|| levels_of(shape)),
            ..Change::default()
        };
        let records = images.iter().map(|(id, image)| {
            cancel.check()?;
            image.verify(true)?; // damage must not be passed on
            let record = match image.record() {
                Some((.., record)) => Cow::Borrowed(record),
                None => Cow::Owned(image.to_record(&layout, shape)),
            };
            Ok((id.as_str(), checksum(&record), record))
        });
        self.write(&layout, records, change, cancel)
    }

    /// Writes records, and then a change that adds them, to the journal: both, or nothing.
    fn write<'a, R: AsRef<[u8]>>(
        &mut self,
        layout: &RecordLayout,
        records: impl Iterator<Item = Result<(&'a str, Checksum, R)>>,
        mut change: Change,
        cancel: Cancel<'_>,
    ) -> Result<BTreeMap<String, Arc<StoredImage>>> {
        let tail = self.tail(layout)?;
        let mut writer = Writer::new(&self.path, layout, self.next_segment()?, tail);
        let written = writer.write_all(records).and_then(|images| {
            cancel.check()?;
            change.add = std::mem::take(&mut writer.runs);
            let appended = self.journal.append(&change);
            appended.map_err(|error| cannot_write(&self.path, &error))?;
            Ok(images)
        });
        match written {
            Ok(images) => {
                self.tail = writer.commit(&mut self.segments);
                Ok(images)
            }
            Err(error) => {
                self.tail = writer.undo();
                Err(error)
            }
        }
    }

    /// Marks images, which are there, as removed.
    ///
    /// # Errors
    /// [`Error::Store`] when the disk does not take it; the gallery is then as it was.
    pub(crate) fn remove(&mut self, ids: &[String]) -> Result<()> {
        let change = Change {
            remove: ids.to_vec(),
            ..Change::default()
        };
        let appended = self.journal.append(&change);
        appended.map_err(|error| cannot_write(&self.path, &error))
    }

    /// Writes the segments that hold removed images anew, without these, and the journal with one
    /// entry for each segment; then the old files are deleted.
    ///
    /// Returns the images that have moved.
    ///
    /// # Errors
    /// [`Error::Store`] when an image is damaged or the disk has no room for what stays of those
    /// segments, [`Error::Interrupted`]; the gallery is then as it was.
    pub(crate) fn compact(
        &mut self,
        gallery: &Gallery,
        cancel: Cancel<'_>,
    ) -> Result<BTreeMap<String, Arc<StoredImage>>> {
        let path = Arc::clone(&self.path);
        let mut by_place: BTreeMap<RecordPlace, Arc<StoredImage>> = BTreeMap::new();
        for image in gallery.images() {
            if let Some(place) = image.place() {
                by_place.insert(place, Arc::clone(image));
            }
        }
        let kept = self.full_segments(by_place.keys());
        let (staying, moving): (Vec<_>, Vec<_>) = by_place
            .iter()
            .partition(|(place, _)| kept.contains(&place.segment));
        let mut runs: Vec<Run> = Vec::new();
        for (place, image) in staying {
            if let Some((id, checksum, _)) = image.record() {
                add_to_runs(&mut runs, *place, id, checksum);
            }
        }
        let records = moving.iter().filter_map(|(_, image)| {
            // Read once for its checksum, and at once again: damage must not be passed on.
            let checked = cancel.check().and_then(|()| image.verify(true));
            checked.map(|()| image.record()).transpose()
        });
        let mut header = self.header.clone();
        header.next_segment = self.next_segment()?;
        let mut moved = Moved::default();
        if let Some(shape) = gallery.shape().filter(|_| !moving.is_empty()) {
            let layout = RecordLayout::new(shape, self.dtype);
            let writer = Writer::new(&path, &layout, header.next_segment, None);
            moved = move_records(writer, records, &mut header.next_segment)?;
        }
        runs.append(&mut moved.runs);
        let mut compacts = Some(hex(self.state()));
        let changes = gallery.shape().map(|shape| Change {
            shape: Some(levels_of(shape)),
            add: runs,
            compacts: compacts.take(),
            ..Change::default()
        });
        let changes: Vec<Change> = changes.into_iter().collect();
        header.compacts = compacts;
        let (text, end) = journal::text(&header, &changes);
        let at = path.join(JOURNAL);
        let parts = [text.as_slice()].into_iter();
        let replaced = replace_file(&at, Links::Refuse, parts, cancel);
        let file = replaced.inspect_err(|_| self.delete_leftovers())?;
        // The change is made, and nothing can fail any more.
        self.journal = Journal::new(file, end);
        self.header = header;
        self.segments.retain(|number, _| kept.contains(number));
        self.segments.extend(moved.segments);
        self.tail = moved.tail;
        self.delete_leftovers();
        Ok(moved.images)
    }

    /// The segments of which every record is an image that is still there.
    fn full_segments<'a>(&self, places: impl Iterator<Item = &'a RecordPlace>) -> BTreeSet<u32> {
        let mut n_live: BTreeMap<u32, usize> = BTreeMap::new();
        for place in places {
            *n_live.entry(place.segment).or_default() += 1;
        }
        let is_full =
            |(number, segment): &(&u32, &Segment)| n_live.get(number) == Some(&segment.n_records);
        let full = self.segments.iter().filter(is_full);
        full.map(|(number, _)| *number).collect()
    }

    /// The number of the next new segment: one that no segment has had.
    fn next_segment(&self) -> Result<u32> {
        let next = match self.segments.keys().next_back() {
            Some(last) => after(*last).map_err(|error| cannot_write(&self.path, &error))?,
            None => 1,
        };
        Ok(next.max(self.header.next_segment))
    }

    /// The segment to go on with: the last one, where its records have this layout.
    fn tail(&mut self, layout: &RecordLayout) -> Result<Option<Tail>> {
        if let Some(tail) = self.tail.take()
            && tail.layout == *layout
        {
            return Ok(Some(tail));
        }
        let Some((number, segment)) = self.segments.last_key_value() else {
            return Ok(None);
        };
        if segment.layout != *layout {
            return Ok(None);
        }
        let tail = Tail::open(&self.path, *number, layout.clone(), segment.n_records);
        tail.map(Some)
            .map_err(|error| cannot_write(&self.path, &error))
    }

    /// Deletes what the journal does not name: left by an interrupted change, or by compacting.
    fn delete_leftovers(&self) {
        delete_left(&self.path, |name| {
            segment::number(&name.to_string_lossy())
                .is_some_and(|number| !self.segments.contains_key(&number))
        });
    }
}

/// Images that were written into new segments.
#[derive(Default)]
struct Moved {
    images: BTreeMap<String, Arc<StoredImage>>,
    runs: Vec<Run>,
    segments: BTreeMap<u32, Segment>,
    tail: Option<Tail>,
}

/// Writes records into new segments, whose numbers begin with `next_segment`; sets that to the next one.
fn move_records<'a>(
    mut writer: Writer<'_>,
    records: impl Iterator<Item = Result<(&'a str, Checksum, &'a [u8])>>,
    next_segment: &mut u32,
) -> Result<Moved> {
    match writer.write_all(records) {
        Ok(images) => {
            *next_segment = writer.next_number;
            let runs = std::mem::take(&mut writer.runs);
            let mut segments = BTreeMap::new();
            let tail = writer.commit(&mut segments);
            Ok(Moved {
                images,
                runs,
                segments,
                tail,
            })
        }
        Err(error) => {
            writer.undo();
            Err(error)
        }
    }
}

fn levels_of(shape: &PyramidShape) -> Vec<(usize, usize, usize)> {
    let levels = shape.levels().iter();
    levels
        .map(|level| (level.height, level.width, level.channels))
        .collect()
}
