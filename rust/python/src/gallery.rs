//! `knnspect._core.Gallery`.

use crate::arrays::Levels;
use crate::errors::{named, to_py};
use crate::interrupt;
use crate::store::{Store, Tensors};
use half::f16;
use knnspect_core::gallery::Additions;
use knnspect_core::matching::{self, Matcher};
use knnspect_core::pyramid::{LevelData, Upsample};
use knnspect_core::{DType, InstructionSet, Result};
use numpy::{PyArray, PyArray4, PyArrayMethods, PyUntypedArray};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All pairs, and those of each stage.
pub(crate) type Work = (u64, Vec<(String, u64)>);

type Neighbors<'py> = (
    Bound<'py, PyArray4<f32>>,
    Bound<'py, PyArray4<u32>>,
    Bound<'py, PyArray4<u32>>,
    Vec<String>,
    Work,
);

/// The pyramids of normal images. Searches see the gallery as it was when they began, so images may
/// be added and removed by other threads meanwhile.
#[pyclass(frozen, module = "knnspect._core")]
pub(crate) struct Gallery {
    inner: Mutex<knnspect_core::Gallery>,
}

impl Gallery {
    pub(crate) fn lock(&self) -> MutexGuard<'_, knnspect_core::Gallery> {
        // The core changes a gallery only once nothing can fail any more.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A way of upsampling by its name.
pub(crate) fn upsample_from(py: Python<'_>, name: &str) -> PyResult<Upsample> {
    Upsample::from_name(name).ok_or_else(|| {
        let message = format!("upsample: expected \"bilinear\" or \"block\", got {name:?}");
        named(py, "ParameterError", message)
    })
}

/// A number of threads, if one is asked for.
pub(crate) fn threads_from(
    py: Python<'_>,
    threads: Option<usize>,
) -> PyResult<Option<NonZero<usize>>> {
    let zero = || "threads: expected at least 1, got 0".to_owned();
    threads
        .map(|threads| NonZero::new(threads).ok_or_else(|| named(py, "ParameterError", zero())))
        .transpose()
}

#[pymethods]
impl Gallery {
    #[new]
    fn new(py: Python<'_>, upsample: &str, dtype: &str) -> PyResult<Self> {
        let upsample = upsample_from(py, upsample)?;
        let dtype = DType::from_name(dtype).ok_or_else(|| {
            let message =
                format!("dtype: expected \"float32\", \"float16\" or \"int8\", got {dtype:?}");
            named(py, "ParameterError", message)
        })?;
        Ok(Self {
            inner: Mutex::new(knnspect_core::Gallery::new(upsample, dtype)),
        })
    }

    /// The gallery in an open file.
    #[staticmethod]
    fn from_store(py: Python<'_>, store: &Store) -> PyResult<Self> {
        let inner =
            knnspect_core::Gallery::from_store(&store.inner).map_err(|error| to_py(py, &error))?;
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    #[getter]
    fn upsample(&self) -> &'static str {
        self.lock().upsample().name()
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.lock().dtype().name()
    }

    #[getter]
    fn shapes(&self) -> Vec<(usize, usize, usize)> {
        let gallery = self.lock();
        let levels = gallery.shape().map_or(&[][..], |shape| shape.levels());
        levels
            .iter()
            .map(|level| (level.height, level.width, level.channels))
            .collect()
    }

    #[getter]
    fn ids(&self) -> Vec<String> {
        self.lock().ids().map(str::to_owned).collect()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.lock().n_bytes()
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }

    fn add(
        &self,
        py: Python<'_>,
        levels: Vec<Bound<'_, PyUntypedArray>>,
        ids: Vec<String>,
    ) -> PyResult<()> {
        let levels = Levels::new(py, &levels)?;
        let batch = levels.batch(py)?;
        let dtype = self.lock().dtype();
        interrupt::run(py, |cancel| {
            // Copied before the lock is taken, so that nobody waits for more than the insertion.
            let additions = Additions::new(&batch, &ids, dtype, cancel)?;
            cancel.check()?;
            self.lock().insert(additions)
        })
    }

    fn remove(&self, py: Python<'_>, ids: Vec<String>) -> PyResult<()> {
        self.lock().remove(&ids).map_err(|error| to_py(py, &error))
    }

    /// Another gallery of the same images, which are shared.
    fn copy(&self) -> Self {
        Self {
            inner: Mutex::new(self.lock().clone()),
        }
    }

    /// The stored levels of one image, each `(height, width, channels)`, as copies; codes decoded.
    #[pyo3(signature = (id, /))]
    fn image<'py>(&self, py: Python<'py>, id: &str) -> PyResult<Vec<Bound<'py, PyUntypedArray>>> {
        // Not under the lock: making arrays may run Python code, which may come back here.
        let (image, shape) = {
            let gallery = self.lock();
            (
                gallery.image(id).map_err(|error| to_py(py, &error))?,
                gallery.shape().cloned(),
            )
        };
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

    /// `(sq_distances, image_index, cells, ids, work)`: arrays of shape `(n_images, height, width, k)`;
    /// `image_index` points into `ids`, the sorted ids of all images searched.
    #[pyo3(signature = (levels, k, images, threads, instruction_set, matcher))]
    // The arguments of the Python method.
    #[allow(clippy::too_many_arguments)]
    fn search<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
        k: usize,
        images: Option<Vec<Vec<String>>>,
        threads: Option<usize>,
        instruction_set: Option<&str>,
        matcher: &str,
    ) -> PyResult<Neighbors<'py>> {
        let raise = |error| to_py(py, &error);
        let threads = threads_from(py, threads)?;
        let instruction_set = instruction_set
            .map(InstructionSet::from_name)
            .transpose()
            .map_err(raise)?;
        let matcher = Matcher::from_name(matcher).ok_or_else(|| {
            let message = format!(
                "matcher: expected \"auto\", \"exhaustive\" or \"pruned\", got {matcher:?}"
            );
            named(py, "ParameterError", message)
        })?;
        let levels = Levels::new(py, &levels)?;
        let query = levels.batch(py)?;
        let finest = query.shape().finest();
        let shape = [query.n_images(), finest.height, finest.width, k];
        let (found, ids) = interrupt::run(py, |cancel| {
            let (context, selections, ids) = {
                let gallery = self.lock();
                let selections: Result<Vec<_>> = match &images {
                    None => gallery.select(None).map(|all| vec![all]),
                    Some(images) => images.iter().map(|ids| gallery.select(Some(ids))).collect(),
                };
                (
                    gallery.pyramid_context()?,
                    selections?,
                    gallery.ids().map(str::to_owned).collect::<Vec<_>>(),
                )
            };
            let options = matching::Options {
                k,
                threads,
                instruction_set,
                matcher,
                cancel,
            };
            let mut found = matching::search(&query, &context, &selections, &options)?;
            // Ranks among all ids become places among the ids that occur, which may be few of many.
            let mut places = vec![u32::MAX; ids.len()];
            let mut used = Vec::new();
            for selection in &selections {
                for rank in selection.ranks() {
                    places[rank as usize] = 0;
                }
            }
            for (place, id) in places.iter_mut().zip(ids).filter(|(place, _)| **place == 0) {
                *place = used.len() as u32;
                used.push(id);
            }
            for rank in &mut found.ranks {
                *rank = places[*rank as usize];
            }
            Ok((found, used))
        })?;
        Ok((
            PyArray::from_vec(py, found.sq_distances).reshape(shape)?,
            PyArray::from_vec(py, found.ranks).reshape(shape)?,
            PyArray::from_vec(py, found.cells).reshape(shape)?,
            ids,
            (found.work.pairs, found.work.stages),
        ))
    }

    /// Writes the gallery with more metadata and tensors to a file of `kind`, atomically.
    fn save(
        &self,
        py: Python<'_>,
        path: PathBuf,
        kind: &str,
        metadata: BTreeMap<String, String>,
        tensors: BTreeMap<String, Bound<'_, PyUntypedArray>>,
    ) -> PyResult<()> {
        let tensors = Tensors::new(py, tensors)?;
        let gallery = self.lock().clone();
        interrupt::run(py, |cancel| {
            gallery.save(&path, kind, &metadata, tensors.views(), cancel)
        })
    }
}
