"""A one-class SVM by stochastic gradient descent, in memory that does not grow with the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.estimates.gaussians import Gaussian
from knnspect.detectors.heads.estimates.learning import pyramids_of
from knnspect.detectors.heads.scorers.one_class import Kernel, joined_cells, level_means
from knnspect.gallery.reading import ReadOnlyGallery

__all__ = ["arrays_of_images", "one_class_arrays", "whitening_arrays"]

#: Features from which landmarks are drawn, at most.
_N_SAMPLED = 20_000
#: Of the mean variance, what is added to all: directions without any are not to count most.
_RIDGE = 0.01
#: The kernel falls to 1 / e within so many times the root mean square length of features. Smaller
#: ones judge as well, until no normal feature is near, and all that is far scores the same.
_REACH = 6.0
#: Passes through pooled features for each through cells, of which there are thousands an image.
_POOLED_EPOCHS = 50

_Array = NDArray[np.float32]
_Batches = Callable[[], Iterator[_Array]]


def arrays_of_images(
    gallery: ReadOnlyGallery,
    ids: Sequence[str],
    upsample: Literal["bilinear", "block"],
    pooled: bool,
    kernel: Kernel,
    nu: float,
    n_landmarks: int,
    n_epochs: int,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Return what `OneClassScorer` needs, by some images of a gallery; see `OneClassSvm`."""

    def cells() -> Iterator[_Array]:
        return (joined_cells(each, upsample) for each in pyramids_of(gallery, ids))

    def pooled_features() -> Iterator[_Array]:
        return map(level_means, pyramids_of(gallery, ids))

    whitening = whitening_arrays(cells())
    how = whitening, kernel, nu, n_landmarks
    arrays = whitening | one_class_arrays(cells, *how, n_epochs, seed)
    if pooled:
        found = one_class_arrays(pooled_features, *how, _POOLED_EPOCHS * n_epochs, seed)
        arrays |= {f"pooled_{name}": array for name, array in found.items()}
    return arrays


def whitening_arrays(cells: Iterator[_Array]) -> dict[str, NDArray[Any]]:
    """Return the mean of features, and the matrix that gives them about equal variances.

    Parameters
    ----------
    cells : iterator of ndarray of float32, shape (n, n_features)
        Features of cells.
    """
    gaussian = Gaussian.of(each[:, None, :] for each in cells)
    variances, directions = np.linalg.eigh(gaussian.scatter[0] / gaussian.n)
    variances = np.maximum(variances, 0)
    scale = np.sqrt(variances + _RIDGE * variances.mean())
    return {
        "mean": gaussian.mean[0].astype(np.float32),
        "matrix": (directions / scale).T.astype(np.float32),
    }


def one_class_arrays(
    batches: _Batches,
    whitening: Mapping[str, NDArray[Any]],
    kernel: Kernel,
    nu: float,
    n_landmarks: int,
    n_epochs: int,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Return what `OneClassScorer` needs: scikit-learn's `SGDOneClassSVM` over `Nystroem`.

    Parameters
    ----------
    batches : callable
        Yields all features in the same order whenever it is called, as arrays of shape
        (n, n_features).
    whitening : mapping of str to ndarray
        What `whitening_arrays` returned.
    kernel : Kernel
        How alike features are.
    nu : float
        The share of features that may lie on the wrong side, at most.
    n_landmarks : int
        Features that all others are compared with; as many as there are, if there are fewer.
    n_epochs : int
        Passes through all features.
    seed : int
        Draws landmarks, and the order of features.
    """
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import SGDOneClassSVM

    rng = np.random.default_rng(seed)
    sampled = kernel.prepared(_sampled(batches(), rng), whitening)
    n_landmarks = min(n_landmarks, len(sampled))
    sq_length = float(np.square(sampled - sampled.mean(axis=0)).sum(axis=1).mean())
    gamma = 1 / max(_REACH**2 * sq_length, float(np.finfo(np.float32).tiny))
    approximation = Nystroem(
        kernel.name,
        gamma=gamma if kernel.name == "rbf" else None,
        n_components=n_landmarks,
        random_state=seed,
    ).fit(sampled[rng.permutation(len(sampled))[:n_landmarks]])
    landmarks = approximation.components_.astype(np.float32)
    normalization = approximation.normalization_.astype(np.float32)
    svm = SGDOneClassSVM(nu, random_state=seed, average=True)
    for _ in range(n_epochs):
        for batch in batches():
            shuffled = kernel.prepared(batch[rng.permutation(len(batch))], whitening)
            svm.partial_fit(kernel.of(shuffled, landmarks, gamma) @ normalization.T)
    weights = (normalization.T @ svm.coef_.ravel()).astype(np.float32)
    prepared = (kernel.prepared(batch, whitening) for batch in batches())
    highest = max(float((kernel.of(each, landmarks, gamma) @ weights).max()) for each in prepared)
    return {
        "landmarks": landmarks,
        "weights": weights,
        "gamma": np.array([gamma], np.float32),
        "highest": np.array([highest], np.float32),
    }


def _sampled(batches: Iterator[_Array], rng: np.random.Generator) -> _Array:
    """Return a sample of all features, of which a batch is in memory at a time."""
    kept: _Array | None = None
    keys = np.empty(0)
    for batch in batches:
        kept = batch if kept is None else np.concatenate([kept, batch])
        # Those with the smallest of random numbers are a sample of all.
        keys = np.concatenate([keys, rng.random(len(batch))])
        smallest = np.argsort(keys, kind="stable")[:_N_SAMPLED]
        keys, kept = keys[smallest], kept[smallest]
    if kept is None:
        raise ValueError("batches: expected at least one")
    return kept
