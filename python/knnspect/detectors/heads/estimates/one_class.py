"""A one-class SVM by stochastic gradient descent, in memory that does not grow with the images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.detectors.heads.scorers.one_class import Kernel

__all__ = ["one_class_arrays"]

#: Features from which landmarks are drawn, at most.
_N_SAMPLED = 20_000
_TINY = 1e-6


def one_class_arrays(
    batches: Callable[[], Iterator[NDArray[np.float32]]],
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
    mean, deviation, sampled = _overview(batches(), rng)
    standardized = (sampled - mean) / deviation
    n_landmarks = min(n_landmarks, len(standardized))
    drawn = standardized[rng.permutation(len(standardized))[:n_landmarks]]
    approximation = Nystroem(
        "rbf" if kernel.name == "rbf" else "linear",
        gamma=1 / drawn.shape[1] if kernel.name == "rbf" else None,
        n_components=n_landmarks,
        random_state=seed,
    ).fit(drawn)
    landmarks = approximation.components_.astype(np.float32)
    normalization = approximation.normalization_.astype(np.float32)
    svm = SGDOneClassSVM(nu, random_state=seed, average=True)
    for _ in range(n_epochs):
        for batch in batches():
            shuffled = rng.permutation(len(batch))
            alike = kernel.of((batch[shuffled] - mean) / deviation, landmarks)
            svm.partial_fit(alike @ normalization.T)
    weights = (normalization.T @ svm.coef_.ravel()).astype(np.float32)
    highest = max(
        float((kernel.of((batch - mean) / deviation, landmarks) @ weights).max())
        for batch in batches()
    )
    return {
        "mean": mean,
        "deviation": deviation,
        "landmarks": landmarks,
        "weights": weights,
        "highest": np.array([highest], np.float32),
    }


def _overview(
    batches: Iterator[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and deviation of each feature, and a sample of features."""
    n, kept, keys = 0, np.empty((0, 0), np.float32), np.empty(0)
    total: NDArray[np.float64] | float = 0.0
    squares: NDArray[np.float64] | float = 0.0
    first: NDArray[np.float64] | float = 0.0
    for batch in batches:
        if n == 0:
            first, kept = batch.mean(axis=0, dtype=np.float64), batch[:0]
        centred = batch - first
        n += len(batch)
        total = total + centred.sum(axis=0)
        squares = squares + np.square(centred).sum(axis=0)
        # Those with the smallest of random numbers are a sample of all.
        keys = np.concatenate([keys, rng.random(len(batch))])
        smallest = np.argsort(keys, kind="stable")[:_N_SAMPLED]
        keys, kept = keys[smallest], np.concatenate([kept, batch])[smallest]
    mean = np.asarray(total) / n
    variance = np.maximum(np.asarray(squares) / n - np.square(mean), 0)
    deviation = np.sqrt(variance) + _TINY * np.sqrt(variance.mean()) + np.finfo(np.float32).tiny
    return (mean + first).astype(np.float32), deviation.astype(np.float32), kept
