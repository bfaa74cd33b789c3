//! `knnspect._core.Search`.

use crate::arrays::Levels;
use crate::errors::to_py;
use crate::gallery::{Gallery, threads_from};
use crate::interrupt;
use knnspect_core::gallery::Selection;
use knnspect_core::matching::{self, Candidates, Options};
use knnspect_core::pyramid::{PyramidContext, PyramidShape};
use knnspect_core::{Cancel, Result, rows};
use numpy::{
    PyArray, PyArray1, PyArray2, PyArray3, PyArray4, PyArrayMethods, PyReadonlyArray1,
    PyUntypedArray,
};
use pyo3::prelude::*;

/// `(sq_distances, image_index, cells)`
type Found<'py, D, A> = (Bound<'py, D>, Bound<'py, A>, Bound<'py, A>);

/// A search that somebody else carries out: its arguments, checked, and the images that it is about, as
/// they were when it began. What is found is settled here.
#[pyclass(frozen, module = "knnspect._core")]
pub(crate) struct Search {
    context: PyramidContext,
    selections: Vec<Selection>,
    ids: Vec<String>,
}

impl Search {
    fn begin(
        gallery: &Gallery,
        query: &PyramidShape,
        n_images: usize,
        k: usize,
        images: Option<&[Vec<String>]>,
        cancel: Cancel<'_>,
    ) -> Result<Self> {
        let (context, (selections, ids)) = gallery.read(|gallery| {
            let context = gallery.pyramid_context()?;
            Result::Ok((context, gallery.select_each(images)?))
        })?;
        matching::check(query, n_images, &context, &selections, k)?;
        matching::verify(&selections, None, cancel)?;
        Ok(Self {
            context,
            selections,
            ids,
        })
    }

    /// The images for a query image.
    fn selection(&self, image: usize) -> &Selection {
        &self.selections[if self.selections.len() == 1 { 0 } else { image }]
    }
}

#[pymethods]
impl Search {
    #[new]
    fn new(
        py: Python<'_>,
        gallery: &Gallery,
        levels: Vec<Bound<'_, PyUntypedArray>>,
        k: usize,
        images: Option<Vec<Vec<String>>>,
    ) -> PyResult<Self> {
        let levels = Levels::new(py, &levels)?;
        let query = levels.batch(py)?;
        interrupt::run(py, |cancel| {
            let search = Self::begin(
                gallery,
                query.shape(),
                query.n_images(),
                k,
                images.as_deref(),
                cancel,
            )?;
            query.check_finite(|image| format!("query image {image}"))?;
            Ok(search)
        })
    }

    /// The same, for `n_images` pyramids of some shapes, whose features are elsewhere; whoever has them
    /// sees that they are finite.
    #[staticmethod]
    fn of(
        py: Python<'_>,
        gallery: &Gallery,
        shapes: Vec<(usize, usize, usize)>,
        n_images: usize,
        k: usize,
        images: Option<Vec<Vec<String>>>,
    ) -> PyResult<Self> {
        let shape = PyramidShape::new(&shapes).map_err(|error| to_py(py, &error))?;
        interrupt::run(py, |cancel| {
            Self::begin(gallery, &shape, n_images, k, images.as_deref(), cancel)
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

    /// Which of the ids a query image is compared with.
    fn ranks<'py>(&self, py: Python<'py>, image: usize) -> Bound<'py, PyArray1<u32>> {
        PyArray::from_iter(py, self.selection(image).ranks())
    }

    /// A number for each of these images that no other image has or had.
    fn serials<'py>(&self, py: Python<'py>, image: usize) -> Bound<'py, PyArray1<u64>> {
        PyArray::from_iter(py, self.selection(image).serials())
    }

    /// The levels of some of these images, each `(n_images, height, width, channels)`.
    fn levels<'py>(
        &self,
        py: Python<'py>,
        image: usize,
        ranks: Vec<u32>,
    ) -> PyResult<Vec<Bound<'py, PyArray4<f32>>>> {
        let selection = self.selection(image);
        let shapes = self.context.shape().levels();
        let decoded = py.detach(|| rows::levels_of(&self.context, selection, &ranks));
        decoded
            .map_err(|error| to_py(py, &error))?
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
        let selection = self.selection(image);
        let values = interrupt::run(py, |cancel| {
            rows::of_images(&self.context, selection, &ranks, cancel)
        })?;
        let levels = self.context.shape().levels().iter();
        let n_features: usize = levels.map(|level| level.channels).sum();
        let n_cells = self.context.shape().finest().cells();
        PyArray::from_vec(py, values).reshape([ranks.len(), n_cells, n_features])
    }

    /// The `k` nearest candidates of some cells of one query image, whose levels are given: float64
    /// distances, image indices and cells, each `(n_cells, k)`.
    // The arguments of the Python method.
    #[allow(clippy::too_many_arguments)]
    fn settle<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
        image: usize,
        query_cells: PyReadonlyArray1<'py, u32>,
        starts: PyReadonlyArray1<'py, usize>,
        ranks: PyReadonlyArray1<'py, u32>,
        cells: PyReadonlyArray1<'py, u32>,
        k: usize,
        threads: Option<usize>,
    ) -> PyResult<Found<'py, PyArray2<f64>, PyArray2<u32>>> {
        let threads = threads_from(py, threads)?;
        let levels = Levels::new(py, &levels)?;
        let query = levels.batch(py)?;
        let candidates = Candidates {
            image: 0,
            query_cells: query_cells.as_slice()?,
            starts: starts.as_slice()?,
            ranks: ranks.as_slice()?,
            cells: cells.as_slice()?,
        };
        let shape = [candidates.query_cells.len(), k];
        let selection = self.selection(image);
        let found = interrupt::run(py, |cancel| {
            let context = &self.context;
            matching::settle(&query, context, selection, &candidates, k, threads, cancel)
        })?;
        Ok((
            PyArray::from_vec(py, found.sq_distances).reshape(shape)?,
            PyArray::from_vec(py, found.ranks).reshape(shape)?,
            PyArray::from_vec(py, found.cells).reshape(shape)?,
        ))
    }

    /// The `k` nearest cells of every cell of one query image, whose levels are given: distances, image
    /// indices and cells, each `(n_cells, k)`.
    fn search<'py>(
        &self,
        py: Python<'py>,
        levels: Vec<Bound<'py, PyUntypedArray>>,
        image: usize,
        k: usize,
        threads: Option<usize>,
    ) -> PyResult<Found<'py, PyArray2<f32>, PyArray2<u32>>> {
        let threads = threads_from(py, threads)?;
        let levels = Levels::new(py, &levels)?;
        let query = levels.batch(py)?;
        let selection = [self.selection(image).clone()];
        let found = interrupt::run(py, |cancel| {
            let options = Options {
                threads,
                cancel,
                ..Options::new(k)
            };
            matching::search(&query, &self.context, &selection, &options)
        })?;
        let shape = [found.ranks.len() / k.max(1), k];
        Ok((
            PyArray::from_vec(py, found.sq_distances).reshape(shape)?,
            PyArray::from_vec(py, found.ranks).reshape(shape)?,
            PyArray::from_vec(py, found.cells).reshape(shape)?,
        ))
    }
}
