//! What the kernels are written over: vectors of as many floats as an instruction set has lanes.

/// The widest vector of any instruction set.
pub(crate) const MAX_WIDTH: usize = 16;

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

/// An inner loop that [`run_kernel`](super::run_kernel()) instantiates for an instruction set.
///
/// # Safety
/// `run` may only be called where the instruction set of `L` is available. The code that makes a kernel
/// has checked that its buffers are as large as `run` relies on.
pub(crate) trait Kernel {
    /// `CELLS` gallery cells are accumulated in registers at a time.
    unsafe fn run<L: Lanes, const CELLS: usize>(self);
}

/// What [`Lanes::not_above`] computes for each lane.
#[inline(always)]
pub(crate) fn is_not_above(value: f32, limit: f32) -> bool {
    value <= limit || value.is_nan() || limit.is_nan()
}
