//! Galleries in one file.

use super::image::{AFFINE, StoredImage, parts};
use super::images::Gallery;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::pyramid::{DType, LevelData, PyramidShape, Upsample};
use crate::storage::{Dtype, Links, Store, Tensor, write};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

impl Gallery {
    /// Writes the gallery, with more metadata and tensors of the caller's, to a file of `kind`.
    ///
    /// # Errors
    /// [`Error::Store`] when the file cannot be written; [`Error::Parameter`] when the gallery is
    /// empty; [`Error::Interrupted`].
    pub fn save(
        &self,
        path: &Path,
        links: Links,
        kind: &str,
        metadata: &BTreeMap<String, String>,
        tensors: BTreeMap<String, Tensor<'_>>,
        cancel: Cancel<'_>,
    ) -> Result<()> {
        let shape = self.shape.as_ref().filter(|_| !self.is_empty());
        let shape =
            shape.ok_or_else(|| Error::Parameter("an empty gallery cannot be saved".into()))?;
        let mut metadata = metadata.clone();
        let ids: Vec<&str> = self.ids().collect();
        metadata.insert(
            "gallery.ids".into(),
            serde_json::Value::from(ids).to_string(),
        );
        metadata.insert("gallery.upsample".into(), self.upsample.name().into());

        // Damage must not be passed on under a new checksum.
        for image in self.images() {
            cancel.check()?;
            image.verify(false)?;
        }
        let images: Vec<Vec<LevelData<'_>>> =
            self.images.values().map(|image| image.levels()).collect();
        let mut own = BTreeMap::new();
        for levels in &images {
            for (index, (level, shape)) in levels.iter().zip(shape.levels()).enumerate() {
                for (end, dtype, shape, bytes) in parts(*level, *shape) {
                    own.entry(level_name(index) + end)
                        .or_insert_with(|| Tensor {
                            dtype,
                            shape: [&[self.len()], &shape[..]].concat(),
                            parts: Vec::with_capacity(self.len()),
                        })
                        .parts
                        .push(bytes);
                }
            }
        }
        let mut tensors = tensors;
        tensors.extend(own);
        write(path, links, kind, &metadata, &tensors, cancel)
    }

    /// The gallery in an open file; its features stay there.
    ///
    /// # Errors
    /// [`Error::Store`] when the file holds no gallery, or one that is not consistent.
    pub fn from_store(store: &Arc<Store>) -> Result<Self> {
        let fail = |reason: String| Error::store(store.path(), reason);
        let ids: Vec<String> =
            serde_json::from_str(store.entry("gallery.ids")?).map_err(|error| {
                fail(format!(
                    "is damaged: the ids of its gallery cannot be read ({error})"
                ))
            })?;
        if ids.is_empty() {
            return Err(fail("is damaged: its gallery has no images".into()));
        }
        let name = store.entry("gallery.upsample")?;
        let upsample = Upsample::from_name(name)
            .ok_or_else(|| fail(format!("has an unknown way of upsampling, {name:?}")))?;
        let names: Vec<String> = (0..store.tensors().len())
            .map(level_name)
            .take_while(|name| store.tensors().contains_key(name))
            .collect();
        let mut shapes = Vec::new();
        let mut dtypes = Vec::new();
        let mut levels = Vec::new();
        for name in &names {
            let tensor = store.tensor(name)?;
            let [n_images, height, width, channels] = tensor.shape[..] else {
                return Err(fail(format!(
                    "is damaged: {name} has {} axes instead of 4",
                    tensor.shape.len()
                )));
            };
            if n_images != ids.len() {
                return Err(fail(format!(
                    "is damaged: {name} has {n_images} images, there are {} ids",
                    ids.len()
                )));
            }
            shapes.push((height, width, channels));
            let dtype = match tensor.dtype {
                Dtype::F32 => DType::F32,
                Dtype::F16 => DType::F16,
                Dtype::I8 => DType::I8,
                other => return Err(fail(format!("is damaged: {name} holds {other:?}"))),
            };
            dtypes.push(dtype);
            let mut tensors = vec![tensor];
            for end in AFFINE.iter().filter(|_| dtype == DType::I8) {
                let name = format!("{name}{end}");
                let tensor = store.tensor(&name)?;
                let (found, expected) = (&tensor.shape, [n_images, channels]);
                if tensor.dtype != Dtype::F32 || *found != expected {
                    return Err(fail(format!(
                        "is damaged: {name} holds {:?} of shape {found:?} instead of F32 of {expected:?}",
                        tensor.dtype
                    )));
                }
                tensors.push(tensor);
            }
            if tensors.iter().any(|tensor| {
                let bytes = store.bytes(tensor);
                bytes.as_ptr().align_offset(tensor.dtype.bitsize() / 8) != 0
            }) {
                return Err(fail(format!("is damaged: {name} is not aligned")));
            }
            levels.push(tensors);
        }
        let shape =
            PyramidShape::new(&shapes).map_err(|error| fail(format!("is damaged: {error}")))?;
        let dtype = dtypes[0];
        if dtypes.iter().any(|other| *other != dtype) {
            return Err(fail("is damaged: its levels differ in type".into()));
        }
        let mut images = BTreeMap::new();
        let file: Arc<Path> = store.path().into();
        for (index, id) in ids.into_iter().enumerate() {
            let image = StoredImage::mapped(store, dtype, &levels, index, (&file, &id));
            if dtype == DType::I8
                && let Some(level) = image.levels().iter().position(|level| !level.all_finite())
            {
                return Err(fail(format!(
                    "is damaged: by its offsets and scales, {} of image {id:?} is not finite",
                    level_name(level)
                )));
            }
            if images.insert(id.clone(), Arc::new(image)).is_some() {
                return Err(fail(format!("is damaged: it has two images {id:?}")));
            }
        }
        Ok(Self::of_images(upsample, dtype, Some(shape), images))
    }
}

fn level_name(level: usize) -> String {
    format!("gallery.level{level}")
}
