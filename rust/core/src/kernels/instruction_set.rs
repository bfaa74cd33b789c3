//! The instruction sets that kernels exist for.

use crate::error::{Error, Result};

/// Vectors of queries in a tile.
pub(crate) const TILE_VECTORS: usize = 3;

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
