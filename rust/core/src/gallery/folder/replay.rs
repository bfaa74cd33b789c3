//! From a journal to the gallery that it describes.

use super::checksum::{Checksum, from_hex};
use super::journal::{Change, Contents, Header, Run};
use super::record::{RecordLayout, RecordPlace};
use super::segment::{self, Segment};
use crate::error::{Error, Result};
use crate::gallery::image::StoredImage;
use crate::gallery::images::Gallery;
use crate::pyramid::{DType, PyramidShape, Upsample};
use crate::storage::Mapping;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What a folder holds.
#[derive(Debug)]
pub(crate) struct State {
    pub gallery: Gallery,
    /// The images that were removed, but whose features are still there.
    pub removed: Vec<Arc<StoredImage>>,
}

/// An image of the journal.
struct JournalImage {
    id: String,
    checksum: Checksum,
    place: RecordPlace,
}

/// Makes the changes of a journal, one after the other.
pub(super) fn replay(
    path: &Arc<Path>,
    contents: Contents,
) -> Result<(State, BTreeMap<u32, Segment>, Header)> {
    let damaged = |what: String| Error::store(path, format!("is damaged: {what}"));
    let header = contents.header;
    let upsample = header.upsample.parse::<Upsample>();
    let upsample = upsample.map_err(|_| damaged(format!("upsample is {:?}", header.upsample)))?;
    let dtype = header.dtype.parse::<DType>();
    let dtype = dtype.map_err(|_| damaged(format!("dtype is {:?}", header.dtype)))?;

    let mut replay = Replay::default();
    for change in contents.changes {
        replay.make(change, dtype).map_err(damaged)?;
    }
    let mappings = map_segments(path, &replay.segments).map_err(damaged)?;
    let image = |found: &JournalImage| {
        let segment = &replay.segments[&found.place.segment];
        let mapping = &mappings[&found.place.segment];
        let name = (path, found.id.as_str());
        let layout = &segment.layout;
        Arc::new(StoredImage::in_record(
            mapping,
            layout,
            found.place,
            name,
            found.checksum,
        ))
    };
    let removed = replay.removed.iter().map(image).collect();
    let live = replay.live.iter();
    let images = live.map(|(id, found)| (id.clone(), image(found))).collect();
    let shape = replay.shape.map(|(shape, _)| shape);
    let gallery = Gallery::of_images(upsample, dtype, shape, images);
    Ok((State { gallery, removed }, replay.segments, header))
}

/// What the changes so far have left.
#[derive(Default)]
struct Replay {
    shape: Option<(PyramidShape, RecordLayout)>,
    segments: BTreeMap<u32, Segment>,
    live: BTreeMap<String, JournalImage>,
    removed: Vec<JournalImage>,
}

impl Replay {
    /// Makes a change.
    ///
    /// # Errors
    /// In words, when the journal cannot have been written like this.
    fn make(&mut self, change: Change, dtype: DType) -> Result<(), String> {
        for id in change.remove {
            let found = self.live.remove(&id);
            let found = found.ok_or_else(|| format!("it removes {id:?} twice"))?;
            self.removed.push(found);
        }
        if let Some(levels) = change.shape {
            if !self.live.is_empty() {
                return Err("its images differ in shape".into());
            }
            let shape = PyramidShape::new(&levels).map_err(|error| error.to_string())?;
            let layout = RecordLayout::new(&shape, dtype);
            self.shape = Some((shape, layout));
        }
        for run in change.add {
            self.add(run)?;
        }
        if self.live.is_empty() {
            self.shape = None; // the next image decides anew
        }
        Ok(())
    }

    /// Adds the images of a run.
    fn add(&mut self, run: Run) -> Result<(), String> {
        let (_, layout) = self.shape.as_ref().ok_or("an image has no shape")?;
        extend(&mut self.segments, &run, layout)?;
        let images = run.ids.into_iter().zip(run.checksums);
        for (record, (id, digits)) in (run.first..).zip(images) {
            let checksum =
                from_hex(&digits).ok_or_else(|| format!("{digits:?} is not a checksum"))?;
            let place = RecordPlace {
                segment: run.segment,
                record,
            };
            let found = JournalImage {
                id: id.clone(),
                checksum,
                place,
            };
            if self.live.insert(id, found).is_some() {
                return Err("an id is there twice".into());
            }
        }
        Ok(())
    }
}

/// Maps the files of the segments.
fn map_segments(
    path: &Path,
    segments: &BTreeMap<u32, Segment>,
) -> Result<BTreeMap<u32, Arc<Mapping>>, String> {
    let mut mappings = BTreeMap::new();
    for (number, Segment { layout, n_records }) in segments {
        let file = segment::path(path, *number);
        let mapping = segment::map(&file, *n_records, layout.stride).map_err(|error| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            format!("{name} cannot be read: {error}")
        })?;
        mappings.insert(*number, mapping);
    }
    Ok(mappings)
}

/// Adds the records of a run to its segment, which they follow.
fn extend(
    segments: &mut BTreeMap<u32, Segment>,
    run: &Run,
    layout: &RecordLayout,
) -> Result<(), String> {
    let segment = segments.entry(run.segment).or_insert_with(|| Segment {
        layout: layout.clone(),
        n_records: 0,
    });
    if run.ids.is_empty()
        || run.ids.len() != run.checksums.len()
        || run.first != segment.n_records
        || segment.layout != *layout
    {
        return Err(format!("segment {} is not consistent", run.segment));
    }
    segment.n_records += run.ids.len();
    Ok(())
}
