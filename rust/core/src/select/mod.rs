//! A few rows of a gallery that stand for all.

mod candidates;
mod k_center;
mod options;
mod order;

pub use k_center::pick;
pub use options::{PickOptions, Picks};
