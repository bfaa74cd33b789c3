//! The order in which rows are picked.

/// A place in the order in which rows are picked: the farthest first, then by their numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Boundary {
    pub sq: f64,
    pub row: usize,
}

impl Boundary {
    /// Whether a row comes before the boundary, or is it.
    pub(super) fn holds(self, sq: f64, row: usize) -> bool {
        sq > self.sq || (sq == self.sq && row <= self.row)
    }
}

/// Whether the first of two rows, squared distance and number, comes before the second.
pub(super) fn comes_first(x: (f64, usize), y: (f64, usize)) -> bool {
    x.0 > y.0 || (x.0 == y.0 && x.1 < y.1)
}
