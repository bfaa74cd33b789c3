//! NEON: 4 lanes, 32 registers; 3 x 8 of them accumulate.

use super::lanes::{Kernel, Lanes, MAX_WIDTH};
use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddvq_u32, vbicq_u32, vcgtq_f32, vdupq_n_f32, vdupq_n_u32, vfmaq_f32,
    vld1q_f32, vld1q_u32, vminnmq_f32, vmlaq_u32, vmulq_f32, vqtbl1q_u8, vreinterpretq_f32_u8,
    vreinterpretq_u8_f32, vreinterpretq_u8_u32, vst1q_f32,
};

// The methods are inlined into functions that enable the instruction set; see `Lanes`.
impl Lanes for float32x4_t {
    const WIDTH: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller has NEON.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller has NEON and 4 readable floats.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller has NEON and 4 writable floats.
        unsafe { vst1q_f32(to, self) }
    }

    #[inline(always)]
    unsafe fn repeat(from: *const [f32; 4]) -> Self {
        // SAFETY: the caller has NEON and 4 readable floats.
        unsafe { vld1q_f32(from.cast()) }
    }

    #[inline(always)]
    unsafe fn permute(self, lanes: &[u32; MAX_WIDTH]) -> Self {
        // SAFETY: the caller has NEON; more than 4 lanes are readable.
        unsafe {
            // Bytes are looked up: those of lane i are 4 i to 4 i + 3, the lowest first.
            let lanes = vld1q_u32(lanes.as_ptr());
            let bytes = vmlaq_u32(vdupq_n_u32(0x0302_0100), lanes, vdupq_n_u32(0x0404_0404));
            let found = vqtbl1q_u8(vreinterpretq_u8_f32(self), vreinterpretq_u8_u32(bytes));
            vreinterpretq_f32_u8(found)
        }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the caller has NEON.
        unsafe { vfmaq_f32(addend, self, factor) }
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        // SAFETY: the caller has NEON.
        unsafe { vmulq_f32(self, factor) }
    }

    #[inline(always)]
    unsafe fn add(self, addend: Self) -> Self {
        // SAFETY: the caller has NEON.
        unsafe { vaddq_f32(self, addend) }
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        // SAFETY: the caller has NEON.
        unsafe { vminnmq_f32(self, other) }
    }

    #[inline(always)]
    unsafe fn not_above(self, limit: Self) -> u32 {
        // SAFETY: the caller has NEON; the array is as long as a vector.
        unsafe {
            let bits = vld1q_u32([1, 2, 4, 8].as_ptr());
            vaddvq_u32(vbicq_u32(bits, vcgtq_f32(self, limit)))
        }
    }
}

/// # Safety
/// The machine must have NEON, and the kernel's arguments must have been checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run_neon<K: Kernel>(kernel: K) {
    // SAFETY: as promised by the caller.
    unsafe { kernel.run::<float32x4_t, 8>() }
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::{Lanes, MAX_WIDTH, float32x4_t};
    use crate::kernels::instruction_set::InstructionSet;

    const NAN: f32 = f32::NAN;
    /// No product or sum of these is rounded, so that fusing changes nothing.
    const PAIRS: [([f32; 4], [f32; 4]); 3] = [
        ([1.5, -2.0, 0.0, 8.0], [1.5, 4.0, -0.25, 7.0]),
        (
            [NAN, 1.0, NAN, f32::INFINITY],
            [1.0, NAN, NAN, f32::INFINITY],
        ),
        ([f32::NEG_INFINITY, 3.0, 2.0, -1.0], [0.5, 2.0, 3.0, -1.0]),
    ];

    /// What all methods give for a pair.
    fn results<L: Lanes>(one: [f32; 4], other: [f32; 4]) -> (Vec<[f32; 4]>, u32) {
        let mut reversed = [0; MAX_WIDTH];
        reversed[..4].copy_from_slice(&[3, 2, 0, 0]);
        // SAFETY: this machine has NEON, as the first test says; arrays have 4 floats.
        unsafe {
            let (a, b) = (L::load(one.as_ptr()), L::load(other.as_ptr()));
            let vectors = [
                a.mul(b),
                a.add(b),
                a.min(b),
                a.mul_add(b, L::splat(0.5)),
                a.permute(&reversed),
                L::repeat(&raw const other),
            ];
            let stored = vectors.map(|vector| {
                let mut values = [0.0; 4];
                vector.store(values.as_mut_ptr());
                values
            });
            (stored.to_vec(), a.not_above(b))
        }
    }

    #[test]
    fn this_machine_has_it_and_takes_it() {
        assert_eq!(InstructionSet::best(), InstructionSet::Neon);
    }

    #[test]
    fn it_computes_what_plain_rust_computes() {
        for (one, other) in PAIRS {
            let (found, mask) = results::<float32x4_t>(one, other);
            let (expected, expected_mask) = results::<Portable>(one, other);
            assert_eq!(format!("{found:?}"), format!("{expected:?}")); // where NaN equals NaN
            assert_eq!(mask, expected_mask);
        }
    }
}
