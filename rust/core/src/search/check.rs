//! Whether a search can be carried out.

use crate::error::{Error, Result};
use crate::gallery::Selection;
use crate::pyramid::{PyramidBatch, PyramidContext, PyramidShape, Upsample, Window};

/// Whether the `k` nearest cells in `selections[i]`, within the window if there is one, can be found for
/// query image `i` of a batch of `n_images` pyramids of a shape, as far as that can be said without its
/// features.
///
/// # Errors
/// [`Error::Shape`] and [`Error::Parameter`] as [`search`](super::search()).
pub fn check(
    query: &PyramidShape,
    n_images: usize,
    context: &PyramidContext,
    selections: &[Selection],
    k: usize,
    window: Option<&Window>,
) -> Result<()> {
    // A level by itself is a set of features, whatever the grid they lie on.
    let is_flat = |shape: &PyramidShape| shape.levels().len() == 1;
    let fits = if is_flat(query) && is_flat(context.shape()) {
        query.finest().channels == context.shape().finest().channels
    } else {
        query == context.shape()
    };
    if !fits {
        return Err(Error::shape(format!(
            "the query's pyramid is {}, the gallery's is {}",
            query.describe(),
            context.shape().describe()
        )));
    }
    if let Some(window) = window {
        if selections.iter().any(Selection::hides_some) {
            let message = "hidden: cells cannot be hidden where there is a window";
            return Err(Error::parameter("hidden", message));
        }
        check_window(window, query, context.shape())?;
    }
    let gallery_cells = match window {
        Some(window) => window.fewest_cells(),
        None => context.shape().finest().cells(),
    };
    if selections.len() != n_images && selections.len() != 1 {
        return Err(Error::parameter(
            "images",
            format!(
                "expected one selection of gallery images, or one for each of {n_images} query images, got {}",
                selections.len()
            ),
        ));
    }
    for selection in selections {
        let available = selection.n_visible(gallery_cells);
        if k == 0 || k > available {
            let (which, at) = match window {
                Some(_) => ("within the window", ", at a corner"),
                None => ("searched", ""),
            };
            return Err(Error::parameter(
                "k",
                format!(
                    "k must be between 1 and the number of gallery cells {which}, {available} ({} images of {gallery_cells}{at}), got {k}",
                    selection.len()
                ),
            ));
        }
    }
    Ok(())
}

/// Whether places of the query can be compared with places of the gallery.
fn check_window(window: &Window, query: &PyramidShape, gallery: &PyramidShape) -> Result<()> {
    let (query, gallery) = (query.finest(), gallery.finest());
    if (query.height, query.width) != (gallery.height, gallery.width) {
        return Err(Error::shape(format!(
            "window: places can be compared on the same grid only: the query has {} x {} cells, the gallery {} x {}",
            query.height, query.width, gallery.height, gallery.width
        )));
    }
    if !window.fits(&gallery) {
        let message = "window: it was made for pyramids of another shape";
        return Err(Error::parameter("window", message));
    }
    Ok(())
}

/// The context of a query that lies on other grids than the gallery.
pub(super) fn own_context(
    query: &PyramidBatch<'_>,
    context: &PyramidContext,
) -> Option<PyramidContext> {
    // There is one level: nothing is upsampled.
    (query.shape() != context.shape())
        .then(|| PyramidContext::new(query.shape().clone(), Upsample::Block))
}
