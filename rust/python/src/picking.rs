//! `knnspect._core.ShardRows` and `knnspect._core.Chooser`.

use crate::arrays::check_projection;
use crate::errors::{OrRaise, ParameterError};
use crate::gallery::{Gallery, threads_from};
use crate::interrupt;
use knnspect_core::select::{self, Front, ShardOptions, Whole};
use numpy::{PyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use std::num::NonZero;

/// Rows brought up to date, the boundary, and numbers, squared distances and values of active rows.
type PyFront<'py> = (
    usize,
    (f64, u64),
    Bound<'py, PyArray1<u64>>,
    Bound<'py, PyArray1<f64>>,
    Bound<'py, PyArray2<f32>>,
);

/// The same, as arguments.
type ReadFront<'py> = (
    usize,
    (f64, u64),
    PyReadonlyArray1<'py, u64>,
    PyReadonlyArray1<'py, f64>,
    PyReadonlyArray2<'py, f32>,
);

/// Squared distances, and numbers of picks seen.
type PyShown<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<u32>>);

/// What is known of the rows of a shard, of which some are picked elsewhere.
#[pyclass(module = "knnspect._core")]
pub(crate) struct ShardRows {
    rows: select::ShardRows,
    n_features: usize,
}

#[pymethods]
impl ShardRows {
    #[new]
    fn new<'py>(
        py: Python<'py>,
        gallery: &Gallery,
        ranks: PyReadonlyArray1<'py, u32>,
        kept: Option<PyReadonlyArray1<'py, bool>>,
        projection: Option<PyReadonlyArray2<'py, f32>>,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let gallery = gallery.read(knnspect_core::Gallery::clone);
        let context = gallery.pyramid_context().or_raise(py)?;
        let all = gallery.select(None).or_raise(py)?;
        let n_features = context.shape().n_features();
        check_projection(projection.as_ref(), n_features)?;
        let projection = projection.map(|matrix| matrix.as_slice().map(<[f32]>::to_vec));
        let kept = kept.map(|kept| kept.as_slice().map(<[bool]>::to_vec));
        let options = ShardOptions {
            ranks: ranks.as_slice()?.to_vec(),
            kept: kept.transpose()?,
            projection: projection.transpose()?,
            threads: threads_from(py, threads)?,
            instruction_set: None,
        };
        let rows = interrupt::run(py, |cancel| {
            select::ShardRows::new(context, all, options, cancel)
        })?;
        Ok(Self { rows, n_features })
    }

    /// Values of some rows, as they are compared, or not projected.
    fn values<'py>(
        &self,
        py: Python<'py>,
        numbers: PyReadonlyArray1<'py, u64>,
        projected: bool,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let numbers = numbers_from(&numbers)?;
        let values = self.rows.values(&numbers, projected).or_raise(py)?;
        let n_values = if projected {
            self.rows.n_values()
        } else {
            self.n_features
        };
        as_rows(py, values, n_values)
    }

    /// Values of some rows, evenly spaced, as they are compared.
    fn sample_of_values<'py>(
        &self,
        py: Python<'py>,
        most: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        as_rows(py, self.rows.sample_of_values(most), self.rows.n_values())
    }

    /// Begins anew, after some picks.
    fn begin(&mut self, py: Python<'_>, picks: PyReadonlyArray2<'_, f32>) -> PyResult<()> {
        let picks = picks.as_slice()?;
        interrupt::run(py, |cancel| self.rows.begin(picks, cancel))
    }

    /// Learns of the picks of a round.
    fn advance(
        &mut self,
        py: Python<'_>,
        picks: PyReadonlyArray2<'_, f32>,
        numbers: PyReadonlyArray1<'_, u64>,
        sq: PyReadonlyArray1<'_, f64>,
        seen: PyReadonlyArray1<'_, u32>,
    ) -> PyResult<()> {
        let numbers = numbers_from(&numbers)?;
        let (picks, sq, seen) = (picks.as_slice()?, sq.as_slice()?, seen.as_slice()?);
        self.rows.advance(picks, &numbers, sq, seen).or_raise(py)
    }

    /// Squared distances of every so many rows.
    fn sample<'py>(&self, py: Python<'py>, step: usize) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let sample = self.rows.sample(positive("step", step)?).or_raise(py)?;
        Ok(PyArray::from_vec(py, sample))
    }

    /// Brings rows up to date.
    fn front<'py>(&mut self, py: Python<'py>, reach: f64, most: usize) -> PyResult<PyFront<'py>> {
        let most = positive("most", most)?;
        let front = interrupt::run(py, |cancel| self.rows.front(reach, most, cancel))?;
        Ok((
            front.n_rows,
            (front.boundary.0, front.boundary.1 as u64),
            PyArray::from_vec(py, to_u64(&front.rows)),
            PyArray::from_vec(py, front.sq),
            as_rows(py, front.values, self.rows.n_values())?,
        ))
    }
}

/// What picks among the rows that shards send.
#[pyclass(module = "knnspect._core")]
pub(crate) struct Chooser {
    chooser: select::Chooser,
    n_values: usize,
}

#[pymethods]
impl Chooser {
    #[new]
    // The arguments of the Python class.
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        n_shards: usize,
        n_rows: usize,
        count: usize,
        first: u64,
        values: PyReadonlyArray1<'_, f32>,
        sample: PyReadonlyArray2<'_, f32>,
        round: Option<usize>,
    ) -> PyResult<Self> {
        let whole = Whole {
            n_shards: positive("n_shards", n_shards)?,
            n_rows: positive("n_rows", n_rows)?,
            count: positive("count", count)?,
            sample: sample.as_slice()?,
            instruction_set: None,
            round: round.and_then(NonZero::new),
        };
        let values = values.as_slice()?;
        let chooser = select::Chooser::new(&whole, number_from(first)?, values).or_raise(py)?;
        let n_values = values.len();
        Ok(Self { chooser, n_values })
    }

    #[getter]
    fn step(&self) -> usize {
        self.chooser.step()
    }

    #[getter]
    fn most(&self) -> usize {
        self.chooser.most()
    }

    #[getter]
    fn sq_radius(&self) -> Option<f64> {
        self.chooser.sq_radius()
    }

    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u64>> {
        PyArray::from_vec(py, to_u64(self.chooser.rows()))
    }

    /// Values of the picks after some.
    fn values_after<'py>(
        &self,
        py: Python<'py>,
        n_picks: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let values = self.chooser.values_after(n_picks).to_vec();
        as_rows(py, values, self.n_values)
    }

    /// How far the rows of the next round lie at least.
    fn reach(&self, py: Python<'_>, sample: PyReadonlyArray1<'_, f64>) -> PyResult<f64> {
        let mut sample = sample.as_slice()?.to_vec();
        self.chooser.reach(&mut sample).or_raise(py)
    }

    /// Picks among the fronts of all shards; for each, how far its rows have come.
    fn choose<'py>(
        &mut self,
        py: Python<'py>,
        fronts: Vec<ReadFront<'py>>,
    ) -> PyResult<Vec<PyShown<'py>>> {
        let fronts = fronts
            .iter()
            .map(front_from)
            .collect::<PyResult<Vec<_>>>()?;
        let shown = interrupt::run(py, |cancel| self.chooser.choose(&fronts, cancel))?;
        let arrays = shown.into_iter().map(|shown| {
            let (sq, seen) = (shown.sq, shown.seen);
            (PyArray::from_vec(py, sq), PyArray::from_vec(py, seen))
        });
        Ok(arrays.collect())
    }
}

fn front_from(front: &ReadFront<'_>) -> PyResult<Front> {
    let (n_rows, boundary, rows, sq, values) = front;
    let last = usize::try_from(boundary.1).unwrap_or(usize::MAX);
    Ok(Front {
        n_rows: *n_rows,
        boundary: (boundary.0, last),
        rows: numbers_from(rows)?,
        sq: sq.as_slice()?.to_vec(),
        values: values.as_slice()?.to_vec(),
    })
}

fn numbers_from(numbers: &PyReadonlyArray1<'_, u64>) -> PyResult<Vec<usize>> {
    let numbers = numbers.as_slice()?.iter();
    numbers.map(|&number| number_from(number)).collect()
}

fn number_from(number: u64) -> PyResult<usize> {
    usize::try_from(number)
        .map_err(|_| ParameterError::new_err(format!("rows: there is no row {number}")))
}

fn positive(name: &str, value: usize) -> PyResult<NonZero<usize>> {
    NonZero::new(value)
        .ok_or_else(|| ParameterError::new_err(format!("{name}: expected at least 1, got 0")))
}

fn to_u64(numbers: &[usize]) -> Vec<u64> {
    numbers.iter().map(|&number| number as u64).collect()
}

fn as_rows(
    py: Python<'_>,
    values: Vec<f32>,
    n_values: usize,
) -> PyResult<Bound<'_, PyArray2<f32>>> {
    let shape = [values.len() / n_values.max(1), n_values];
    PyArray::from_vec(py, values).reshape(shape)
}
