//! What the jobs of a search of a flat gallery share.

use super::cost;
use crate::bounds::{PcaProjection, ProjectionSlot};
use crate::gallery::{Selection, StoredImage};
use crate::kernels::InstructionSet;
use crate::parallel::run_tasks;
use crate::pyramid::{PyramidContext, PyramidShape, append_flat_rows};
use crate::search::matcher::Request;
use crate::search::options::{Matcher, Options};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// More channels than this are searched exhaustively: the directions take their square in memory.
const MAX_CHANNELS: usize = 8192;

/// What the jobs of a search share.
pub(crate) struct FlatPlan<'a> {
    pub query_context: &'a PyramidContext,
    /// Of the gallery.
    pub shape: &'a PyramidShape,
    pub projection: &'a PcaProjection,
    pub set: InstructionSet,
    pub options: &'a Options<'a>,
    /// A job found that too little is pruned.
    pub gave_up: AtomicBool,
}

impl<'a> FlatPlan<'a> {
    /// Makes the galleries ready; None if searching them exhaustively is better, or must be.
    pub(crate) fn new(request: &Request<'a>) -> Option<Self> {
        let Request {
            context,
            query_context,
            selections,
            options,
            set,
            threads,
        } = *request;
        let shape = context.shape();
        let (cells, channels) = (shape.finest().cells(), shape.n_features());
        let n_queries = query_context.shape().finest().cells();
        let slot = selections.first()?.projection();
        let n_rows = selections.iter().map(|s| s.n_visible(cells)).min()?;
        let pays = match options.matcher {
            Matcher::Exhaustive => false,
            Matcher::Auto => cost::promises_to_pay(channels, n_queries, n_rows, options.k),
            Matcher::Pruned => true,
        };
        let one_gallery = selections.iter().all(|s| Arc::ptr_eq(s.projection(), slot));
        if !pays || !one_gallery || !shape.is_flat() || channels > MAX_CHANNELS {
            return None;
        }
        let projection = slot
            .get_or_init(|| fit(set, shape, &selections[0]))
            .as_ref()?;
        if options.matcher == Matcher::Auto && !projection.pays() {
            return None;
        }
        project_images(selections, shape, set, threads, options).then(|| Self {
            query_context,
            shape,
            projection,
            set,
            options,
            gave_up: AtomicBool::new(false),
        })
    }
}

fn fit(set: InstructionSet, shape: &PyramidShape, selection: &Selection) -> Option<PcaProjection> {
    let (cells, channels) = (shape.finest().cells(), shape.n_features());
    let images: Vec<&StoredImage> = selection.images().map(|(_, image)| image).collect();
    PcaProjection::fit(set, channels, images.len() * cells, |row, values| {
        let (image, cell) = (images[row / cells], row % cells);
        append_flat_rows(shape, &image.levels(), cell..cell + 1, values);
    })
}

/// Encodes all images that are not yet; whether all could be.
fn project_images(
    selections: &[Selection],
    shape: &PyramidShape,
    set: InstructionSet,
    threads: usize,
    options: &Options<'_>,
) -> bool {
    let images: Vec<_> = selections
        .iter()
        .flat_map(|s| s.images().map(|(_, image)| (s.projection(), image)))
        .collect();
    // What is there need not be made: no threads for that.
    let is_there = images.iter().all(|(_, image)| image.is_projected());
    let mut workers = vec![(); if is_there { 1 } else { threads }];
    let n_images = images.len();
    let project = |(): &mut (), (slot, image): (&Arc<ProjectionSlot>, &StoredImage)| {
        image.projected(shape, slot, set).is_some()
    };
    let projected = run_tasks(&mut workers, images, options.cancel, project);
    projected.len() == n_images && projected.into_iter().all(|is_projected| is_projected)
}
