"""Models that run without PyTorch: their backbone's network becomes an ONNX graph.

``export``         a detector whose backbone is a graph
``onnx_backbone``  such a backbone alone
"""

from __future__ import annotations

from copy import copy
from typing import TypeVar

from knnspect.detectors import Detector
from knnspect.features import Backbone
from knnspect.features.stored import exported

__all__ = ["export", "onnx_backbone"]

_Detector = TypeVar("_Detector", bound=Detector)


def onnx_backbone(backbone: Backbone) -> Backbone:
    """Return a backbone that gives the same features by an ONNX graph, without PyTorch.

    The graph has all from prepared images to averaged, normed and pooled features, with batch
    normalization folded into convolutions. onnxruntime runs it, in float32, on the CPU unless a
    device is asked for where it is loaded. Features differ by rounding: about 1e-6 of the largest.

    Parameters
    ----------
    backbone : Backbone
        Whose network is one of timm.

    Returns
    -------
    Backbone
        With the graph loaded; `Backbone.state` and `Detector.save` keep it.

    Raises
    ------
    ParameterError
        If the input may have several sizes (``resize="shorter"``), PyTorch cannot export the
        network, or it is a graph already.
    MissingPackageError
        If PyTorch, onnx or onnxruntime is not installed (``pip install "knnspect[export]"``).

    Examples
    --------
    >>> import numpy as np
    >>> backbone = Backbone(levels=(1, 2), image_size=64)
    >>> images = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)
    >>> one, other = backbone.extract(images), onnx_backbone(backbone).extract(images)
    >>> bool(np.allclose(one.pooled, other.pooled, rtol=1e-4, atol=1e-4))
    True
    """
    return Backbone.from_state(*exported(*backbone.state()))


def export(detector: _Detector) -> _Detector:
    """Return a fitted detector that judges the same without PyTorch, to be saved.

    What it has learnt, its calibration and its corrections are those of the detector.

    Parameters
    ----------
    detector : Detector
        Fitted.

    Returns
    -------
    Detector
        Of the same class; its backbone is what `onnx_backbone` gives.

    Raises
    ------
    ParameterError, MissingPackageError
        See `onnx_backbone`.
    NotFittedError
        If it is not fitted.
    """
    detector._check_fitted()
    other = copy(detector)
    other.backbone = onnx_backbone(detector.backbone)
    return other
