"""Ranks of scores that come one after the other: p-values that are independent and uniform."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike

from knnspect.errors import DTypeError, ParameterError, ShapeError

__all__ = ["Ranks", "check_score", "check_scores"]


class Ranks:
    """Ranks each score among those before it.

    If all scores come in an order that means nothing, the p-values are independent and uniform on
    [0, 1], whatever the scores are: given which scores there are, each of them is the last one
    with the same chance, and that tells nothing of the order of the others.

    Parameters
    ----------
    scores : sequence of float
        Those to begin with.
    max_scores : int
        How many are kept. Beyond that, with each score that comes one is dropped, any of them with
        the same chance, the new one too: what is left is a random sample of what was there, which
        tells nothing of the p-values so far. So these stay independent.
    seed : int
        Of the random numbers.

    Examples
    --------
    >>> ranks = Ranks([1.0, 2.0, 3.0], max_scores=100, seed=0)
    >>> 0.25 <= ranks.p_value(2.5, 0) <= 0.5
    True
    >>> ranks.scores
    [1.0, 2.0, 2.5, 3.0]
    """

    def __init__(self, scores: Sequence[float], max_scores: int, seed: int) -> None:
        self.scores = sorted(scores)
        self.max_scores = max_scores
        self.seed = seed

    def p_value(self, score: float, index: int) -> float:
        """Return the p-value of a score, and keep the score for the next ones.

        It is the share of scores that are higher; ties, and the score itself, count in part, at
        random.

        Parameters
        ----------
        score : float
            The score, finite.
        index : int
            Its number; what is random depends on it, and on the seed alone.
        """
        rng = np.random.default_rng([self.seed, index])
        n_higher = len(self.scores) - bisect_right(self.scores, score)
        n_equal = len(self.scores) - n_higher - bisect_left(self.scores, score) + 1
        insort(self.scores, score)
        p_value = (n_higher + float(rng.random()) * n_equal) / len(self.scores)
        if len(self.scores) > self.max_scores:
            del self.scores[int(rng.integers(len(self.scores)))]
        return p_value


def check_score(score: object, name: str) -> float:
    """Return a finite number, or raise a DTypeError or ParameterError.

    >>> check_score(3, "score")
    3.0
    """
    if isinstance(score, bool) or not isinstance(score, (int, float, np.number)):
        raise DTypeError(f"{name}: expected a number, got {type(score).__name__}", parameter=name)
    value = float(score)
    if not isfinite(value):
        raise ParameterError(f"{name}: expected a finite number, got {value}", parameter=name)
    return value


def check_scores(scores: ArrayLike, name: str) -> list[float]:
    """Return a list of finite numbers, or raise an error that names the first that is not.

    >>> check_scores([1, 2.5], "scores")
    [1.0, 2.5]
    """
    array = np.asarray(scores)
    if array.ndim != 1:
        raise ShapeError(f"{name}: expected shape (n,), got {array.shape}", parameter=name)
    if array.size and array.dtype.kind not in "iuf":
        raise DTypeError(f"{name}: expected numbers, got {array.dtype}", parameter=name)
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        first = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ParameterError(
            f"{name}[{first}]: expected a finite number, got {values[first]}", parameter=name
        )
    result: list[float] = values.tolist()
    return result
