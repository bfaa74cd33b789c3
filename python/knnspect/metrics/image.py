"""Metrics over images: one label and one score per image."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from knnspect.errors import ParameterError, ShapeError
from knnspect.extras import require
from knnspect.metrics.checks import flags, threshold_value, vector

__all__ = ["F1Max", "auroc", "average_precision", "f1", "f1_max"]

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
        An image, or a pixel, is called defective when its score is at least this. It is one of
        the scores.
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
    MissingPackageError
        If scikit-learn is not installed.

    Examples
    --------
    >>> auroc([False, False, True, True], [0.1, 0.4, 0.3, 0.9])
    0.75
    """
    require("sklearn", for_="the AUROC of images")
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
    MissingPackageError
        If scikit-learn is not installed.

    Examples
    --------
    >>> round(average_precision([False, False, True, True], [0.1, 0.4, 0.3, 0.9]), 4)
    0.8333
    """
    require("sklearn", for_="the average precision of images")
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*_checked(is_defective, scores)))


def f1(is_defective: npt.ArrayLike, scores: npt.ArrayLike, threshold: float) -> float:
    """Return the F1 of the images at a given threshold.

    F1 is ``2 n_found / (n_called + n_defective)``: of the images that are called defective, as
    their score is at least the threshold, `n_found` are defective. It is the harmonic mean of
    precision and recall. With a threshold that was fixed beforehand, this is what
    :func:`f1_max` is an upper bound of.

    Parameters
    ----------
    is_defective
        Shape ``(n_images,)``, bool or 0 and 1: whether each image is defective.
    scores
        Shape ``(n_images,)``, real and finite: higher is more defective.
    threshold
        An image is called defective when its score is at least this; not NaN. A prediction is
        anomalous above its `threshold`: give ``np.nextafter(threshold, np.inf)``.

    Returns
    -------
    float
        In [0, 1]: 0 when no defective image is found.

    Raises
    ------
    ShapeError
        If either is not one-dimensional, or the lengths differ.
    DTypeError
        If either does not hold real numbers.
    ParameterError
        If a label is neither 0 nor 1, a score is not finite, one of the two classes is missing,
        or the threshold is not a number.

    Source
    ------
    C. J. van Rijsbergen: "Information Retrieval", 2nd edition, Butterworths 1979, chapter 7.

    Examples
    --------
    >>> f1([False, False, True, True], [0.1, 0.4, 0.3, 0.9], threshold=0.5)
    0.6666666666666666
    """
    threshold = threshold_value(threshold)
    labels, values = _checked(is_defective, scores)
    called = values >= threshold
    n_found = int(np.count_nonzero(called & labels))
    return 2 * n_found / (int(np.count_nonzero(called)) + int(np.count_nonzero(labels)))


def f1_max(is_defective: npt.ArrayLike, scores: npt.ArrayLike) -> F1Max:
    """Return the best F1 of the images over all thresholds, and the threshold that reaches it.

    Where several thresholds reach it, the highest is returned: the one that calls the fewest
    images defective. The threshold is chosen with the labels in hand, so the F1 is an upper
    bound on what a threshold that was fixed beforehand can reach; see :func:`f1`.

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
    MissingPackageError
        If scikit-learn is not installed.

    Examples
    --------
    >>> f1_max([False, False, True, True], [0.1, 0.4, 0.3, 0.9])
    F1Max(f1=0.8, threshold=0.3)
    """
    require("sklearn", for_="the best F1 of images")
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(*_checked(is_defective, scores))
    # The last point of the curve stands for "nothing is called defective": no score is its
    # threshold.
    precision, recall = precision[:-1], recall[:-1]
    total = precision + recall
    values = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = np.flatnonzero(values >= values.max() - _SAME_F1)[-1]  # thresholds rise
    return F1Max(float(values[best]), float(thresholds[best]))


def _checked(
    is_defective: npt.ArrayLike, scores: npt.ArrayLike
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[Any]]:
    labels = flags("is_defective", is_defective)
    values = vector("scores", scores)
    if len(labels) != len(values):
        raise ShapeError(
            "is_defective and scores: expected one score per label, "
            f"got {len(labels)} labels and {len(values)} scores"
        )
    not_finite = np.flatnonzero(~np.isfinite(values))
    if len(not_finite):
        where = not_finite[0]
        raise ParameterError(
            f"scores: expected finite numbers, got {values[where]} at index {where}"
        )
    n_defective = int(labels.sum())
    if n_defective in (0, len(labels)):
        raise ParameterError(
            "is_defective: expected at least one defective and one normal image, "
            f"got {n_defective} defective and {len(labels) - n_defective} normal"
        )
    return labels, values
