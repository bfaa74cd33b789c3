//! From a journal to the gallery that it describes.

use super::checksum::Checksum;
use super::journal::{Contents, Header, Run, from_hex};
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
    let upsample = Upsample::from_name(&header.upsample);
    let upsample = upsample.ok_or_else(|| damaged(format!("upsample is {:?}", header.upsample)))?;
    let dtype = DType::from_name(&header.dtype);
    let dtype = dtype.ok_or_else(|| damaged(format!("dtype is {:?}", header.dtype)))?;

    let mut shape: Option<(PyramidShape, RecordLayout)> = None;
    let mut segments: BTreeMap<u32, Segment> = BTreeMap::new();
    let mut live: BTreeMap<String, JournalImage> = BTreeMap::new();
    let mut removed: Vec<JournalImage> = Vec::new();
    for change in contents.changes {
        for id in change.remove {
            let found = live.remove(&id);
            removed.push(found.ok_or_else(|| damaged(format!("it removes {id:?} twice")))?);
        }
        if let Some(levels) = change.shape {
            if !live.is_empty() {
                return Err(damaged("its images differ in shape".into()));
            }
            let new = PyramidShape::new(&levels).map_err(|error| damaged(error.to_string()))?;
            let layout = RecordLayout::new(&new, dtype);
            shape = Some((new, layout));
        }
        for run in change.add {
            let (_, layout) = shape
                .as_ref()
                .ok_or_else(|| damaged("an image has no shape".into()))?;
            extend(&mut segments, &run, layout).map_err(&damaged)?;
            for (record, (id, digits)) in (run.first..).zip(run.ids.into_iter().zip(run.checksums))
            {
                let checksum = from_hex(&digits)
                    .ok_or_else(|| damaged(format!("{digits:?} is not a checksum")))?;
                let place = RecordPlace {
                    segment: run.segment,
                    record,
                };
                let found = JournalImage {
                    id: id.clone(),
                    checksum,
                    place,
                };
                if live.insert(id, found).is_some() {
                    return Err(damaged("an id is there twice".into()));
                }
            }
        }
        if live.is_empty() {
            shape = None; // the next image decides anew
        }
    }

    let mut mappings: BTreeMap<u32, Arc<Mapping>> = BTreeMap::new();
    for (number, Segment { layout, n_records }) in &segments {
        let file = segment::path(path, *number);
        let mapping = segment::map(&file, *n_records, layout.stride).map_err(|error| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            damaged(format!("{name} cannot be read: {error}"))
        })?;
        mappings.insert(*number, mapping);
    }
    let image = |found: &JournalImage| {
        let segment = &segments[&found.place.segment];
        let mapping = &mappings[&found.place.segment];
        let name = (path, found.id.as_str());
        StoredImage::in_record(mapping, &segment.layout, found.place, name, found.checksum)
    };
    let removed = removed.iter().map(|found| Arc::new(image(found))).collect();
    let images = live
        .into_iter()
        .map(|(id, found)| (id, Arc::new(image(&found))))
        .collect();
    let gallery = Gallery::of_images(upsample, dtype, shape.map(|(shape, _)| shape), images);
    Ok((State { gallery, removed }, segments, header))
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
