"""Metrics over images: one label and one score per image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from knnspect.errors import DTypeError, ParameterError, ShapeError

__all__ = ["F1Max", "auroc", "average_precision", "f1_max"]

# Two F1 values of n images that are not equal differ by at least 1 / (2 n)**2. Closer than this,
# they are the same value with different rounding.
_SAME_F1 = 1e-12


class F1Max(NamedTuple):
    """The best F1 that any threshold reaches.

    Attributes
    ----------
    f1
        The F1 at that threshold, in (0, 1].
    threshold
        An image is called defective when its score is at least this. It is one of the scores.
    """

    f1: float
    threshold: float


def auroc(is_defective: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the area under the ROC curve of the images.

    This is the probability that a defective image, drawn at random, has a higher score than a
    normal one; a tie counts one half.

    Parameters
    ----------
    is_defective
        Shape ``(n_images,)``, bool or 0 and 1: whether each image is defective.
    scores
        Shape ``(n_images,)``, real and finite: higher is more defective.

    Returns
    -------
    float
        In [0, 1]: 1 when every defective image scores above every normal one, 0.5 when the
        scores say nothing.

    Raises
    ------
    ShapeError
        If either is not one-dimensional, or the lengths differ.
    DTypeError
        If either does not hold real numbers.
    ParameterError
        If a label is neither 0 nor 1, a score is not finite, or one of the two classes is
        missing.

    Examples
    --------
    >>> auroc([False, False, True, True], [0.1, 0.4, 0.3, 0.9])
    0.75
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*_checked(is_defective, scores)))


def average_precision(is_defective: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Return the average precision of the images.

    This is the precision at each threshold, weighted by how much recall that threshold adds. The
    curve is taken as steps: nothing is interpolated.

    Parameters
    ----------
    is_defective
        Shape ``(n_images,)``, bool or 0 and 1: whether each image is defective.
    scores
        Shape ``(n_images,)``, real and finite: higher is more defective.

    Returns
    -------
    float
        In (0, 1]. Scores that say nothing reach about the share of defective images.

    Raises
    ------
    ShapeError
        If either is not one-dimensional, or the lengths differ.
    DTypeError
        If either does not hold real numbers.
    ParameterError
        If a label is neither 0 nor 1, a score is not finite, or one of the two classes is
        missing.

    Examples
    --------
    >>> round(average_precision([False, False, True, True], [0.1, 0.4, 0.3, 0.9]), 4)
    0.8333
    """
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_checked(is_defective, scores)))


def f1_max(is_defective: npt.ArrayLike, scores: npt.ArrayLike) -> F1Max:
    """Return the best F1 of the images over all thresholds, and the threshold that reaches it.

    Where several thresholds reach it, the highest is returned: the one that calls the fewest
    images defective. The threshold is chosen with the labels in hand, so the F1 is an upper
    bound on what a threshold that was fixed beforehand can reach.

    Parameters
    ----------
    is_defective
        Shape ``(n_images,)``, bool or 0 and 1: whether each image is defective.
    scores
        Shape ``(n_images,)``, real and finite: higher is more defective.

    Returns
    -------
    F1Max
        The F1 and the threshold. An image is called defective when its score is at least the
        threshold.

    Raises
    ------
    ShapeError
        If either is not one-dimensional, or the lengths differ.
    DTypeError
        If either does not hold real numbers.
    ParameterError
        If a label is neither 0 nor 1, a score is not finite, or one of the two classes is
        missing.

    Examples
    --------
    >>> f1_max([False, False, True, True], [0.1, 0.4, 0.3, 0.9])
    F1Max(f1=0.8, threshold=0.3)
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(*_checked(is_defective, scores))
    # The last point of the curve stands for "nothing is called defective": no score is its
    # threshold.
    precision, recall = precision[:-1], recall[:-1]
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = np.flatnonzero(f1 >= f1.max() - _SAME_F1)[-1]  # thresholds rise
    return F1Max(float(f1[best]), float(thresholds[best]))


def _checked(
    is_defective: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]:
    labels = _vector("is_defective", is_defective)
    values = _vector("scores", scores)
    if len(labels) != len(values):
        raise ShapeError(
            "is_defective and scores: expected one score per label, "
            f"got {len(labels)} labels and {len(values)} scores"
        )
    strange = np.flatnonzero((labels != 0) & (labels != 1))
    if len(strange):
        where = strange[0]
        raise ParameterError(
            f"is_defective: expected bool, or 0 and 1, got {labels[where]} at index {where}"
        )
    not_finite = np.flatnonzero(~np.isfinite(values))
    if len(not_finite):
        where = not_finite[0]
        raise ParameterError(
            f"scores: expected finite numbers, got {values[where]} at index {where}"
        )
    flags = labels.astype(np.bool_)
    n_defective = int(flags.sum())
    if n_defective in (0, len(flags)):
        raise ParameterError(
            "is_defective: expected at least one defective and one normal image, "
            f"got {n_defective} defective and {len(flags) - n_defective} normal"
        )
    return flags, values


def _vector(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(
            f"{name}: expected one number per image, got nested sequences of different lengths"
        ) from error
    if array.ndim != 1:
        raise ShapeError(f"{name}: expected shape (n_images,), got {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"{name}: expected real numbers, got {array.dtype}")
    return array
