"""What spectra and maps of residuals are judged by: NumPy and SciPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.ndimage import grey_closing, grey_opening, uniform_filter

__all__ = [
    "guided",
    "lowest_energies",
    "mahalanobis",
    "small_parts",
    "spread_of",
    "usual_of",
    "whitening_of",
]

#: Bands whose residual has the least energy that are looked at.
_N_BANDS = 3
#: Sides of what counts as small, and of the window of the guided filter, in pixels.
_SMALL, _WINDOW = 5, 3
#: Spectra that are multiplied at a time.
_AT_ONCE = 2**16


def lowest_energies(residuals: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which three bands have the least energy: the sum of absolute residuals.

    >>> lowest_energies(np.array([[1.0, -9.0, 2.0, 3.0]])).tolist()
    [True, False, True, True]
    """
    order = np.abs(residuals).sum(axis=0).argsort(kind="stable")
    chosen = np.zeros(residuals.shape[1], bool)
    chosen[order[:_N_BANDS]] = True
    return chosen


def whitening_of(spectra: NDArray[Any]) -> NDArray[np.float64]:
    """Return a matrix that makes the covariance of spectra the identity, shape (n, n).

    Parameters
    ----------
    spectra : ndarray of float, shape (n_pixels, n)
        The spectra.

    Source
    ------
    Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices"
    (2004): the covariance shrinks to a multiple of the identity, by as much as has the least
    expected error, so that it can be inverted however few spectra or many bands there are.

    Examples
    --------
    >>> whitening_of(np.array([[-2.0], [2.0]])).round(6).tolist()
    [[0.5]]
    """
    n_pixels, n = spectra.shape
    centred = np.asarray(spectra, np.float64) - spectra.mean(axis=0, dtype=np.float64)
    covariance = centred.T @ centred / n_pixels
    mean = np.trace(covariance) / n
    apart = float(((covariance - mean * np.eye(n)) ** 2).sum())
    norms = (centred**2).sum(axis=1)
    error = float((norms**2).mean() - (covariance**2).sum()) / n_pixels
    share = min(max(error, 0.0), apart) / apart if apart > 0 else 0.0
    shrunk = (1 - share) * covariance + share * mean * np.eye(n)
    # What is reconstructed to the bit would have no covariance at all.
    shrunk += (1e-9 * mean or 1.0) * np.eye(n)
    whitening: NDArray[np.float64] = solve_triangular(
        np.linalg.cholesky(shrunk), np.eye(n), lower=True
    )
    return whitening


def usual_of(
    spectra: NDArray[Any], contamination: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean of spectra, and what whitens them, both without the oddest ones.

    Parameters
    ----------
    spectra : ndarray of float, shape (n_pixels, n)
        The spectra.
    contamination : float
        The share of spectra that are left out: the farthest by the mean and the covariance of all,
        then by those of the others, and once more.
    """
    kept = spectra
    n_kept = max(1, round((1 - contamination) * len(spectra)))
    for _ in range(3):
        usual = kept.mean(axis=0, dtype=np.float64)
        distances = mahalanobis(spectra.T[:, None], usual, whitening_of(kept))[0]
        kept = spectra[np.sort(distances.argsort(kind="stable")[:n_kept])]
    return kept.mean(axis=0, dtype=np.float64), whitening_of(kept)


def mahalanobis(
    residual: NDArray[Any], usual: NDArray[Any], whitening: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance of each pixel from what is usual.

    Parameters
    ----------
    residual : ndarray of float, shape (n_bands, height, width)
        Of a scene.
    usual : ndarray of float, shape (n_bands,)
        The mean of normal residuals.
    whitening : ndarray of float, shape (n_bands, n_bands)
        See `whitening_of`.

    Returns
    -------
    ndarray of float64, shape (height, width)
        The distances.
    """
    spectra = residual.reshape(len(residual), -1)
    found = np.empty(spectra.shape[1])
    for start in range(0, spectra.shape[1], _AT_ONCE):
        some = spectra[:, start : start + _AT_ONCE] - np.asarray(usual, np.float64)[:, None]
        found[start : start + _AT_ONCE] = ((whitening @ some) ** 2).sum(axis=0)
    return found.reshape(residual.shape[1:])


def small_parts(residual: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return what is bright or dark in few pixels of some bands, in the mean of these.

    Parameters
    ----------
    residual : ndarray of float, shape (n_bands, height, width)
        Of a scene.
    chosen : ndarray of bool, shape (n_bands,)
        The bands.

    Returns
    -------
    ndarray of float64, shape (height, width)
        The mean of what the opening and the closing of absolute residuals change, together.
    """
    size = (1, _SMALL, _SMALL)
    bands = np.abs(residual[chosen]).astype(np.float64)
    changed: NDArray[np.float64] = grey_closing(bands, size) - grey_opening(bands, size)
    return np.asarray(changed.mean(axis=0))


def guided(image: NDArray[Any], noise: float) -> NDArray[np.float64]:
    """Return an image smoothed where it varies less than noise does, guided by itself.

    Parameters
    ----------
    image : ndarray of float, shape (height, width)
        The image.
    noise : float
        The standard deviation of what is to be smoothed.

    Source
    ------
    He, Sun and Tang, "Guided Image Filtering" (2013), equations 5, 6 and 8, with a window of 3x3
    and the image as its own guide.

    Examples
    --------
    >>> spot = np.zeros((5, 5))
    >>> spot[2, 2] = 9
    >>> round(float(guided(spot, 0.1)[2, 2]), 2), round(float(guided(spot, 999.0)[2, 2]), 2)
    (8.99, 1.0)
    """
    mean = uniform_filter(image, _WINDOW, mode="nearest")
    variance = (uniform_filter(image**2, _WINDOW, mode="nearest") - mean**2).clip(0)
    slope = variance / (variance + noise**2 + np.finfo(float).tiny)
    offset = mean - slope * mean
    smoothed: NDArray[np.float64] = uniform_filter(slope, _WINDOW, mode="nearest") * image
    smoothed += uniform_filter(offset, _WINDOW, mode="nearest")
    return smoothed.clip(0)


def spread_of(maps: Sequence[NDArray[Any]]) -> float:
    """Return how far values of maps are apart, which outliers hardly change.

    It is the median distance from their median, in standard deviations of a Gaussian; the mean
    distance, where more than half of them are equal; 1 where all are.

    >>> round(spread_of([np.array([1.0, 2.0, 3.0]), np.array([4.0, 900.0])]), 4)
    1.4826
    """
    values = np.concatenate([np.ravel(each) for each in maps])
    apart = np.abs(values - np.median(values))
    return float(1.4826 * np.median(apart)) or float(apart.mean()) or 1.0
