//! The gallery: the pyramids of normal images, each under its id.

use super::additions::{Additions, OnConflict};
use super::image::StoredImage;
use super::selection::Selection;
use crate::bounds::{CenteringSlot, ProjectionSlot};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::pyramid::{DType, PyramidBatch, PyramidContext, PyramidShape, Upsample};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pyramids of one shape, by id. Images are kept one by one, so that adding and removing cost only
/// the images concerned; a copy shares them.
#[derive(Clone, Debug)]
pub struct Gallery {
    pub(super) upsample: Upsample,
    dtype: DType,
    pub(super) shape: Option<PyramidShape>,
    pub(super) images: BTreeMap<String, Arc<StoredImage>>,
    /// The coordinates of flat galleries, fitted by the first search that uses them.
    projection: Arc<ProjectionSlot>,
    /// What pyramids are centred by that are searched within windows; fitted likewise.
    centering: Arc<CenteringSlot>,
}

impl Gallery {
    /// An empty gallery; the first image added decides the shape.
    #[must_use]
    pub fn new(upsample: Upsample, dtype: DType) -> Self {
        Self {
            upsample,
            dtype,
            shape: None,
            images: BTreeMap::new(),
            projection: Arc::default(),
            centering: Arc::default(),
        }
    }

    /// A gallery of images that are stored already; `shape` is theirs.
    pub(crate) fn of_images(
        upsample: Upsample,
        dtype: DType,
        shape: Option<PyramidShape>,
        images: BTreeMap<String, Arc<StoredImage>>,
    ) -> Self {
        Self {
            upsample,
            dtype,
            shape,
            images,
            projection: Arc::default(),
            centering: Arc::default(),
        }
    }

    /// How coarse levels are upsampled.
    #[must_use]
    pub const fn upsample(&self) -> Upsample {
        self.upsample
    }

    /// How features are stored.
    #[must_use]
    pub const fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape of the pyramids, once an image was added.
    #[must_use]
    pub const fn shape(&self) -> Option<&PyramidShape> {
        self.shape.as_ref()
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// The ids, sorted: an image's place here is its rank.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// Bytes of the stored features, in memory or in a file.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.shape
            .as_ref()
            .map_or(0, |shape| self.len() * self.dtype.image_bytes(shape))
    }

    /// What a search needs to know of the pyramids.
    ///
    /// # Errors
    /// [`Error::Parameter`] when the gallery is empty.
    pub fn pyramid_context(&self) -> Result<PyramidContext> {
        let shape = self.shape.clone().ok_or_else(no_images)?;
        Ok(PyramidContext::new(shape, self.upsample))
    }

    /// A gallery of one level alone, of the same images, whose features are shared.
    ///
    /// # Errors
    /// [`Error::Parameter`] when the gallery is empty, or has no such level.
    pub fn level(&self, index: usize) -> Result<Self> {
        let levels = self.shape.as_ref().ok_or_else(no_images)?.levels();
        let Some(level) = levels.get(index) else {
            let n = levels.len();
            let message = format!("index: expected one of {n} levels, from 0, got {index}");
            return Err(Error::parameter("index", message));
        };
        let shape = PyramidShape::new(&[(level.height, level.width, level.channels)])?;
        let images = self.images.iter();
        let images = images.map(|(id, image)| {
            let image = StoredImage::level_of(image, index);
            (id.clone(), Arc::new(image))
        });
        let images = images.collect();
        Ok(Self::of_images(
            self.upsample,
            self.dtype,
            Some(shape),
            images,
        ))
    }

    /// Adds the images of a batch under `ids`: all of them, or none when there is an error.
    ///
    /// # Errors
    /// [`Error::Shape`] when the pyramids differ from those of the gallery, or there is not one id per
    /// image; [`Error::Parameter`] for an id that is given twice or is there already; [`Error::Image`]
    /// for features that are not finite, or too large for float16 storage.
    pub fn add(&mut self, batch: &PyramidBatch<'_>, ids: &[String]) -> Result<()> {
        let additions = Additions::new(batch, ids, self.dtype, Cancel::NEVER)?;
        self.check_insertion(batch.shape(), ids, OnConflict::Refuse)?;
        self.insert(additions);
        Ok(())
    }

    /// Checks that images of this shape can be added under these ids.
    ///
    /// # Errors
    /// [`Error::Shape`] when the pyramids differ from those of the gallery; [`Error::Parameter`] for an
    /// id that is there already, or to replace, one that is not.
    pub(crate) fn check_insertion(
        &self,
        shape: &PyramidShape,
        ids: &[String],
        known: OnConflict,
    ) -> Result<()> {
        if let Some(own) = &self.shape
            && own != shape
        {
            return Err(Error::shape(format!(
                "the pyramid to add is {}, the gallery's is {}",
                shape.describe(),
                own.describe()
            )));
        }
        match known {
            OnConflict::Replace => self.check_known(ids),
            OnConflict::Refuse => match ids.iter().find(|id| self.images.contains_key(*id)) {
                None => Ok(()),
                Some(id) => {
                    let message = format!("ids: image {id:?} is in the gallery already");
                    Err(Error::parameter("ids", message).of_image(id))
                }
            },
        }
    }

    /// Checks that these images are there.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id.
    pub(crate) fn check_known(&self, ids: &[String]) -> Result<()> {
        let unknown = ids.iter().find(|id| !self.images.contains_key(*id));
        unknown.map_or(Ok(()), |id| Err(unknown_id(id)))
    }

    /// Adds images that [`check_insertion`](Self::check_insertion) has allowed; returns those whose
    /// places they take.
    pub(crate) fn insert(&mut self, additions: Additions) -> Vec<Arc<StoredImage>> {
        if !additions.images.is_empty() {
            self.shape = Some(additions.shape);
        }
        self.exchange(additions.images)
    }

    /// Puts images under their ids; returns those that were there.
    pub(crate) fn exchange(
        &mut self,
        images: BTreeMap<String, Arc<StoredImage>>,
    ) -> Vec<Arc<StoredImage>> {
        let images = images.into_iter();
        images
            .filter_map(|(id, image)| self.images.insert(id, image))
            .collect()
    }

    /// A gallery of some of the images.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id.
    pub(crate) fn of_ids(&self, ids: &[String]) -> Result<Self> {
        let images = ids.iter().map(|id| Ok((id.clone(), self.image(id)?)));
        let images = images.collect::<Result<_>>()?;
        let shape = self.shape.clone().filter(|_| !ids.is_empty());
        Ok(Self::of_images(self.upsample, self.dtype, shape, images))
    }

    /// Takes all images of another gallery.
    ///
    /// # Errors
    /// [`Error::Parameter`] when it upsamples or stores otherwise, or, unless `replace`, for an id that
    /// both have; [`Error::Shape`] when its images have another shape.
    pub(crate) fn share(&mut self, other: Self, replace: bool) -> Result<()> {
        if (other.upsample, other.dtype) != (self.upsample, self.dtype) {
            let settings = |of: &Self| format!("{} and {}", of.upsample.name(), of.dtype.name());
            let (own, others) = (settings(self), settings(&other));
            let message = format!("gallery: expected one of {own}, got one of {others}");
            return Err(Error::parameter("gallery", message));
        }
        let Some(shape) = other.shape else {
            return Ok(());
        };
        let keys = other.images.keys().filter(|_| !replace);
        let new: Vec<String> = keys.cloned().collect();
        self.check_insertion(&shape, &new, OnConflict::Refuse)?;
        self.shape = Some(shape);
        self.exchange(other.images);
        Ok(())
    }

    /// Removes images, which it returns: all of them, or none when one is unknown.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id.
    pub fn remove(&mut self, ids: &[String]) -> Result<Vec<Arc<StoredImage>>> {
        self.check_known(ids)?;
        let removed = ids.iter().filter_map(|id| self.images.remove(id)).collect();
        if self.images.is_empty() {
            self.shape = None; // the next image decides anew
            self.projection = Arc::default();
            self.centering = Arc::default();
        }
        Ok(removed)
    }

    /// The first running numbers ("000000", "000001", …) that are no ids yet.
    #[must_use]
    pub fn free_ids(&self, n: usize) -> Vec<String> {
        let numbers = (0..).map(|number: u64| format!("{number:06}"));
        let free = numbers.filter(|id| !self.images.contains_key(id));
        free.take(n).collect()
    }

    /// All images, in the order of their ids.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<StoredImage>> {
        self.images.values()
    }

    /// For each list of ids the images (each once); or one selection of all images. With the ids of all
    /// images that were selected, sorted: ranks are places among them.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id.
    pub fn select_each(
        &self,
        lists: Option<&[Vec<String>]>,
    ) -> Result<(Vec<Selection>, Vec<String>)> {
        let Some(lists) = lists else {
            let ids = self.ids().map(str::to_owned).collect();
            return Ok((vec![self.select(None)?], ids));
        };
        let mut used: BTreeMap<&str, (u32, &Arc<StoredImage>)> = BTreeMap::new();
        for id in lists.iter().flatten() {
            let (id, image) = self
                .images
                .get_key_value(id)
                .ok_or_else(|| unknown_id(id))?;
            used.insert(id, (0, image));
        }
        for (place, (rank, _)) in (0..).zip(used.values_mut()) {
            *rank = place;
        }
        let selections = lists.iter().map(|ids| {
            let images = ids.iter().map(|id| used[id.as_str()]);
            let images: BTreeMap<u32, _> = images.collect();
            let images = images.into_iter();
            Selection {
                images: images
                    .map(|(rank, image)| (rank, Arc::clone(image)))
                    .collect(),
                projection: Arc::clone(&self.projection),
                centering: Arc::clone(&self.centering),
                hidden: Vec::new(),
            }
        });
        let selections = selections.collect();
        let ids = used.into_keys().map(str::to_owned).collect();
        Ok((selections, ids))
    }

    /// The images with these ids (each once), or all.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id.
    pub fn select(&self, ids: Option<&[String]>) -> Result<Selection> {
        let images = match ids {
            None => (0..).zip(self.images.values().cloned()).collect(),
            Some(ids) => {
                let ranks: BTreeMap<&str, u32> = self.ids().zip(0..).collect();
                let mut images = BTreeMap::new();
                for id in ids {
                    let rank = ranks.get(id.as_str()).ok_or_else(|| unknown_id(id))?;
                    images.insert(*rank, self.images[id].clone());
                }
                images.into_iter().collect()
            }
        };
        Ok(Selection {
            images,
            projection: Arc::clone(&self.projection),
            centering: Arc::clone(&self.centering),
            hidden: Vec::new(),
        })
    }

    /// The stored pyramid of one image, not verified.
    ///
    /// # Errors
    /// [`Error::Parameter`] for an unknown id.
    pub fn image(&self, id: &str) -> Result<Arc<StoredImage>> {
        self.images.get(id).cloned().ok_or_else(|| unknown_id(id))
    }
}

fn no_images() -> Error {
    Error::parameter("gallery", "the gallery is empty: add images first")
}

fn unknown_id(id: &str) -> Error {
    let message = format!("images: there is no image {id:?} in the gallery");
    Error::parameter("images", message).of_image(id)
}
