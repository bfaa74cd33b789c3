//! The stored pyramid of one image, in memory or in a file.

use super::folder::{Checksum, RecordLayout, RecordPlace, checksum};
use crate::bounds::{CenteringSlot, PcaProjection, ProjectedRows, ProjectionSlot, Sphere};
use crate::error::{Error, Result};
use crate::kernels::InstructionSet;
use crate::kernels::window::{WindowImage, WindowLayout};
use crate::pyramid::{DType, LevelData, LevelGrid, LevelShape, PyramidShape, append_flat_rows};
use crate::quantize::{QuantizedLevel, quantize};
use crate::storage::{Buffer, Dtype, Mapping, Store, StoredTensor, to_bytes};
use half::f16;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The pyramid of one image.
#[derive(Debug)]
pub struct StoredImage {
    levels: Vec<Arc<StoredLevel>>,
    /// Another one for each image of the process, so that what was made of an image can be found again.
    serial: u64,
    /// Where the cells of each level lie; computed when it is first asked for.
    spheres: OnceLock<Vec<Sphere>>,
    /// The only level in the coordinates of a flat gallery; made by the first search.
    projected: OnceLock<(Arc<ProjectionSlot>, Option<ProjectedRows>)>,
    /// What searches within windows keep of a pyramid; made by the first one.
    windowed: OnceLock<(Arc<CenteringSlot>, WindowImage)>,
    origin: Origin,
}

/// Whose features these are, which says how they are verified.
#[derive(Debug)]
enum Origin {
    /// Those of an image that was added, and checked then.
    Memory,
    /// Those of an image in a file or a folder.
    File(FileImage),
    /// One level of another image.
    LevelOf(Arc<StoredImage>),
}

/// Where an image comes from whose features are in a file, and whether they were looked at.
#[derive(Debug)]
struct FileImage {
    /// The file or the folder, and the id there, for messages.
    gallery: Arc<Path>,
    id: Box<str>,
    /// Of an image in a folder.
    seal: Option<Seal>,
    /// Whether the bytes were found to be those that were written, and the features to be finite.
    verified: AtomicBool,
}

/// What the bytes of an image in a folder were when it was added.
#[derive(Debug)]
struct Seal {
    checksum: Checksum,
    place: RecordPlace,
    record: Buffer<u8>,
}

/// One level of one image.
#[derive(Debug)]
enum StoredLevel {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    I8 {
        codes: Buffer<i8>,
        offsets: Buffer<f32>,
        scales: Buffer<f32>,
    },
}

impl StoredImage {
    /// Copies the levels of one image, called `id` in messages.
    ///
    /// # Errors
    /// [`Error::Image`] for a feature too large for float16 storage.
    pub(crate) fn new(
        shape: &PyramidShape,
        levels: &[LevelData<'_>],
        dtype: DType,
        id: &str,
    ) -> Result<Self> {
        let mut stored = Vec::with_capacity(levels.len());
        for (index, (level, shape)) in levels.iter().zip(shape.levels()).enumerate() {
            let mut values = vec![0.0_f32; shape.values()];
            level.decode_into(&mut values);
            stored.push(Arc::new(match dtype {
                DType::F32 => StoredLevel::F32(values.into()),
                DType::F16 => {
                    let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
                    if !values.iter().all(|v| v.is_finite()) {
                        return Err(Error::image(format!(
                            "image {id:?}: a feature exceeds the largest float16, {}; use a float32 gallery",
                            f16::MAX
                        )).of_image(id).at_level(index));
                    }
                    StoredLevel::F16(values.into())
                }
                DType::I8 => {
                    let quantized = quantize(&values, shape.channels);
                    StoredLevel::I8 {
                        codes: quantized.codes.into(),
                        offsets: quantized.offsets.into(),
                        scales: quantized.scales.into(),
                    }
                }
            }));
        }
        Ok(Self::of_levels(stored, Origin::Memory))
    }

    /// One level of an image, whose features are shared: an image of a gallery of that level.
    pub(crate) fn level_of(image: &Arc<Self>, index: usize) -> Self {
        let level = Arc::clone(&image.levels[index]);
        Self::of_levels(vec![level], Origin::LevelOf(Arc::clone(image)))
    }

    fn of_levels(levels: Vec<Arc<StoredLevel>>, origin: Origin) -> Self {
        Self {
            levels,
            serial: next_serial(),
            spheres: OnceLock::new(),
            projected: OnceLock::new(),
            windowed: OnceLock::new(),
            origin,
        }
    }

    /// Image number `image` of an open file. `levels` has, for each level, the tensor of the values,
    /// and for int8 those of the offsets and the scales; their first axis is that of the images.
    pub(crate) fn mapped(
        store: &Arc<Store>,
        dtype: DType,
        levels: &[Vec<&StoredTensor>],
        image: usize,
        (gallery, id): (&Arc<Path>, &str),
    ) -> Self {
        let levels = levels
            .iter()
            .map(|tensors| match dtype {
                DType::F32 => StoredLevel::F32(Buffer::mapped(store, tensors[0], image)),
                DType::F16 => StoredLevel::F16(Buffer::mapped(store, tensors[0], image)),
                DType::I8 => StoredLevel::I8 {
                    codes: Buffer::mapped(store, tensors[0], image),
                    offsets: Buffer::mapped(store, tensors[1], image),
                    scales: Buffer::mapped(store, tensors[2], image),
                },
            })
            .map(Arc::new)
            .collect();
        Self::of_levels(levels, Origin::File(FileImage::new(gallery, id, None)))
    }

    /// The image whose record, laid out as `layout` says, is at `place` in a folder, of which the
    /// segment is mapped.
    pub(crate) fn in_record(
        mapping: &Arc<Mapping>,
        layout: &RecordLayout,
        place: RecordPlace,
        (gallery, id): (&Arc<Path>, &str),
        checksum: Checksum,
    ) -> Self {
        let start = place.record * layout.stride;
        let levels = layout
            .levels
            .iter()
            .map(|parts| {
                let at = |part: usize| (mapping, start + parts[part].start, parts[part].len());
                match layout.dtype {
                    DType::F32 => StoredLevel::F32(Buffer::of_bytes(at(0))),
                    DType::F16 => StoredLevel::F16(Buffer::of_bytes(at(0))),
                    DType::I8 => StoredLevel::I8 {
                        codes: Buffer::of_bytes(at(0)),
                        offsets: Buffer::of_bytes(at(1)),
                        scales: Buffer::of_bytes(at(2)),
                    },
                }
            })
            .map(Arc::new)
            .collect();
        let seal = Seal {
            checksum,
            place,
            record: Buffer::of_bytes((mapping, start, layout.stride)),
        };
        let origin = FileImage::new(gallery, id, Some(seal));
        Self::of_levels(levels, Origin::File(origin))
    }

    /// A number that no other image of the process has or had.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether nothing is left for [`verify`](Self::verify) to read.
    pub(crate) fn is_verified(&self) -> bool {
        match &self.origin {
            Origin::Memory => true,
            Origin::File(file) => file.verified.load(Ordering::Acquire),
            Origin::LevelOf(image) => image.is_verified(),
        }
    }

    /// Reads an image that is in a file or a folder; once it was right, it is not read again, unless
    /// `anew`. Its features must be finite, as those of every image that is added are. In a folder it
    /// has a checksum, too; images of a file are verified with it. Of one level the whole image is
    /// verified, to which the checksum belongs.
    ///
    /// # Errors
    /// [`Error::Store`] with the id, when a byte was altered, or a feature is not finite.
    pub fn verify(&self, anew: bool) -> Result<()> {
        let file = match &self.origin {
            Origin::LevelOf(image) => return image.verify(anew),
            Origin::File(file) if anew || !self.is_verified() => file,
            _ => return Ok(()),
        };
        file.verified.store(false, Ordering::Release);
        let damaged = |how: &str| {
            let reason = format!("image {:?} is damaged: {how}", file.id);
            Err(Error::store(&file.gallery, reason).of_image(&*file.id))
        };
        if let Some(seal) = &file.seal
            && checksum(seal.record.values()) != seal.checksum
        {
            return damaged("its checksum does not match its features");
        }
        if !self.levels().iter().all(LevelData::all_finite) {
            return damaged("its features are not finite");
        }
        file.verified.store(true, Ordering::Release);
        Ok(())
    }

    fn file(&self) -> Option<&FileImage> {
        match &self.origin {
            Origin::File(file) => Some(file),
            _ => None,
        }
    }

    /// The id, checksum and bytes of an image of a folder.
    pub(crate) fn record(&self) -> Option<(&str, Checksum, &[u8])> {
        let file = self.file()?;
        let seal = file.seal.as_ref()?;
        Some((&file.id, seal.checksum, seal.record.values()))
    }

    /// Where in a folder the image is.
    pub(crate) fn place(&self) -> Option<RecordPlace> {
        Some(self.file()?.seal.as_ref()?.place)
    }

    /// A sphere around the cells of each level, whose channels are those of `grids`.
    pub(crate) fn spheres(&self, grids: &[LevelGrid]) -> &[Sphere] {
        self.spheres.get_or_init(|| {
            let levels = self.levels().into_iter().zip(grids);
            levels
                .map(|(level, grid)| Sphere::around(level, grid.shape.channels))
                .collect()
        })
    }

    /// Whether [`projected`](Self::projected) has only to look them up.
    pub(crate) fn is_projected(&self) -> bool {
        self.projected.get().is_some()
    }

    /// The projected rows of an image of a flat shape, kept for the next search; None if a row is too far
    /// off, or if the image was projected for a gallery of other coordinates.
    pub(crate) fn projected(
        &self,
        shape: &PyramidShape,
        slot: &Arc<ProjectionSlot>,
        set: InstructionSet,
    ) -> Option<&ProjectedRows> {
        let projection: &PcaProjection = slot.get()?.as_ref()?;
        let (of, rows) = self.projected.get_or_init(|| {
            let mut rows = Vec::new();
            append_flat_rows(shape, &self.levels(), 0..shape.finest().cells(), &mut rows);
            (Arc::clone(slot), projection.project_rows(set, &rows))
        });
        rows.as_ref().filter(|_| Arc::ptr_eq(of, slot))
    }

    /// Whether [`windowed`](Self::windowed) has only to look, or may not keep anything: of features that
    /// are stored as less than float32 that would take more memory than they do.
    pub(crate) fn is_windowed(&self) -> bool {
        self.windowed.get().is_some() || !self.keeps_windowed()
    }

    /// Of codes and half-precision features nothing is kept, nor in a folder, which may be larger than memory.
    fn keeps_windowed(&self) -> bool {
        let is_in_folder = matches!(&self.origin, Origin::File(file) if file.seal.is_some());
        !is_in_folder && matches!(*self.levels[0], StoredLevel::F32(_))
    }

    /// What searches within windows keep of an image of pyramids, once the gallery's centering is known; None
    /// if nothing is kept, or it is centred as another gallery.
    pub(crate) fn windowed(
        &self,
        layout: &WindowLayout<'_>,
        slot: &Arc<CenteringSlot>,
        set: InstructionSet,
    ) -> Option<&WindowImage> {
        let centering = slot.get()?;
        if !self.keeps_windowed() {
            return None;
        }
        let (of, image) = self.windowed.get_or_init(|| {
            let image = WindowImage::new(set, layout, centering.centred_image(&self.levels()));
            (Arc::clone(slot), image)
        });
        Arc::ptr_eq(of, slot).then_some(image)
    }

    /// The values of each level.
    #[must_use]
    pub fn levels(&self) -> Vec<LevelData<'_>> {
        self.levels
            .iter()
            .map(|level| match &**level {
                StoredLevel::F32(values) => LevelData::F32(values.values()),
                StoredLevel::F16(values) => LevelData::F16(values.values()),
                StoredLevel::I8 {
                    codes,
                    offsets,
                    scales,
                } => LevelData::I8(QuantizedLevel {
                    codes: codes.values(),
                    offsets: offsets.values(),
                    scales: scales.values(),
                }),
            })
            .collect()
    }

    /// The bytes of a record of this image, whose pyramid has this shape, as `layout` says.
    pub(crate) fn to_record(&self, layout: &RecordLayout, shape: &PyramidShape) -> Vec<u8> {
        let mut record = vec![0; layout.stride];
        for ((level, shape), places) in self
            .levels()
            .into_iter()
            .zip(shape.levels())
            .zip(&layout.levels)
        {
            for ((.., bytes), place) in parts(level, *shape).into_iter().zip(places) {
                record[place.clone()].copy_from_slice(bytes);
            }
        }
        record
    }
}

impl FileImage {
    fn new(gallery: &Arc<Path>, id: &str, seal: Option<Seal>) -> Self {
        Self {
            gallery: Arc::clone(gallery),
            id: id.into(),
            seal,
            verified: AtomicBool::new(false),
        }
    }
}

fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a file holds of one level of one image: the end of the tensor's name, its element type, its
/// shape but for the axis of the images, and the bytes.
pub(crate) type Part<'a> = (&'static str, Dtype, Vec<usize>, &'a [u8]);

/// The end of the names of tensors that hold the offsets and scales of codes.
pub(crate) const AFFINE: [&str; 2] = [".offsets", ".scales"];

pub(crate) fn parts(level: LevelData<'_>, shape: LevelShape) -> Vec<Part<'_>> {
    let values = vec![shape.height, shape.width, shape.channels];
    match level {
        LevelData::F32(floats) => vec![("", Dtype::F32, values, to_bytes(floats))],
        LevelData::F16(floats) => vec![("", Dtype::F16, values, to_bytes(floats))],
        LevelData::I8(codes) => {
            let affine = |name, floats| (name, Dtype::F32, vec![shape.channels], to_bytes(floats));
            vec![
                ("", Dtype::I8, values, to_bytes(codes.codes)),
                affine(AFFINE[0], codes.offsets),
                affine(AFFINE[1], codes.scales),
            ]
        }
    }
}
