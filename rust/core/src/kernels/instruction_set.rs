//! The instruction sets that kernels exist for.

use crate::error::Result;
use crate::names::{named, unknown};

/// Vectors of queries in a tile.
pub(crate) const TILE_VECTORS: usize = 3;

/// The instruction sets that kernels exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Plain Rust; runs everywhere.
    Portable,
    /// ARM of 64 bits, with NEON.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512F.
    Avx512,
}

named!(InstructionSet, "instruction_set", {
    Portable => "portable",
    Neon => "neon",
    Avx2 => "avx2",
    Avx512 => "avx512",
});

impl InstructionSet {
    /// Whether this machine has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }

    /// All that this machine has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL
            .iter()
            .copied()
            .filter(|set| set.is_available())
            .collect()
    }

    /// The fastest that this machine has.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL
            .iter()
            .copied()
            .rev()
            .find(|set| set.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Finds an available instruction set by its name.
    ///
    /// # Errors
    /// [`Error::Parameter`](crate::Error::Parameter) when the name is unknown or this machine lacks it.
    pub fn available_by_name(name: &str) -> Result<Self> {
        let found = name.parse().ok().filter(|set: &Self| set.is_available());
        found.ok_or_else(|| {
            let names = Self::available().into_iter().map(Self::name);
            unknown("instruction_set", names, name)
        })
    }

    /// Floats in a vector.
    pub(crate) const fn width(self) -> usize {
        match self {
            Self::Portable | Self::Neon => 4,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }

    /// Queries that one scan serves.
    pub(crate) const fn tile(self) -> usize {
        TILE_VECTORS * self.width()
    }
}
