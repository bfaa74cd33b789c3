//! Numbers in memory or in a mapped file.

use super::mapping::Mapping;
use super::tensors::{Store, StoredTensor};
use half::f16;
use std::sync::Arc;

#[cfg(target_endian = "big")]
compile_error!("gallery files are little-endian and used in place");

/// Values in memory or in a file.
#[derive(Debug)]
pub(crate) enum Buffer<T> {
    Owned(Box<[T]>),
    /// The byte of the file at which they start, and their number.
    Mapped {
        mapping: Arc<Mapping>,
        start: usize,
        len: usize,
    },
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(values: Vec<T>) -> Self {
        Self::Owned(values.into())
    }
}

impl<T: Plain> Buffer<T> {
    pub(crate) fn mapped(store: &Arc<Store>, tensor: &StoredTensor, image: usize) -> Self {
        let len: usize = tensor.shape[1..].iter().product();
        Self::Mapped {
            mapping: Arc::clone(store.mapping()),
            start: tensor.start() + image * len * size_of::<T>(),
            len,
        }
    }

    /// The values in these bytes of a file, of which `start` is aligned for them.
    pub(crate) fn of_bytes((mapping, start, n_bytes): (&Arc<Mapping>, usize, usize)) -> Self {
        Self::Mapped {
            mapping: Arc::clone(mapping),
            start,
            len: n_bytes / size_of::<T>(),
        }
    }

    pub(crate) fn values(&self) -> &[T] {
        match self {
            Self::Owned(values) => values,
            // The start was found to be aligned when the file was opened, or made so, and every
            // image starts at a multiple of the element size, so that nothing is left before or after.
            Self::Mapped {
                mapping,
                start,
                len,
            } => {
                let bytes = mapping.slice(*start, len * size_of::<T>());
                // SAFETY: every pattern of bits is a value of a `Plain` type.
                unsafe { bytes.align_to::<T>() }.1
            }
        }
    }
}

/// Types of which every pattern of bits is a value, without padding.
///
/// # Safety
/// They must be such.
pub(crate) unsafe trait Plain {}
// SAFETY: numbers are such.
unsafe impl Plain for f32 {}
// SAFETY: the same.
unsafe impl Plain for f16 {}
// SAFETY: the same.
unsafe impl Plain for i8 {}
// SAFETY: the same.
unsafe impl Plain for u8 {}

/// The bytes of some values.
pub(crate) fn to_bytes<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: there is no padding, and every byte is a valid `u8`, which needs no alignment.
    unsafe { values.align_to::<u8>().1 }
}
