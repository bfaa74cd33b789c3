//! The stored pyramid of one image, in memory or in a file.

use crate::error::{Error, Result};
use crate::kernels::InstructionSet;
use crate::pyramid::{DType, LevelData};
use crate::rotation::{Codes, Rotation, Slot};
use crate::store::Store;
use half::f16;
use std::sync::{Arc, OnceLock};

#[cfg(target_endian = "big")]
compile_error!("gallery files are little-endian and used in place");

/// The pyramid of one image, all levels one after the other.
#[derive(Debug)]
pub struct StoredImage {
    /// Number of values of each level.
    lens: Vec<usize>,
    values: Values,
    /// The only level in the coordinates of a flat gallery; made by the first search.
    codes: OnceLock<(Arc<Slot>, Option<Codes>)>,
}

#[derive(Debug)]
enum Values {
    F32(Box<[f32]>),
    F16(Box<[f16]>),
    /// In a file: the byte at which each level of this image starts.
    Mapped {
        store: Arc<Store>,
        dtype: DType,
        starts: Vec<usize>,
    },
}

impl StoredImage {
    /// Copies the levels of one image, called `id` in messages.
    ///
    /// # Errors
    /// [`Error::Image`] for a feature too large for float16 storage.
    pub(crate) fn new(levels: &[LevelData<'_>], dtype: DType, id: &str) -> Result<Self> {
        let values = match dtype {
            DType::F32 => Values::F32(levels.iter().flat_map(to_f32).collect()),
            DType::F16 => {
                let values: Box<[f16]> = levels.iter().flat_map(to_f16).collect();
                if !values.iter().all(|v| v.is_finite()) {
                    return Err(Error::Image(format!(
                        "image {id:?}: a feature exceeds the largest float16, {}; use a float32 gallery",
                        f16::MAX
                    )));
                }
                Values::F16(values)
            }
        };
        let lens = levels.iter().map(LevelData::len).collect();
        Ok(Self {
            lens,
            values,
            codes: OnceLock::new(),
        })
    }

    /// An image whose levels, of `lens` values, start at these bytes of an open file.
    pub(crate) const fn mapped(
        store: Arc<Store>,
        dtype: DType,
        lens: Vec<usize>,
        starts: Vec<usize>,
    ) -> Self {
        Self {
            lens,
            values: Values::Mapped {
                store,
                dtype,
                starts,
            },
            codes: OnceLock::new(),
        }
    }

    /// Whether [`codes`](Self::codes) has only to look them up.
    pub(crate) fn is_encoded(&self) -> bool {
        self.codes.get().is_some()
    }

    /// The codes of an image of one level, kept for the next search; nothing where a row is too far
    /// off, or where the image was encoded for a gallery of other coordinates.
    pub(crate) fn codes(&self, slot: &Arc<Slot>, set: InstructionSet) -> Option<&Codes> {
        let rotation: &Rotation = slot.get()?.as_ref()?;
        let (of, codes) = self.codes.get_or_init(|| {
            let codes = rotation.encode(set, &self.levels()[0]);
            (Arc::clone(slot), codes)
        });
        codes.as_ref().filter(|_| Arc::ptr_eq(of, slot))
    }

    /// The values of each level.
    ///
    /// # Panics
    /// Never: the sizes were checked when the image was made.
    #[must_use]
    pub fn levels(&self) -> Vec<LevelData<'_>> {
        let mut start = 0;
        self.lens
            .iter()
            .enumerate()
            .map(|(level, &len)| {
                let data = match &self.values {
                    Values::F32(values) => LevelData::F32(&values[start..start + len]),
                    Values::F16(values) => LevelData::F16(&values[start..start + len]),
                    Values::Mapped {
                        store,
                        dtype,
                        starts,
                    } => from_bytes(*dtype, store.slice(starts[level], len * dtype.size())),
                };
                start += len;
                data
            })
            .collect()
    }
}

fn to_f32<'a>(level: &LevelData<'a>) -> Box<dyn Iterator<Item = f32> + 'a> {
    match *level {
        LevelData::F32(values) => Box::new(values.iter().copied()),
        LevelData::F16(values) => Box::new(values.iter().map(|v| v.to_f32())),
    }
}

fn to_f16<'a>(level: &LevelData<'a>) -> Box<dyn Iterator<Item = f16> + 'a> {
    match *level {
        LevelData::F32(values) => Box::new(values.iter().map(|&v| f16::from_f32(v))),
        LevelData::F16(values) => Box::new(values.iter().copied()),
    }
}

/// The bytes of a level as they stand in files.
pub(crate) fn to_bytes(level: LevelData<'_>) -> &[u8] {
    match level {
        // SAFETY: floats have no padding, and every byte is a valid `u8`, which needs no alignment.
        LevelData::F32(values) => unsafe { values.align_to::<u8>().1 },
        // SAFETY: the same.
        LevelData::F16(values) => unsafe { values.align_to::<u8>().1 },
    }
}

fn from_bytes(dtype: DType, bytes: &[u8]) -> LevelData<'_> {
    // Tensors were found to be aligned when the file was opened, and all offsets are multiples of
    // the element size, so that nothing is left before or after.
    match dtype {
        // SAFETY: every pattern of four bytes is a valid float.
        DType::F32 => LevelData::F32(unsafe { bytes.align_to::<f32>() }.1),
        // SAFETY: every pattern of two bytes is a valid half float.
        DType::F16 => LevelData::F16(unsafe { bytes.align_to::<f16>() }.1),
    }
}
