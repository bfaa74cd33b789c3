//! Galleries: the pyramids of normal images, by id, in memory, in a file or in a folder.

mod additions;
mod folder;
mod image;
mod images;
mod rows;
mod selection;
mod shared;
mod snapshot;

pub use additions::OnConflict;
pub use folder::Lock;
pub use image::StoredImage;
pub use images::Gallery;
pub(crate) use rows::Rows;
pub use rows::{levels_of, of_images};
pub use selection::{Selection, verify};
pub use shared::SharedGallery;
