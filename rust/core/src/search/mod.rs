//! Exact nearest neighbours of every cell of a query.
//!
//! The contract, whatever the instruction set, the number of threads, the batch, and the order in
//! which images were added: distances are squared L2 between upsampled, concatenated features, as
//! float64 computes them, rounded once to float32; the neighbours are the true ones; ties go to the
//! lowest (image id, row, column).

mod candidates;
mod cascade;
mod check;
mod driver;
mod duplicates;
pub(crate) mod exact;
mod exhaustive;
mod flat;
mod job;
mod matcher;
mod merge;
mod neighbors;
mod options;
mod rescore;
mod shortlist;
mod stats;
mod tile;
mod window;

pub use check::check;
pub use driver::{search, search_checked};
pub use merge::{FoundInPart, merge};
pub use neighbors::Neighbors;
pub use options::{Matcher, Options};
pub use rescore::{Candidates, Rescored, rescore};
pub use stats::SearchStats;
