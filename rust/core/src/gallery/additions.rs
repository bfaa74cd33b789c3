//! Images on their way into a gallery.

use super::image::StoredImage;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::pyramid::{DType, PyramidBatch, PyramidShape};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What adding does about ids that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// All ids must be new.
    Refuse,
    /// All ids must be there; their images are exchanged.
    Replace,
}

/// Images on their way into a gallery, checked and stored as it stores them.
#[derive(Debug)]
pub(crate) struct Additions {
    pub(super) shape: PyramidShape,
    pub(super) images: BTreeMap<String, Arc<StoredImage>>,
}

/// Checks that a batch can be added under these ids, whatever the gallery.
///
/// # Errors
/// [`Error::Shape`] when there is not one id per image; [`Error::Parameter`] for an id that is given
/// twice; [`Error::Image`] for features that are not finite.
pub(crate) fn check_batch(batch: &PyramidBatch<'_>, ids: &[String]) -> Result<()> {
    if ids.len() != batch.n_images() {
        return Err(Error::shape(format!(
            "expected one id for each of {} images, got {}",
            batch.n_images(),
            ids.len()
        )));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = ids.iter().find(|id| !seen.insert(*id)) {
        let message = format!("ids: {twice:?} is given twice");
        return Err(Error::parameter("ids", message).of_image(twice));
    }
    batch.check_finite(Some(ids))
}

impl Additions {
    /// Copies the images of a batch.
    ///
    /// # Errors
    /// Those of [`check_batch`]; [`Error::Image`] for features too large for float16 storage;
    /// [`Error::Interrupted`].
    pub(crate) fn new(
        batch: &PyramidBatch<'_>,
        ids: &[String],
        dtype: DType,
        cancel: Cancel<'_>,
    ) -> Result<Self> {
        check_batch(batch, ids)?;
        let mut images = BTreeMap::new();
        for (image, id) in ids.iter().enumerate() {
            cancel.check()?;
            let stored = StoredImage::new(batch.shape(), &batch.image(image), dtype, id)?;
            images.insert(id.clone(), Arc::new(stored));
        }
        Ok(Self::stored(batch.shape(), images))
    }

    /// Images that are stored already.
    pub(crate) fn stored(shape: &PyramidShape, images: BTreeMap<String, Arc<StoredImage>>) -> Self {
        let shape = shape.clone();
        Self { shape, images }
    }
}
