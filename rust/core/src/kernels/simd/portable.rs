//! Plain Rust: 4 lanes as an array, which compilers turn into whatever the machine has.

use super::lanes::{Kernel, Lanes, MAX_WIDTH, is_not_above};
use std::array::from_fn;

/// The reference that every intrinsic implementation is compared with.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

impl Lanes for Portable {
    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has 4 readable floats.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has 4 writable floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const [f32; 4]) -> Self {
        // SAFETY: the caller has 4 readable floats.
        Self(unsafe { from.read_unaligned() })
    }

    #[inline(always)]
    unsafe fn permute(self, lanes: &[u32; MAX_WIDTH]) -> Self {
        Self(from_fn(|i| self.0[lanes[i] as usize]))
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // Not `f32::mul_add`: without an FMA instruction that is a slow library call.
        Self(from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        Self(from_fn(|i| self.0[i] * factor.0[i]))
    }

    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        Self(from_fn(|i| self.0[i] + addend.0[i]))
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i].min(other.0[i])))
    }

    #[inline(always)]
    unsafe fn not_above(self, limit: Self) -> u32 {
        // NaN must count as not above.
        (0..4).fold(0, |mask, i| {
            mask | u32::from(is_not_above(self.0[i], limit.0[i])) << i
        })
    }
}

/// # Safety
/// The kernel's arguments must have been checked.
pub(super) unsafe fn run_portable<K: Kernel>(kernel: K) {
    // SAFETY: as promised by the caller.
    unsafe { kernel.run::<Portable, 4>() }
}
