//! The shapes of a pyramid's levels.

use crate::error::{Error, Result};

/// Height, width and channels of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelShape {
    /// Rows of cells.
    pub height: usize,
    /// Columns of cells.
    pub width: usize,
    /// Values of each cell.
    pub channels: usize,
}

impl LevelShape {
    /// Number of cells.
    #[must_use]
    pub const fn cells(&self) -> usize {
        self.height * self.width
    }

    /// Number of values.
    #[must_use]
    pub const fn values(&self) -> usize {
        self.cells() * self.channels
    }
}

/// The shapes of all levels of a pyramid, finest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PyramidShape {
    pub(super) levels: Vec<LevelShape>,
}

impl PyramidShape {
    /// Checks `(height, width, channels)` of each level, finest first.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no level, a level is empty, the height or width of a level
    /// does not divide that of the finer one, or the sizes are too large to be addressed.
    pub fn new(levels: &[(usize, usize, usize)]) -> Result<Self> {
        if levels.is_empty() {
            return Err(Error::shape(
                "a feature pyramid needs at least one level, got none",
            ));
        }
        let mut checked: Vec<LevelShape> = Vec::with_capacity(levels.len());
        for (index, &(height, width, channels)) in levels.iter().enumerate() {
            if height == 0 || width == 0 || channels == 0 {
                return Err(Error::shape(format!(
                    "level {index}: height, width and channels must be at least 1, got {height} x {width} x {channels}"
                )).at_level(index));
            }
            let fits = height
                .checked_mul(width)
                .filter(|&cells| u32::try_from(cells).is_ok())
                .and_then(|cells| cells.checked_mul(channels))
                .is_some_and(|values| values <= isize::MAX as usize / 8);
            if !fits {
                return Err(Error::shape(format!(
                    "level {index}: {height} x {width} x {channels} is too large"
                ))
                .at_level(index));
            }
            if let Some(finer) = checked.last()
                && (finer.height % height != 0 || finer.width % width != 0)
            {
                return Err(Error::shape(format!(
                    "level {index} is {height} x {width}: its height and width must divide those of the finer level, {} x {}",
                    finer.height, finer.width
                )).at_level(index));
            }
            checked.push(LevelShape {
                height,
                width,
                channels,
            });
        }
        let total = checked
            .iter()
            .try_fold(0_usize, |total, level| total.checked_add(level.values()));
        if total.is_none_or(|total| total > isize::MAX as usize / 8) {
            return Err(Error::shape("the levels are too large together"));
        }
        Ok(Self { levels: checked })
    }

    /// The levels, finest first.
    #[must_use]
    pub fn levels(&self) -> &[LevelShape] {
        &self.levels
    }

    /// The finest level.
    #[must_use]
    pub fn finest(&self) -> LevelShape {
        self.levels[0]
    }

    /// Whether all levels have the size of the finest one, so that nothing is upsampled.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        let size = |level: &LevelShape| (level.height, level.width);
        let finest = size(&self.levels[0]);
        self.levels.iter().all(|level| size(level) == finest)
    }

    /// Number of values of a cell, over all levels.
    #[must_use]
    pub fn n_features(&self) -> usize {
        self.levels.iter().map(|level| level.channels).sum()
    }

    /// Number of values of one image, over all levels.
    #[must_use]
    pub fn values(&self) -> usize {
        self.levels.iter().map(LevelShape::values).sum()
    }

    /// `56x56x24 + 28x28x40`, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let levels: Vec<String> = self
            .levels
            .iter()
            .map(|l| format!("{}x{}x{}", l.height, l.width, l.channels))
            .collect();
        levels.join(" + ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_must_nest() {
        assert!(PyramidShape::new(&[(8, 4, 3), (4, 2, 5), (1, 1, 7)]).is_ok());
        let message = PyramidShape::new(&[(8, 4, 3), (3, 2, 5)])
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("level 1 is 3 x 2") && message.contains("8 x 4"),
            "{message}"
        );
        assert!(PyramidShape::new(&[]).is_err());
        assert!(PyramidShape::new(&[(1, 0, 1)]).is_err());
        assert!(PyramidShape::new(&[(usize::MAX, 2, 1)]).is_err());
    }
}
