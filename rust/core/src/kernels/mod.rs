//! The inner loops, written once over [`Lanes`] and instantiated for each instruction set.
//!
//! | instruction set | floats in a vector | queries in a tile | cells in a register block |
//! |---|---|---|---|
//! | portable | 4 (plain arrays, no intrinsics) | 12 | 4 |
//! | AVX2 + FMA | 8 | 24 | 4 |
//! | AVX-512 | 16 | 48 | 8 |
//!
//! A vector holds the same quantity for [`Lanes::WIDTH`] *different queries*. Interpolation weights
//! and gallery features are then scalars that are broadcast, the gallery is read in the order in
//! which it is stored, and finding a minimum needs no horizontal step.
//!
//! Nothing that a kernel computes is returned to a user: kernels only decide, with a proven error
//! bound, which pairs are worth an exact distance ([`crate::matching::exact`]). Results are therefore
//! the same to the bit on every instruction set.

// The generic kernels exist only as parts of the functions that enable an instruction set.
#![allow(clippy::inline_always)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod cascade;
pub(crate) mod flat;
pub(crate) mod leading;
mod portable;
mod prepare;
pub(crate) mod product;
mod scan;
pub(crate) mod survey;

pub(crate) use prepare::{FramedImage, PreparedImage, dot, prepare_image_into};
pub(crate) use scan::{Hits, Limits, QueryTile, Scratch, scan_image};

use crate::error::{Error, Result};

/// Vectors of queries in a tile.
pub(crate) const TILE_VECTORS: usize = 3;

/// The widest vector of any instruction set.
pub(crate) const MAX_WIDTH: usize = 16;

/// The widest tile of any instruction set.
pub(crate) const MAX_TILE: usize = TILE_VECTORS * MAX_WIDTH;

/// In place of the fine cell of its query, in a lane that has none.
pub(crate) const NO_QUERY: u32 = u32::MAX;

/// The instruction sets that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Plain Rust; runs everywhere.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
}

impl InstructionSet {
    const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The name by which it is asked for.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this machine has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// All that this machine has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|set| set.is_available())
            .collect()
    }

    /// The fastest that this machine has.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .rev()
            .find(|set| set.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Finds an available instruction set by its name.
    ///
    /// # Errors
    /// [`Error::Parameter`] when the name is unknown or this machine lacks it.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::available()
            .into_iter()
            .find(|set| set.name() == name)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::available().into_iter().map(Self::name).collect();
                Error::Parameter(format!(
                    "instruction_set: expected one of {}, got {name:?}",
                    names.join(", ")
                ))
            })
    }

    /// Floats in a vector.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::Portable => 4,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }

    /// Queries that one scan serves.
    pub(crate) const fn tile(self) -> usize {
        TILE_VECTORS * self.width()
    }
}

/// `WIDTH` floats, one for each of as many queries.
///
/// # Safety
/// The methods may only be called where the instruction set of the implementation is available;
/// pointers must be valid for `WIDTH` floats (of any alignment).
pub(crate) trait Lanes: Copy {
    const WIDTH: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Four floats, again and again.
    unsafe fn repeat(from: *const [f32; 4]) -> Self;
    /// Lane `i` becomes `self[lanes[i]]`; these must be below `WIDTH`.
    unsafe fn permute(self, lanes: &[u32; MAX_WIDTH]) -> Self;
    /// `self * factor + addend`, fused where the instruction set can.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn mul(self, factor: Self) -> Self;
    unsafe fn add(self, addend: Self) -> Self;
    /// The smaller of each pair; either where one is NaN.
    unsafe fn min(self, other: Self) -> Self;
    /// Bit `i` is set unless `self[i] > limit[i]`; so it is set where either is NaN.
    unsafe fn not_above(self, limit: Self) -> u32;
}

/// An inner loop that [`run`] instantiates for an instruction set.
///
/// # Safety
/// `run` may only be called where the instruction set of `L` is available. Whoever makes a kernel
/// has checked that its buffers are as large as `run` relies on.
trait Kernel {
    /// `CELLS` gallery cells are accumulated in registers at a time.
    unsafe fn run<L: Lanes, const CELLS: usize>(self);
}

/// Runs a kernel on an instruction set.
///
/// # Safety
/// The kernel's arguments must have been checked.
unsafe fn run<K: Kernel>(set: InstructionSet, kernel: K) {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 if set.is_available() => {
            // SAFETY: AVX-512F was just found to be available; the rest is the caller's promise.
            unsafe { avx512::run_avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 if set.is_available() => {
            // SAFETY: AVX2 and FMA were just found to be available; the rest as above.
            unsafe { avx2::run_avx2(kernel) }
        }
        _ => {
            assert_eq!(
                set,
                InstructionSet::Portable,
                "this machine lacks {}",
                set.name()
            );
            // SAFETY: plain Rust needs no instruction set; the rest as above.
            unsafe { portable::run_portable(kernel) }
        }
    }
}

/// What [`Lanes::not_above`] computes for each lane.
#[inline(always)]
fn is_not_above(value: f32, limit: f32) -> bool {
    value <= limit || value.is_nan() || limit.is_nan()
}
