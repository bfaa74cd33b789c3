//! The images that a search looks through.

use super::image::StoredImage;
use crate::bounds::{CenteringSlot, ProjectionSlot};
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::parallel::for_each;
use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::Arc;

/// Some images of a gallery, in the order of their ids: what a search looks through.
#[derive(Clone, Debug)]
pub struct Selection {
    pub(super) images: Vec<(u32, Arc<StoredImage>)>,
    pub(super) projection: Arc<ProjectionSlot>,
    pub(super) centering: Arc<CenteringSlot>,
    /// See [`Selection::hiding`].
    pub(super) hidden: Vec<Range<usize>>,
}

impl Selection {
    /// The same images, without some cells of the finest level of each, in runs: nothing is compared
    /// with these. Meant for banks, which are one image of single rows.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless the runs are in order, apart, and of cells that there are.
    pub fn hiding(mut self, hidden: Vec<Range<usize>>, n_cells: usize) -> Result<Self> {
        let mut end = 0;
        for run in &hidden {
            if run.start < end || run.start >= run.end || run.end > n_cells {
                let message = format!(
                    "hidden: expected runs of cells below {n_cells}, in order and apart, got {run:?}"
                );
                return Err(Error::parameter("hidden", message));
            }
            end = run.end;
        }
        self.hidden = hidden;
        Ok(self)
    }

    /// Whether some cells are not compared.
    pub(crate) const fn hides_some(&self) -> bool {
        !self.hidden.is_empty()
    }

    /// Whether a cell is not compared.
    pub(crate) fn hides(&self, cell: usize) -> bool {
        let next = self.hidden.partition_point(|run| run.end <= cell);
        self.hidden.get(next).is_some_and(|run| run.start <= cell)
    }

    /// The runs of the cells that are compared, of an image of so many.
    pub(crate) fn visible(&self, n_cells: usize) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.hidden.iter().map(|run| run.end));
        let ends = self.hidden.iter().map(|run| run.start);
        let runs = starts.zip(ends.chain(std::iter::once(n_cells)));
        runs.map(|(start, end)| start..end)
            .filter(|run| !run.is_empty())
    }

    /// How many cells are compared, of images of so many.
    #[must_use]
    pub fn n_visible(&self, n_cells: usize) -> usize {
        self.images.len() * self.visible(n_cells).map(|run| run.len()).sum::<usize>()
    }
    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = (u32, &StoredImage)> {
        self.images.iter().map(|(rank, image)| (*rank, &**image))
    }

    /// The ranks of the images, in order.
    pub fn ranks(&self) -> impl Iterator<Item = u32> {
        self.images.iter().map(|(rank, _)| *rank)
    }

    /// Whether there is an image of this rank.
    #[must_use]
    pub fn contains(&self, rank: u32) -> bool {
        self.images
            .binary_search_by_key(&rank, |(rank, _)| *rank)
            .is_ok()
    }

    /// The number of each image, in the order of the ranks; see [`StoredImage::serial`].
    pub fn serials(&self) -> impl Iterator<Item = u64> {
        self.images.iter().map(|(_, image)| image.serial())
    }

    /// The images that were not read yet, of which the checksum must be compared first.
    pub(crate) fn unverified(&self) -> impl Iterator<Item = &Arc<StoredImage>> {
        let images = self.images.iter().map(|(_, image)| image);
        images.filter(|image| !image.is_verified())
    }

    pub(crate) fn image(&self, rank: u32) -> &StoredImage {
        let at = self
            .images
            .binary_search_by_key(&rank, |(rank, _)| *rank)
            .expect("the rank is of this selection");
        &self.images[at].1
    }

    /// Where the gallery of these images keeps their coordinates.
    pub(crate) const fn projection(&self) -> &Arc<ProjectionSlot> {
        &self.projection
    }

    /// Where it keeps what they are centred by.
    pub(crate) const fn centering(&self) -> &Arc<CenteringSlot> {
        &self.centering
    }
}

/// Compares the checksums of those images of folders that were not used yet, each once.
///
/// # Errors
/// `Error::Store` with the first image that is damaged; `Error::Interrupted`.
pub fn verify(
    selections: &[Selection],
    threads: Option<NonZero<usize>>,
    cancel: Cancel<'_>,
) -> Result<()> {
    let unverified = selections
        .iter()
        .flat_map(Selection::unverified)
        .map(|image| (Arc::as_ptr(image), image))
        .collect::<BTreeMap<_, _>>()
        .into_values();
    for_each(unverified.collect(), threads, cancel, |image| {
        image.verify(false)
    })
}
