//! Vectors of the instruction sets, and kernels run on them.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod run;

pub(crate) use lanes::{Kernel, Lanes, MAX_WIDTH, is_not_above};
#[cfg(test)]
pub(crate) use portable::Portable;
pub(crate) use run::run_kernel;
