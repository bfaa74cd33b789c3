//! A few rows of a gallery that stand for all.

mod candidates;
mod k_center;
mod order;

pub use k_center::{PickOptions, Picks, pick};
