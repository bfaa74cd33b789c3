//! Galleries of feature pyramids and exact nearest-neighbour matching of pyramids.
//!
//! A *pyramid* holds the feature maps of one image at several resolutions ([`pyramid`]); a
//! [`Gallery`] holds the pyramids of many images; [`search::search`] finds, for every cell of a
//! query, the nearest cells of the gallery by the squared L2 distance between upsampled,
//! concatenated features, without ever building the concatenated features. [`storage`] keeps
//! galleries and other tensors in checksummed, memory-mapped files.
//!
//! ```
//! use knnspect_core::{DType, Gallery, search, pyramid::{PyramidBatch, LevelData, PyramidShape, Upsample}};
//!
//! let shape = PyramidShape::new(&[(2, 2, 1)])?;
//! let normal = [0.0_f32, 1.0, 2.0, 3.0];
//! let mut gallery = Gallery::new(Upsample::Bilinear, DType::F32);
//! gallery.add(&PyramidBatch::new(shape.clone(), 1, vec![LevelData::F32(&normal)])?, &["a".into()])?;
//!
//! let query = [0.1_f32, 2.9, 0.0, 5.0];
//! let query = PyramidBatch::new(shape, 1, vec![LevelData::F32(&query)])?;
//! let selection = gallery.select(None)?;
//! let neighbors = search::search(&query, &gallery.pyramid_context()?, &[selection], &search::Options::new(1))?;
//! assert_eq!(neighbors.cells, [0, 3, 0, 3]);
//! # Ok::<(), knnspect_core::Error>(())
//! ```

mod bounds;
mod cancel;
mod error;
pub mod gallery;
mod kernels;
mod names;
mod parallel;
pub mod pyramid;
pub mod quantize;
pub mod search;
pub mod select;
pub mod storage;

pub use cancel::Cancel;
pub use error::{Error, Report, Result};
pub use gallery::{Gallery, SharedGallery, StoredImage};
pub use kernels::InstructionSet;
pub use pyramid::DType;
