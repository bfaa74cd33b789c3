//! Galleries in one file.

use super::image::{AFFINE, StoredImage, parts};
use super::images::Gallery;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::pyramid::{DType, LevelData, PyramidShape, Upsample};
use crate::storage::{Dtype, Links, Store, StoredTensor, Tensor, write};
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
            shape.ok_or_else(|| Error::parameter("gallery", "an empty gallery cannot be saved"))?;
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
        let ids = ids_of(store)?;
        let name = store.entry("gallery.upsample")?;
        let upsample: Upsample = name
            .parse()
            .map_err(|_| fail(store, format!("has an unknown way of upsampling, {name:?}")))?;
        let names = (0..store.tensors().len()).map(level_name);
        let names = names.take_while(|name| store.tensors().contains_key(name));
        let levels = names.map(|name| FileLevel::new(store, &name, ids.len()));
        let levels: Vec<FileLevel<'_>> = levels.collect::<Result<_>>()?;
        let shapes: Vec<_> = levels.iter().map(|level| level.shape).collect();
        let shape = PyramidShape::new(&shapes)
            .map_err(|error| fail(store, format!("is damaged: {error}")))?;
        let dtype = levels[0].dtype;
        if levels.iter().any(|level| level.dtype != dtype) {
            return Err(fail(store, "is damaged: its levels differ in type".into()));
        }
        let tensors: Vec<_> = levels.into_iter().map(|level| level.tensors).collect();
        let images = map_images(store, dtype, &tensors, ids)?;
        Ok(Self::of_images(upsample, dtype, Some(shape), images))
    }
}

fn fail(store: &Store, reason: String) -> Error {
    Error::store(store.path(), reason)
}

/// The ids of the gallery in a file.
fn ids_of(store: &Store) -> Result<Vec<String>> {
    let ids: Vec<String> = serde_json::from_str(store.entry("gallery.ids")?).map_err(|error| {
        let reason = format!("is damaged: the ids of its gallery cannot be read ({error})");
        fail(store, reason)
    })?;
    if ids.is_empty() {
        return Err(fail(store, "is damaged: its gallery has no images".into()));
    }
    Ok(ids)
}

/// One level of all images of a file.
struct FileLevel<'a> {
    shape: (usize, usize, usize),
    dtype: DType,
    /// The values, and for int8 the offsets and the scales.
    tensors: Vec<&'a StoredTensor>,
}

impl<'a> FileLevel<'a> {
    /// Finds the tensors of a level, and checks that they fit `n_ids` images.
    fn new(store: &'a Store, name: &str, n_ids: usize) -> Result<Self> {
        let damaged = |reason: String| Err(fail(store, format!("is damaged: {name} {reason}")));
        let tensor = store.tensor(name)?;
        let [n_images, height, width, channels] = tensor.shape[..] else {
            return damaged(format!("has {} axes instead of 4", tensor.shape.len()));
        };
        if n_images != n_ids {
            return damaged(format!("has {n_images} images, there are {n_ids} ids"));
        }
        let dtype = match tensor.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::I8 => DType::I8,
            other => return damaged(format!("holds {other:?}")),
        };
        let mut tensors = vec![tensor];
        for end in AFFINE.iter().filter(|_| dtype == DType::I8) {
            tensors.push(affine(
                store,
                &format!("{name}{end}"),
                [n_images, channels],
            )?);
        }
        let is_misaligned = |tensor: &&StoredTensor| {
            let bytes = store.bytes(tensor);
            bytes.as_ptr().align_offset(tensor.dtype.bitsize() / 8) != 0
        };
        if tensors.iter().any(is_misaligned) {
            return damaged("is not aligned".into());
        }
        Ok(Self {
            shape: (height, width, channels),
            dtype,
            tensors,
        })
    }
}

/// The offsets or the scales of a level.
fn affine<'a>(store: &'a Store, name: &str, expected: [usize; 2]) -> Result<&'a StoredTensor> {
    let tensor = store.tensor(name)?;
    let found = &tensor.shape;
    if tensor.dtype != Dtype::F32 || *found != expected {
        let reason = format!(
            "is damaged: {name} holds {:?} of shape {found:?} instead of F32 of {expected:?}",
            tensor.dtype
        );
        return Err(fail(store, reason));
    }
    Ok(tensor)
}

/// The images of a file, by id.
fn map_images(
    store: &Arc<Store>,
    dtype: DType,
    levels: &[Vec<&StoredTensor>],
    ids: Vec<String>,
) -> Result<BTreeMap<String, Arc<StoredImage>>> {
    let mut images = BTreeMap::new();
    let file: Arc<Path> = store.path().into();
    for (index, id) in ids.into_iter().enumerate() {
        let image = StoredImage::mapped(store, dtype, levels, index, (&file, &id));
        if dtype == DType::I8
            && let Some(level) = image.levels().iter().position(|level| !level.all_finite())
        {
            let reason = format!(
                "is damaged: by its offsets and scales, {} of image {id:?} is not finite",
                level_name(level)
            );
            return Err(fail(store, reason));
        }
        if images.insert(id.clone(), Arc::new(image)).is_some() {
            return Err(fail(store, format!("is damaged: it has two images {id:?}")));
        }
    }
    Ok(images)
}

fn level_name(level: usize) -> String {
    format!("gallery.level{level}")
}
