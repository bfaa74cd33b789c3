//! AVX-512F: 16 lanes, 32 registers; 3 x 8 of them accumulate.

use super::lanes::{Kernel, Lanes, MAX_WIDTH};
use std::arch::x86_64::{
    __m512, _CMP_NGT_UQ, _mm_loadu_ps, _mm512_add_ps, _mm512_broadcast_f32x4, _mm512_cmp_ps_mask,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_min_ps, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_storeu_ps,
};

// The methods are inlined into functions that enable the instruction set; see `Lanes`.
impl Lanes for __m512 {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has AVX-512F and 16 readable floats.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has AVX-512F and 16 writable floats.
        unsafe { _mm512_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const [f32; 4]) -> Self {
        // SAFETY: the caller has AVX-512F and 4 readable floats.
        unsafe { _mm512_broadcast_f32x4(_mm_loadu_ps(from.cast())) }
    }

    #[inline(always)]
    unsafe fn permute(self, lanes: &[u32; MAX_WIDTH]) -> Self {
        // SAFETY: the caller has AVX-512F; 16 lanes are readable.
        unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(lanes.as_ptr().cast()), self) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_fmadd_ps(self, factor, addend) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_mul_ps(self, factor) }
    }

    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_add_ps(self, addend) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller has AVX-512F.
        unsafe { _mm512_min_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn not_above(self, limit: Self) -> u32 {
        // SAFETY: the caller has AVX-512F.
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_NGT_UQ>(self, limit) })
    }
}

/// # Safety
/// The machine must have AVX-512F, and the kernel's arguments must have been checked.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: as promised by the caller.
    unsafe { kernel.run::<__m512, 8>() }
}
