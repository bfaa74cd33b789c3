//! Kernels run on an instruction set.

#[cfg(target_arch = "x86_64")]
use super::avx2::run_avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::run_avx512;
use super::lanes::Kernel;
#[cfg(target_arch = "aarch64")]
use super::neon::run_neon;
use super::portable::run_portable;
use crate::kernels::instruction_set::InstructionSet;

/// Runs a kernel on an instruction set.
///
/// # Safety
/// The kernel's arguments must have been checked.
pub(crate) unsafe fn run_kernel<K: Kernel>(set: InstructionSet, kernel: K) {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 if set.is_available() => {
            // SAFETY: AVX-512F was just found to be available; the rest is the caller's promise.
            unsafe { run_avx512(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 if set.is_available() => {
            // SAFETY: AVX2 and FMA were just found to be available; the rest as above.
            unsafe { run_avx2(kernel) }
        }
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon if set.is_available() => {
            // SAFETY: NEON was just found to be available; the rest as above.
            unsafe { run_neon(kernel) }
        }
        _ => {
            assert_eq!(
                set,
                InstructionSet::Portable,
                "this machine lacks {}",
                set.name()
            );
            // SAFETY: plain Rust needs no instruction set; the rest as above.
            unsafe { run_portable(kernel) }
        }
    }
}
