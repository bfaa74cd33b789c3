"""Metrics over pixels: one mask and one map per image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from knnspect.metrics.image import F1Max
from knnspect.metrics.pixel_scores import Arrays, PixelScores

__all__ = [
    "aupimo",
    "aupro",
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1",
    "pixel_f1_max",
]


def pixel_auroc(masks: Arrays, maps: Arrays) -> float:
    """Return the area under the ROC curve of all pixels of all images.

    Every pixel counts the same, so large defects weigh more than small ones; see :func:`aupro`.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.

    Returns
    -------
    float
        In [0, 1]: 1 when every defective pixel lies above every normal one, 0.5 when the maps say
        nothing.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, or there is no defective or no normal pixel.

    Examples
    --------
    >>> mask = [[True, False], [False, False]]
    >>> pixel_auroc([mask], [[[0.9, 0.1], [0.2, 0.9]]])
    0.8333333333333334
    """
    return PixelScores(masks, maps).auroc()


def pixel_average_precision(masks: Arrays, maps: Arrays) -> float:
    """Return the average precision of all pixels of all images.

    This is the precision at each threshold, weighted by how much recall that threshold adds:
    the sum of ``(R_k - R_(k-1)) P_k`` over all distinct values of the maps, the highest first.
    The curve is taken as steps: nothing is interpolated. Defects cover few pixels, so this figure
    says more about false positives than :func:`pixel_auroc` does.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.

    Returns
    -------
    float
        In (0, 1]. Maps that say nothing reach about the share of defective pixels.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, or there is no defective or no normal pixel.

    Source
    ------
    As scikit-learn's ``average_precision_score``. Over the pixels of a test set: V. Zavrtanik, M.
    Kristan, D. Skočaj: "DRAEM: A Discriminatively Trained Reconstruction Embedding for Surface
    Anomaly Detection", ICCV 2021.

    Examples
    --------
    The first defective pixel comes first; the second after one normal pixel:

    >>> mask = [[True, False, True, False]]
    >>> round(pixel_average_precision([mask], [[[0.9, 0.5, 0.4, 0.1]]]), 4)
    0.8333
    """
    return PixelScores(masks, maps).average_precision()


def pixel_f1(masks: Arrays, maps: Arrays, threshold: float) -> float:
    """Return the F1 of all pixels of all images at a given threshold.

    F1 is ``2 n_found / (n_called + n_defective)``: of the pixels that are called defective, as
    their value is at least the threshold, `n_found` are defective.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.
    threshold
        A pixel is called defective when its value is at least this; not NaN. Of a prediction,
        pixels are anomalous above its `pixel_threshold`: give
        ``np.nextafter(pixel_threshold, np.inf)``.

    Returns
    -------
    float
        In [0, 1]: 0 when no defective pixel is found.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, there is no defective or no normal pixel, or
        the threshold is not a number.

    Examples
    --------
    >>> mask = [[True, False, True, False]]
    >>> pixel_f1([mask], [[[0.9, 0.5, 0.4, 0.1]]], threshold=0.5)
    0.5
    """
    return PixelScores(masks, maps).f1(threshold)


def pixel_f1_max(masks: Arrays, maps: Arrays) -> F1Max:
    """Return the best F1 of all pixels over all thresholds, and the threshold that reaches it.

    Where several thresholds reach it, the highest is returned. The threshold is chosen with the
    masks in hand, so the F1 is an upper bound on what a threshold that was fixed beforehand can
    reach; see :func:`pixel_f1`.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.

    Returns
    -------
    F1Max
        The F1 and the threshold. A pixel is called defective when its value is at least the
        threshold.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, or there is no defective or no normal pixel.

    Source
    ------
    J. Jeong, Y. Zou, T. Kim, D. Zhang, A. Ravichandran, O. Dabeer: "WinCLIP: Zero-/Few-Shot
    Anomaly Classification and Segmentation", CVPR 2023.

    Examples
    --------
    >>> mask = [[True, False, True, False]]
    >>> pixel_f1_max([mask], [[[0.9, 0.5, 0.4, 0.1]]])
    F1Max(f1=0.8, threshold=0.4)
    """
    return PixelScores(masks, maps).f1_max()


def aupro(masks: Arrays, maps: Arrays, max_fpr: float = 0.3) -> float:
    """Return the area under the curve of per-region overlap (PRO) against false-positive rate.

    At a threshold, the overlap of a region is the share of its pixels whose map value is at
    least the threshold. PRO is the mean overlap of all regions of all images, so a small defect
    counts as much as a large one. The false-positive rate is the share of the normal pixels of
    all images, those without a defect included, whose value is at least the threshold.

    A region is a set of defective pixels of one image that are connected by sides or corners.
    Masks are taken as they are: nothing is dilated. The curve has a point at every distinct value
    of the maps, so it is exact; pixels of equal value pass together. It is integrated by the
    trapezoid rule from 0 to `max_fpr`, with the last piece cut by linear interpolation, and the
    area is divided by `max_fpr`.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.
    max_fpr
        The false-positive rate up to which the curve is integrated, in (0, 1]. Usual are 0.3, and
        0.05 where more false positives are of no use.

    Returns
    -------
    float
        In [0, 1]: 1 when every defective pixel lies above every normal one. Maps that say nothing
        reach ``max_fpr / 2``.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, there is no defective or no normal pixel, or
        `max_fpr` is outside (0, 1].

    Source
    ------
    P. Bergmann, M. Fauser, D. Sattlegger, C. Steger: "Uninformed Students: Student-Teacher
    Anomaly Detection with Discriminative Latent Embeddings", CVPR 2020. With `max_fpr` 0.05: L.
    Heckler-Kram, J.-H. Neudeck, U. Scheler, R. König, C. Steger: "The MVTec AD 2 Dataset: Advanced
    Scenarios for Unsupervised Anomaly Detection", 2025.

    Examples
    --------
    The region of two pixels is found at once, the single pixel only after one of the four normal
    pixels has passed as well:

    >>> mask = [[True, True, False, False, False, False, True]]
    >>> round(aupro([mask], [[[0.9, 0.8, 0.1, 0.7, 0.2, 0.3, 0.6]]], max_fpr=0.5), 4)
    0.75
    """
    return PixelScores(masks, maps).aupro(max_fpr)


def aupimo(
    masks: Arrays, maps: Arrays, fpr_range: tuple[float, float] = (1e-5, 1e-4)
) -> npt.NDArray[np.float64]:
    """Return, for each defective image, the area under its curve of per-image overlap (PIMO).

    The shared false-positive rate ``F(t)`` of a threshold t is counted on normal images alone,
    those whose mask marks no pixel: it is the mean, over these images, of the share of their
    pixels whose value is at least t. The overlap ``T_i(t)`` is the share of the defective pixels
    of image i whose value is at least t. With ``fpr_range = (L, U)`` the area is ::

        1 / log(U / L)  *  integral of  T_i(F^-1(z)) d log z  from  z = L  to  z = U

    where ``F^-1(z)`` is the lowest threshold whose rate is at most z. So it is the mean share of
    the defect that is found while next to nothing is marked on normal images. The integral is
    exact: a defective pixel of value v is found at all rates from F(v) on.

    Parameters
    ----------
    masks
        One array per image, shape ``(height_i, width_i)``, bool: which pixels are defective.
        Sizes may differ between images.
    maps
        One array per image, of the same shape as its mask, real and finite: higher is more
        defective.
    fpr_range
        The two false-positive rates between which the curve is integrated, 0 < L < U <= 1.

    Returns
    -------
    ndarray of float64, shape (n_images,)
        In [0, 1]: 1 when every defective pixel of the image lies above every pixel of normal
        images. NaN for normal images. ``np.nanmean`` gives the figure of the whole set.

    Raises
    ------
    ShapeError
        If there are not as many maps as masks, a mask or a map is not two-dimensional, or a map
        has another shape than its mask.
    DTypeError
        If a mask is not bool, or a map does not hold real numbers.
    ParameterError
        If a map holds a value that is not finite, there is no defective pixel, `fpr_range` is no
        such pair, or the normal images have fewer than 1 / L pixels together: one pixel would
        then be more than the rate L.

    Source
    ------
    J. P. C. Bertoldo, D. Ameln, A. Vaidya, S. Akçay: "AUPIMO: Redefining Anomaly Localization
    Benchmarks with High Speed and Low Tolerance", BMVC 2024 (arXiv 2401.01984). anomalib
    approximates the integral with 300,000 equal steps between the lowest and the highest value of
    normal images, and begins and ends it at the steps whose rates are nearest to L and U.

    Examples
    --------
    Of the two defective pixels one lies above all normal ones; the other below one of ten, so it
    is found from the rate 0.1 on, which is half the way from 0.01 to 1 in the logarithm:

    >>> masks = [[[False] * 100], [[True, True, False]]]
    >>> maps = [[[0.5] * 10 + [0.1] * 90], [[0.9, 0.4, 0.2]]]
    >>> aupimo(masks, maps, fpr_range=(0.01, 1.0)).round(4)
    array([ nan, 0.75])
    """
    return PixelScores(masks, maps).aupimo(fpr_range)
