//! The Python module `knnspect._core`: the Rust core's galleries, matching and files over NumPy
//! arrays. The typed surface is `python/knnspect/_core.pyi`.

// PyO3 hands over owned arguments.
#![allow(clippy::needless_pass_by_value)]

mod arrays;
mod coreset;
mod errors;
mod gallery;
mod interrupt;
mod merge;
mod picking;
mod results;
mod search;
mod store;
mod windows;

use knnspect_core::InstructionSet;
use pyo3::prelude::*;

/// Names of the instruction sets that this machine has kernels for, slowest first.
#[pyfunction]
fn instruction_sets() -> Vec<&'static str> {
    InstructionSet::available()
        .into_iter()
        .map(InstructionSet::name)
        .collect()
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(instruction_sets, module)?)?;
    module.add_function(wrap_pyfunction!(store::save_tensors, module)?)?;
    module.add_function(wrap_pyfunction!(store::read_file, module)?)?;
    module.add_function(wrap_pyfunction!(store::replace_file, module)?)?;
    module.add_function(wrap_pyfunction!(coreset::concatenate, module)?)?;
    module.add_function(wrap_pyfunction!(coreset::pick_rows, module)?)?;
    module.add_function(wrap_pyfunction!(windows::window_bounds, module)?)?;
    module.add_function(wrap_pyfunction!(merge::merge_found, module)?)?;
    module.add_class::<picking::Chooser>()?;
    module.add_class::<gallery::FolderLock>()?;
    module.add_class::<gallery::Gallery>()?;
    module.add_class::<results::Neighbors>()?;
    module.add_class::<results::Picks>()?;
    module.add_class::<results::Rescored>()?;
    module.add_class::<search::Search>()?;
    module.add_class::<results::SearchStats>()?;
    module.add_class::<picking::ShardRows>()?;
    module.add_class::<store::Store>()?;
    Ok(())
}
