//! A few rows of a gallery that stand for all.

mod candidates;
mod chooser;
mod choosing;
mod k_center;
mod known;
mod options;
mod order;
mod shard_rows;

pub use chooser::{Chooser, Shown, Whole};
pub use k_center::pick;
pub use options::{PickOptions, Picks};
pub use shard_rows::{Front, ShardOptions, ShardRows};
