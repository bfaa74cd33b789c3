//! `knnspect._core.Store`: a file of tensors, and arrays on their way into one.

use crate::errors::{DTypeError, OrRaise};
use crate::interrupt;
use half::f16;
use knnspect_core::storage::{self, Dtype, Links, Tensor};
use numpy::{Element, PyArray, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// An open, memory-mapped file.
#[pyclass(frozen, module = "knnspect._core")]
pub(crate) struct Store {
    pub(crate) inner: Arc<storage::Store>,
}

#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (path, verify, follow_links = true))]
    fn new(py: Python<'_>, path: PathBuf, verify: bool, follow_links: bool) -> PyResult<Self> {
        let links = links_from(follow_links);
        let inner = interrupt::run(py, |cancel| {
            storage::Store::open(&path, links, verify, cancel)
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.inner.path().to_owned()
    }

    #[getter]
    fn kind(&self) -> &str {
        self.inner.kind()
    }

    #[getter]
    fn metadata(&self) -> HashMap<String, String> {
        self.inner.metadata().clone()
    }

    #[getter]
    fn names(&self) -> Vec<String> {
        self.inner.tensors().keys().cloned().collect()
    }

    /// A copy of one tensor.
    fn tensor<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyUntypedArray>> {
        let tensor = self.inner.tensor(name).or_raise(py)?;
        let unusable = |why: &str| self.inner.damaged(&format!("{name} {why}"));
        let bytes = self.inner.bytes(tensor);
        match tensor.dtype {
            Dtype::F64 => array(py, bytes, &tensor.shape, f64::from_le_bytes),
            Dtype::F32 => array(py, bytes, &tensor.shape, f32::from_le_bytes),
            Dtype::F16 => array(py, bytes, &tensor.shape, f16::from_le_bytes),
            Dtype::I64 => array(py, bytes, &tensor.shape, i64::from_le_bytes),
            Dtype::I8 => array(py, bytes, &tensor.shape, i8::from_le_bytes),
            other => return Err(unusable(&format!("holds {other:?}"))).or_raise(py),
        }
        // NumPy has fewer axes than files may have.
        .or_else(|error| Err(unusable(&format!("cannot be an array ({error})"))).or_raise(py))
    }
}

/// Writes arrays and metadata to a file of `kind`, atomically.
#[pyfunction]
#[pyo3(signature = (path, kind, metadata, tensors, follow_links = true))]
pub(crate) fn save_tensors(
    py: Python<'_>,
    path: PathBuf,
    kind: &str,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Bound<'_, PyUntypedArray>>,
    follow_links: bool,
) -> PyResult<()> {
    let tensors = Tensors::new(tensors)?;
    let links = links_from(follow_links);
    interrupt::run(py, |cancel| {
        storage::write(&path, links, kind, &metadata, &tensors.views(), cancel)
    })
}

/// The bytes of a regular file that has at most `limit` of them.
#[pyfunction]
pub(crate) fn read_file(
    py: Python<'_>,
    path: PathBuf,
    limit: u64,
    follow_links: bool,
) -> PyResult<Bound<'_, PyBytes>> {
    let links = links_from(follow_links);
    let contents = interrupt::run(py, |cancel| storage::read_file(&path, links, limit, cancel))?;
    Ok(PyBytes::new(py, &contents))
}

/// Writes a file, atomically.
#[pyfunction]
pub(crate) fn replace_file(
    py: Python<'_>,
    path: PathBuf,
    contents: &[u8],
    follow_links: bool,
) -> PyResult<()> {
    let links = links_from(follow_links);
    interrupt::run(py, |cancel| {
        storage::replace_file(&path, links, [contents].into_iter(), cancel).map(drop)
    })
}

/// Whether the last part of a path may be a symbolic link.
pub(crate) const fn links_from(follow: bool) -> Links {
    if follow { Links::Follow } else { Links::Refuse }
}

fn array<'py, T: Element, const N: usize>(
    py: Python<'py>,
    bytes: &[u8],
    shape: &[usize],
    decode: fn([u8; N]) -> T,
) -> PyResult<Bound<'py, PyUntypedArray>> {
    let values = bytes
        .as_chunks::<N>()
        .0
        .iter()
        .map(|bytes| decode(*bytes))
        .collect();
    Ok(PyArray::from_vec(py, values)
        .reshape(shape)?
        .as_untyped()
        .clone())
}

/// Arrays that are to be written: name, type, shape and bytes.
pub(crate) struct Tensors {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl Tensors {
    pub(crate) fn new(arrays: BTreeMap<String, Bound<'_, PyUntypedArray>>) -> PyResult<Self> {
        let mut tensors = BTreeMap::new();
        for (name, array) in arrays {
            let shape = array.shape().to_vec();
            let (dtype, bytes) = if let Some(bytes) = bytes::<f32, 4>(&array, f32::to_le_bytes)? {
                (Dtype::F32, bytes)
            } else if let Some(bytes) = bytes::<f64, 8>(&array, f64::to_le_bytes)? {
                (Dtype::F64, bytes)
            } else if let Some(bytes) = bytes::<f16, 2>(&array, f16::to_le_bytes)? {
                (Dtype::F16, bytes)
            } else if let Some(bytes) = bytes::<i64, 8>(&array, i64::to_le_bytes)? {
                (Dtype::I64, bytes)
            } else {
                let message = format!(
                    "tensor {name:?}: expected float16, 32, 64 or int64, got {}",
                    array.dtype()
                );
                return Err(DTypeError::new_err(message));
            };
            tensors.insert(name, (dtype, shape, bytes));
        }
        Ok(Self { tensors })
    }

    pub(crate) fn views(&self) -> BTreeMap<String, Tensor<'_>> {
        self.tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                (
                    name.clone(),
                    Tensor {
                        dtype: *dtype,
                        shape: shape.clone(),
                        parts: vec![bytes.as_slice()],
                    },
                )
            })
            .collect()
    }
}

fn bytes<T: Element + Copy, const N: usize>(
    array: &Bound<'_, PyUntypedArray>,
    encode: fn(T) -> [u8; N],
) -> PyResult<Option<Vec<u8>>> {
    let Ok(array) = array.cast::<PyArrayDyn<T>>() else {
        return Ok(None);
    };
    let array = array.try_readonly()?;
    Ok(Some(
        array
            .as_array()
            .iter()
            .flat_map(|value| encode(*value))
            .collect(),
    ))
}
