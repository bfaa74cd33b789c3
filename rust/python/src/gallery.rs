//! `knnspect._core.Gallery`.

use crate::arrays::Levels;
use crate::errors::{OrRaise, parameter_error};
use crate::interrupt;
use crate::store::{Store, Tensors, links_from};
use half::f16;
use knnspect_core::gallery::{Lock, OnConflict};
use knnspect_core::pyramid::{LevelData, Upsample};
use knnspect_core::{DType, InstructionSet, SharedGallery};
use numpy::{PyArray, PyArrayMethods, PyUntypedArray};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;

/// The pyramids of normal images. Searches see the gallery as it was when they began, so images may
/// be added and removed by other threads meanwhile.
#[pyclass(frozen, weakref, module = "knnspect._core")]
pub(crate) struct Gallery {
    inner: SharedGallery,
}

/// The words for how a gallery upsamples, and keeps features.
fn settings(py: Python<'_>, upsample: &str, dtype: &str) -> PyResult<(Upsample, DType)> {
    let upsample = upsample_from(py, upsample)?;
    let dtype = dtype.parse().or_raise(py)?;
    Ok((upsample, dtype))
}

impl Gallery {
    pub(crate) fn read<T>(&self, look: impl FnOnce(&knnspect_core::Gallery) -> T) -> T {
        self.inner.read(look)
    }

    fn put(
        &self,
        py: Python<'_>,
        levels: &[Bound<'_, PyUntypedArray>],
        ids: &[String],
        on_conflict: OnConflict,
    ) -> PyResult<()> {
        let levels = Levels::new(py, levels)?;
        let batch = levels.batch(py)?;
        interrupt::run(py, |cancel| {
            self.inner.add(&batch, ids, on_conflict, cancel)
        })
    }
}

impl From<SharedGallery> for Gallery {
    fn from(inner: SharedGallery) -> Self {
        Self { inner }
    }
}

/// A way of upsampling by its name.
pub(crate) fn upsample_from(py: Python<'_>, name: &str) -> PyResult<Upsample> {
    name.parse().or_raise(py)
}

/// A number of threads, if one is asked for.
pub(crate) fn threads_from(
    py: Python<'_>,
    threads: Option<usize>,
) -> PyResult<Option<NonZero<usize>>> {
    let zero = || "threads: expected at least 1, got 0".to_owned();
    threads
        .map(|threads| NonZero::new(threads).ok_or_else(|| parameter_error(py, "threads", zero())))
        .transpose()
}

/// An instruction set of this machine by its name, if one is asked for.
pub(crate) fn instruction_set_from(
    py: Python<'_>,
    name: Option<&str>,
) -> PyResult<Option<InstructionSet>> {
    let found = name.map(InstructionSet::available_by_name);
    found.transpose().or_raise(py)
}

#[pymethods]
impl Gallery {
    #[new]
    fn new(py: Python<'_>, upsample: &str, dtype: &str) -> PyResult<Self> {
        let (upsample, dtype) = settings(py, upsample, dtype)?;
        let gallery = knnspect_core::Gallery::new(upsample, dtype);
        Ok(SharedGallery::from(gallery).into())
    }

    /// The gallery in an open file.
    #[staticmethod]
    fn from_store(py: Python<'_>, store: &Store) -> PyResult<Self> {
        let inner = knnspect_core::Gallery::from_store(&store.inner).or_raise(py)?;
        Ok(SharedGallery::from(inner).into())
    }

    /// An empty gallery in a new folder, open for writing.
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf, upsample: &str, dtype: &str) -> PyResult<Self> {
        let (upsample, dtype) = settings(py, upsample, dtype)?;
        let created = interrupt::run(py, |_| SharedGallery::create(&path, upsample, dtype));
        created.map(Self::from)
    }

    /// The gallery in a folder.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, write: bool) -> PyResult<Self> {
        interrupt::run(py, |cancel| SharedGallery::open(&path, write, cancel)).map(Self::from)
    }

    /// The gallery in a folder as it was in an earlier state.
    #[staticmethod]
    fn open_at(py: Python<'_>, path: PathBuf, write: bool, state: &str) -> PyResult<Self> {
        let opened = interrupt::run(py, |cancel| {
            SharedGallery::open_at(&path, write, state, cancel)
        });
        opened.map(Self::from)
    }

    /// What tells the state of the folder from every other.
    #[getter]
    fn journal_state(&self, py: Python<'_>) -> Option<String> {
        py.detach(|| self.inner.journal_state())
    }

    /// Takes images of another gallery, which both share from then on.
    fn share(
        &self,
        py: Python<'_>,
        other: PyRef<'_, Self>,
        ids: Option<Vec<String>>,
        replace: bool,
    ) -> PyResult<()> {
        let other = &other.inner;
        interrupt::run(py, |_| self.inner.share(other, ids.as_deref(), replace))
    }

    /// Copies images of another gallery as they are kept there.
    fn take(&self, py: Python<'_>, other: PyRef<'_, Self>, ids: Vec<String>) -> PyResult<()> {
        let other = &other.inner;
        interrupt::run(py, |cancel| self.inner.take(other, &ids, cancel))
    }

    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.inner.path().map(PathBuf::from)
    }

    #[getter]
    fn is_writable(&self) -> bool {
        self.inner.is_writable()
    }

    #[getter]
    fn n_removed(&self) -> usize {
        self.inner.n_removed()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inner.close());
    }

    #[getter]
    fn upsample(&self) -> &'static str {
        self.read(|gallery| gallery.upsample().name())
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.read(|gallery| gallery.dtype().name())
    }

    #[getter]
    fn shapes(&self) -> Vec<(usize, usize, usize)> {
        self.read(|gallery| {
            let levels = gallery.shape().map_or(&[][..], |shape| shape.levels());
            levels
                .iter()
                .map(|level| (level.height, level.width, level.channels))
                .collect()
        })
    }

    #[getter]
    fn ids(&self) -> Vec<String> {
        self.read(|gallery| gallery.ids().map(str::to_owned).collect())
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.read(knnspect_core::Gallery::n_bytes)
    }

    fn __len__(&self) -> usize {
        self.read(knnspect_core::Gallery::len)
    }

    fn contains(&self, id: &str) -> bool {
        self.read(|gallery| gallery.image(id).is_ok())
    }

    /// The first running numbers that are no ids yet.
    fn free_ids(&self, n: usize) -> Vec<String> {
        self.read(|gallery| gallery.free_ids(n))
    }

    fn add(
        &self,
        py: Python<'_>,
        levels: Vec<Bound<'_, PyUntypedArray>>,
        ids: Vec<String>,
    ) -> PyResult<()> {
        self.put(py, &levels, &ids, OnConflict::Refuse)
    }

    fn replace(
        &self,
        py: Python<'_>,
        levels: Vec<Bound<'_, PyUntypedArray>>,
        ids: Vec<String>,
    ) -> PyResult<()> {
        self.put(py, &levels, &ids, OnConflict::Replace)
    }

    fn remove(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<()> {
        interrupt::run(py, |_| self.inner.remove(&ids))
    }

    fn compact(&self, py: Python<'_>) -> PyResult<()> {
        interrupt::run(py, |cancel| self.inner.compact(cancel))
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        interrupt::run(py, |cancel| self.inner.verify(cancel))
    }

    /// Another gallery of the same images, which are shared.
    fn copy(&self) -> Self {
        SharedGallery::from(self.inner.copy()).into()
    }

    /// A gallery of one level alone, of the same images, which are shared.
    fn level(&self, py: Python<'_>, index: usize) -> PyResult<Self> {
        let level = self.inner.copy().level(index).or_raise(py)?;
        Ok(SharedGallery::from(level).into())
    }

    /// The stored levels of one image, each `(height, width, channels)`, as copies; codes decoded.
    #[pyo3(signature = (id, /))]
    fn image<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Vec<Bound<'py, PyUntypedArray>>> {
        // Not under the lock: making arrays may run Python code, which may come back here.
        let found = self.read(|gallery| (gallery.image(id), gallery.shape().cloned()));
        let (image, shape) = (found.0.or_raise(py)?, found.1);
        interrupt::run(py, |_| image.verify(false))?;
        let shapes = shape.as_ref().map_or(&[][..], |shape| shape.levels());
        image
            .levels()
            .into_iter()
            .zip(shapes)
            .map(|(level, shape)| {
                let axes = [shape.height, shape.width, shape.channels];
                Ok(match level {
                    LevelData::F16(values) => PyArray::<f16, _>::from_slice(py, values)
                        .reshape(axes)?
                        .as_untyped()
                        .clone(),
                    level => {
                        let mut values = vec![0.0_f32; shape.values()];
                        level.decode_into(&mut values);
                        PyArray::from_vec(py, values)
                            .reshape(axes)?
                            .as_untyped()
                            .clone()
                    }
                })
            })
            .collect()
    }

    /// Writes the gallery with more metadata and tensors to a file of `kind`, atomically.
    #[pyo3(signature = (path, kind, metadata, tensors, follow_links = true))]
    fn save(
        &self,
        py: Python<'_>,
        path: PathBuf,
        kind: &str,
        metadata: BTreeMap<String, String>,
        tensors: BTreeMap<String, Bound<'_, PyUntypedArray>>,
        follow_links: bool,
    ) -> PyResult<()> {
        let tensors = Tensors::new(tensors)?;
        let gallery = self.inner.copy();
        interrupt::run(py, |cancel| {
            let links = links_from(follow_links);
            gallery.save(&path, links, kind, &metadata, tensors.views(), cancel)
        })
    }
}

/// The right to change what is in a folder, until it is closed or gone.
#[pyclass(frozen, module = "knnspect._core")]
pub(crate) struct FolderLock {
    inner: Mutex<Option<Lock>>,
}

#[pymethods]
impl FolderLock {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let lock = interrupt::run(py, |_| Lock::take(&path))?;
        let inner = Mutex::new(Some(lock));
        Ok(Self { inner })
    }

    /// Gives the right back.
    fn close(&self) {
        let mut lock = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        lock.take();
    }
}
