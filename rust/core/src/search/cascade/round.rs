//! What a group of tiles is led through, and in what.

use crate::gallery::StoredImage;
use crate::kernels::InstructionSet;
use crate::kernels::cascade::{CascadePlan, CascadeScratch, CoarseImage, CoarseScratch};
use crate::search::exhaustive::Scanner;
use crate::search::options::Options;
use crate::search::shortlist::Neighbor;
use crate::search::tile::Source;

/// The neighbours of one query cell.
pub(crate) type CellNeighbors = (u32, Vec<Neighbor>);

/// The buffers of one thread.
#[derive(Default)]
pub(crate) struct Buffers {
    pub coarse: CoarseScratch,
    pub cascade: CascadeScratch,
    pub scanner: Scanner,
}

/// Images that are gone through together.
pub(crate) struct Round<'a> {
    pub source: &'a Source<'a>,
    pub plan: &'a CascadePlan<'a>,
    pub set: InstructionSet,
    pub stride: usize,
    pub images: &'a [(u32, &'a StoredImage)],
    pub coarse_images: &'a [CoarseImage],
    pub options: &'a Options<'a>,
}
