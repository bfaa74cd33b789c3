//! `knnspect._core.Search`: the one door through which galleries are searched.

use crate::arrays::Levels;
use crate::errors::{OrRaise, ShapeError, parameter_error};
use crate::gallery::{Gallery, instruction_set_from, threads_from};
use crate::interrupt;
use crate::results::{Neighbors, Rescored, SearchStats};
use crate::windows::{Bounds, Radii, bounds_of};
use knnspect_core::gallery::{self, Selection};
use knnspect_core::pyramid::{PyramidBatch, PyramidContext, PyramidShape, Upsample, Window};
use knnspect_core::search::{self, Candidates, Matcher, Options};
use knnspect_core::{Cancel, Result};
use numpy::{
    PyArray, PyArray1, PyArray3, PyArray4, PyArrayMethods, PyReadonlyArray1, PyUntypedArray,
};
use pyo3::prelude::*;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};

/// A search whose arguments were checked: the images that it is about, as they were when it began, and
/// what is looked for. The features of the query come with each call, as they may lie elsewhere.
#[pyclass(frozen, module = "knnspect._core")]
pub(crate) struct Search {
    context: PyramidContext,
    upsample: Upsample,
    selections: Vec<Selection>,
    ids: Vec<String>,
    query: PyramidShape,
    n_images: usize,
    k: usize,
    window: Option<Window>,
    threads: Option<NonZero<usize>>,
    /// Whether the images were found to be those that were written.
    is_verified: AtomicBool,
}

impl Search {
    #[expect(clippy::too_many_arguments, reason = "those of the Python methods")]
    fn begin(
        gallery: &Gallery,
        query: PyramidShape,
        n_images: usize,
        k: usize,
        images: Option<&[Vec<String>]>,
        radii: Option<&Radii>,
        threads: Option<NonZero<usize>>,
        verify: bool,
        cancel: Cancel<'_>,
    ) -> Result<Self> {
        let (context, upsample, (selections, ids)) = gallery.read(|gallery| {
            let context = gallery.pyramid_context()?;
            Result::Ok((context, gallery.upsample(), gallery.select_each(images)?))
        })?;
        let window = radii.map(|radii| Window::new(context.shape(), radii));
        let window = window.transpose()?.flatten();
        search::check(&query, n_images, &context, &selections, k, window.as_ref())?;
        let search = Self {
            context,
            upsample,
            selections,
            ids,
            query,
            n_images,
            k,
            window,
            threads,
            is_verified: AtomicBool::new(false),
        };
        if verify {
            search.verify(cancel)?;
        }
        Ok(search)
    }

    /// Reads images whose checksums were not compared yet; once, before their features are used.
    fn verify(&self, cancel: Cancel<'_>) -> Result<()> {
        if !self.is_verified.load(Ordering::Acquire) {
            gallery::verify(&self.selections, self.threads, cancel)?;
            self.is_verified.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// How is searched, unless a method says otherwise.
    fn options<'a>(&'a self, cancel: Cancel<'a>) -> Options<'a> {
        Options {
            window: self.window.as_ref(),
            threads: self.threads,
            cancel,
            ..Options::new(self.k)
        }
    }

    /// The gallery images for a query image.
    fn selection(&self, py: Python<'_>, image: usize) -> PyResult<&Selection> {
        let at = if self.selections.len() == 1 { 0 } else { image };
        let selection = self.selections.get(at).filter(|_| image < self.n_images);
        selection.ok_or_else(|| {
            let message = format!(
                "image: expected one of {} query images, got {image}",
                self.n_images
            );
            parameter_error(py, "image", message)
        })
    }

    /// The gallery images for each query image, of which runs of cells are hidden.
    fn hiding(&self, hidden: Vec<Bounds>) -> Result<Vec<Selection>> {
        let n_cells = self.context.shape().finest().cells();
        let selections = self.selections.iter().cycle().cloned().zip(hidden);
        selections
            .map(|(selection, runs)| {
                let runs = runs.into_iter().map(|(start, end)| start..end).collect();
                selection.hiding(runs, n_cells)
            })
            .collect()
    }

    /// The features of the query, which must be as they were announced.
    fn query<'a>(&self, py: Python<'_>, levels: &'a Levels<'_>) -> PyResult<PyramidBatch<'a>> {
        let query = levels.batch(py)?;
        if query.shape() == &self.query && query.n_images() == self.n_images {
            return Ok(query);
        }
        let (given, expected) = (query.shape().describe(), self.query.describe());
        let message = format!(
            "the query is {} images of {given}, the search is for {} of {expected}",
            query.n_images(),
            self.n_images
        );
        Err(ShapeError::new_err(message))
    }
}

#[pymethods]
impl Search {
    /// A search for the pyramids of a query, which must be finite; see `knnspect.search.Search`.
    #[new]
    #[pyo3(signature = (gallery, levels, k, images, threads, radii=None, verify=true))]
    // The arguments of the Python method.
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        gallery: &Gallery,
        levels: Vec<Bound<'_, PyUntypedArray>>,
        k: usize,
        images: Option<Vec<Vec<String>>>,
        threads: Option<usize>,
        radii: Option<Radii>,
        verify: bool,
    ) -> PyResult<Self> {
        let threads = threads_from(py, threads)?;
        let levels = Levels::new(py, &levels)?;
        let query = levels.batch(py)?;
        interrupt::run(py, |cancel| {
            let (shape, n_images) = (query.shape().clone(), query.n_images());
            let search = Self::begin(
                gallery,
                shape,
                n_images,
                k,
                images.as_deref(),
                radii.as_ref(),
                threads,
                verify,
                cancel,
            )?;
            query.check_finite(None)?;
            Ok(search)
        })
    }

    /// The same for `n_images` pyramids of some shapes, whose features are elsewhere; the caller checks
    /// that they are finite.
    #[staticmethod]
    #[pyo3(signature = (gallery, shapes, n_images, k, images, threads, radii=None, verify=true))]
    // The arguments of the Python method.
    #[allow(clippy::too_many_arguments)]
    fn of(
        py: Python<'_>,
        gallery: &Gallery,
        shapes: Vec<(usize, usize, usize)>,
        n_images: usize,
        k: usize,
        images: Option<Vec<Vec<String>>>,
        threads: Option<usize>,
        radii: Option<Radii>,
        verify: bool,
    ) -> PyResult<Self> {
        let threads = threads_from(py, threads)?;
        let shape = PyramidShape::new(&shapes).or_raise(py)?;
        interrupt::run(py, |cancel| {
            Self::begin(
                gallery,
                shape,
                n_images,
                k,
                images.as_deref(),
                radii.as_ref(),
                threads,
                verify,
                cancel,
            )
        })
    }

    /// The sorted ids of all images searched.
    #[getter]
    fn ids(&self) -> Vec<String> {
        self.ids.clone()
    }

    /// Height, width and channels of each level of the gallery.
    #[getter]
    fn shapes(&self) -> Vec<(usize, usize, usize)> {
        let levels = self.context.shape().levels().iter();
        levels
            .map(|level| (level.height, level.width, level.channels))
            .collect()
    }

    /// How coarse levels are upsampled.
    #[getter]
    fn upsample(&self) -> &'static str {
        self.upsample.name()
    }

    /// For each row, and for each column, of the finest level, those that are compared with it, as first
    /// and one after the last; `None` where all are.
    #[getter]
    fn window(&self) -> Option<(Bounds, Bounds)> {
        self.window.as_ref().map(bounds_of)
    }

    /// Which of the ids a query image is compared with.
    fn ranks<'py>(&self, py: Python<'py>, image: usize) -> PyResult<Bound<'py, PyArray1<u32>>> {
        Ok(PyArray::from_iter(py, self.selection(py, image)?.ranks()))
    }

    /// A number for each of these images that no other image has or had.
    fn serials<'py>(&self, py: Python<'py>, image: usize) -> PyResult<Bound<'py, PyArray1<u64>>> {
        Ok(PyArray::from_iter(py, self.selection(py, image)?.serials()))
    }

    /// The levels of some of these images, each `(n_images, height, width, channels)`.
    fn levels<'py>(
        &self,
        py: Python<'py>,
        image: usize,
        ranks: Vec<u32>,
    ) -> PyResult<Vec<Bound<'py, PyArray4<f32>>>> {
        let selection = self.selection(py, image)?;
        let shapes = self.context.shape().levels();
        let decoded = interrupt::run(py, |cancel| {
            self.verify(cancel)?;
            gallery::levels_of(&self.context, selection, &ranks)
        })?;
        decoded
            .into_iter()
            .zip(shapes)
            .map(|(values, shape)| {
                let axes = [ranks.len(), shape.height, shape.width, shape.channels];
                PyArray::from_vec(py, values).reshape(axes)
            })
            .collect()
    }

    /// The upsampled, concatenated features of some of these images, `(n_images, n_cells, n_features)`.
    fn rows<'py>(
        &self,
        py: Python<'py>,
        image: usize,
        ranks: Vec<u32>,
    ) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let selection = self.selection(py, image)?;
        let values = interrupt::run(py, |cancel| {
            self.verify(cancel)?;
            gallery::of_images(&self.context, selection, &ranks, cancel)
        })?;
        let shape = self.context.shape();
        let axes = [ranks.len(), shape.finest().cells(), shape.n_features()];
        PyArray::from_vec(py, values).reshape(axes)
    }

    /// The `k` nearest candidates of some cells of one query image: float64 distances, ranks and cells,
    /// each `(n_cells, k)`.
    // The arguments of the Python method.
    #[allow(clippy::too_many_arguments)]
    fn rescore<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
        image: usize,
        query_cells: PyReadonlyArray1<'py, u32>,
        starts: PyReadonlyArray1<'py, usize>,
        ranks: PyReadonlyArray1<'py, u32>,
        cells: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<Rescored> {
        let levels = Levels::new(py, &levels)?;
        let query = self.query(py, &levels)?;
        let selection = self.selection(py, image)?;
        let candidates = Candidates {
            image,
            query_cells: query_cells.as_slice()?,
            starts: starts.as_slice()?,
            ranks: ranks.as_slice()?,
            cells: cells.as_slice()?,
        };
        let (context, k, threads) = (&self.context, self.k, self.threads);
        let found = interrupt::run(py, |cancel| {
            self.verify(cancel)?;
            search::rescore(&query, context, selection, &candidates, k, threads, cancel)
        })?;
        let shape = [candidates.query_cells.len(), k];
        Rescored::new(py, found, &shape)
    }

    /// The `k` nearest cells of every cell of one query image: distances, ranks and cells, each
    /// `(n_cells, k)`.
    fn search_image<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
        image: usize,
    ) -> PyResult<Neighbors> {
        let levels = Levels::new(py, &levels)?;
        let query = self.query(py, &levels)?;
        let selection = [self.selection(py, image)?.clone()];
        let alone = PyramidBatch::new(self.query.clone(), 1, query.image(image)).or_raise(py)?;
        let found = interrupt::run(py, |cancel| {
            self.verify(cancel)?;
            search::search_checked(&alone, &self.context, &selection, &self.options(cancel))
        })?;
        Neighbors::new(py, found, &[self.query.finest().cells(), self.k])
    }

    /// The `k` nearest cells of every cell of all query images: distances, ranks and cells, each
    /// `(n_images, n_cells, k)`, and what was compared. `hidden` has, for each query image, runs of cells
    /// of every gallery image that it is not compared with.
    #[pyo3(signature = (levels, instruction_set, matcher, hidden=None))]
    fn search<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
        instruction_set: Option<&str>,
        matcher: &str,
        hidden: Option<Vec<Bounds>>,
    ) -> PyResult<Neighbors> {
        let instruction_set = instruction_set_from(py, instruction_set)?;
        let matcher: Matcher = matcher.parse().or_raise(py)?;
        let levels = Levels::new(py, &levels)?;
        let query = self.query(py, &levels)?;
        if let Some(hidden) = hidden.as_ref().filter(|h| h.len() != self.n_images) {
            let message = format!(
                "hidden: expected one list for each of {} query images, got {}",
                self.n_images,
                hidden.len()
            );
            return Err(parameter_error(py, "hidden", message));
        }
        let found = interrupt::run(py, |cancel| {
            self.verify(cancel)?;
            let options = Options {
                instruction_set,
                matcher,
                ..self.options(cancel)
            };
            match hidden {
                None => search::search_checked(&query, &self.context, &self.selections, &options),
                Some(hidden) => {
                    let selections = self.hiding(hidden)?;
                    search::search(&query, &self.context, &selections, &options)
                }
            }
        })?;
        let shape = [self.n_images, self.query.finest().cells(), self.k];
        Neighbors::new(py, found, &shape)
    }

    /// The same with distances in float64, `(n_images * n_cells, k)`.
    fn search_exactly<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
    ) -> PyResult<(Rescored, SearchStats)> {
        let levels = Levels::new(py, &levels)?;
        let query = self.query(py, &levels)?;
        let found = interrupt::run(py, |cancel| {
            self.verify(cancel)?;
            let options = Options {
                exact: true,
                ..self.options(cancel)
            };
            search::search_checked(&query, &self.context, &self.selections, &options)
        })?;
        let shape = [self.n_images * self.query.finest().cells(), self.k];
        let stats = SearchStats::from(found.stats.clone());
        Ok((Rescored::new(py, found.into(), &shape)?, stats))
    }
}
