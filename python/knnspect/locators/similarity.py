"""The similarity transform between pairs of positions: by least squares, and despite wrong pairs.

A position (row, column) is the complex number row + i column; a similarity multiplies by one
complex number and adds another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["least_squares", "robust"]

#: Pairs of pairs that are tried.
_N_TRIALS = 256


def least_squares(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the similarity that moves positions with the least sum of squared distances.

    Parameters
    ----------
    before, after : ndarray of float64, shape (n, 2)
        Positions, and where they are to go.

    Returns
    -------
    ndarray of float64, shape (2, 3), or None
        Of (row, column, 1) it makes (row, column); None if all positions are one.

    Source
    ------
    Umeyama, "Least-squares estimation of transformation parameters between two point patterns"
    (1991), without mirroring; in the plane it is linear regression of complex numbers.

    Examples
    --------
    >>> before = np.array([[0.0, 0], [0, 1], [1, 0]])
    >>> least_squares(before, before * 2 + [3, 4]).round(9) + 0.0
    array([[2., 0., 3.],
           [0., 2., 4.]])
    """
    x, y = _complex(before), _complex(after)
    off = x - x.mean()
    spread = float(np.square(np.abs(off)).sum())
    if spread == 0:
        return None
    factor = complex((off.conj() * (y - y.mean())).sum() / spread)
    return _matrix(factor, complex(y.mean() - factor * x.mean()))


def robust(
    before: NDArray[np.float64], after: NDArray[np.float64], tolerance: float, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Return the similarity on which most pairs of positions agree, and which pairs these are.

    Of many similarities, each through two pairs, that with most pairs within the tolerance is
    fitted anew to these, twice.

    Parameters
    ----------
    before, after : ndarray of float64, shape (n, 2)
        Positions, and where they are to go; some pairs may be wrong.
    tolerance : float
        How far off a pair may be.
    seed : int, default 0
        Which pairs are tried.

    Returns
    -------
    (ndarray of float64, shape (2, 3), ndarray of bool, shape (n,)) or None
        The transform and the pairs that agree; None if fewer than three do.

    Source
    ------
    Fischler and Bolles, "Random sample consensus" (1981).
    """
    if len(before) < 3:
        return None
    x, y = _complex(before), _complex(after)
    first, second = np.random.default_rng(seed).integers(len(x), size=(2, _N_TRIALS))
    apart = x[first] != x[second]
    first, second = first[apart], second[apart]
    if not len(first):
        return None
    factors = (y[first] - y[second]) / (x[first] - x[second])
    offsets = y[first] - factors * x[first]
    off = np.abs(factors[:, None] * x + offsets[:, None] - y)
    agree = off[int((off <= tolerance).sum(axis=1).argmax())] <= tolerance
    matrix = None
    for _ in range(2):
        matrix = least_squares(before[agree], after[agree]) if agree.sum() >= 3 else None
        if matrix is None:
            return None
        moved = before @ matrix[:, :2].T + matrix[:, 2]
        agree = np.square(moved - after).sum(axis=1) <= tolerance**2
    return None if matrix is None or agree.sum() < 3 else (matrix, agree)


def _complex(positions: NDArray[np.float64]) -> NDArray[np.complex128]:
    found: NDArray[np.complex128] = positions[:, 0] + 1j * positions[:, 1]
    return found


def _matrix(factor: complex, offset: complex) -> NDArray[np.float64]:
    return np.array(
        [[factor.real, -factor.imag, offset.real], [factor.imag, factor.real, offset.imag]]
    )
