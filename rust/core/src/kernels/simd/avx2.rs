//! AVX2 and FMA: 8 lanes, 16 registers; 3 x 4 of them accumulate.

use super::lanes::{Kernel, Lanes, MAX_WIDTH};
use std::arch::x86_64::{
    __m256, _CMP_NGT_UQ, _mm_loadu_ps, _mm256_add_ps, _mm256_broadcast_ps, _mm256_cmp_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_min_ps, _mm256_movemask_ps,
    _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set1_ps, _mm256_storeu_ps,
};

// The methods are inlined into functions that enable the instruction set; see `Lanes`.
impl Lanes for __m256 {
    const WIDTH: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has AVX2 and 8 readable floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has AVX2 and 8 writable floats.
        unsafe { _mm256_storeu_ps(to, self) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const [f32; 4]) -> Self {
        // SAFETY: the caller has AVX2 and 4 readable floats.
        unsafe { _mm256_broadcast_ps(&_mm_loadu_ps(from.cast())) }
    }

    #[inline(always)]
    unsafe fn permute(self, lanes: &[u32; MAX_WIDTH]) -> Self {
        // SAFETY: the caller has AVX2; more than 8 lanes are readable.
        unsafe { _mm256_permutevar8x32_ps(self, _mm256_loadu_si256(lanes.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has FMA.
        unsafe { _mm256_fmadd_ps(self, factor, addend) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_mul_ps(self, factor) }
    }

    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_add_ps(self, addend) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_min_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn not_above(self, limit: Self) -> u32 {
        // SAFETY: the caller has AVX2.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NGT_UQ>(self, limit)).cast_unsigned() }
    }
}

/// # Safety
/// The machine must have AVX2 and FMA, and the kernel's arguments must have been checked.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: as promised by the caller.
    unsafe { kernel.run::<__m256, 4>() }
}
