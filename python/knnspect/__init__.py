"""Find defects in images by comparing deep features with a gallery of normal ones.

The public names are imported when they are first used, so that ``import knnspect`` is quick, and
galleries can be searched where there is only NumPy.

>>> import knnspect as ks
>>> ks.Gallery(upsample="block")
Gallery(upsample='block', dtype='float32', n_images=0)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from knnspect._core import __version__

if TYPE_CHECKING:
    from knnspect.detectors import (
        CFlow,
        Detector,
        PatchCore,
        Prediction,
        SimpleNet,
        Spade,
        load,
    )
    from knnspect.errors import (
        BackendUnavailable,
        DatasetWarning,
        DisagreementError,
        DTypeError,
        ForkError,
        ImageError,
        ImageWarning,
        KnnspectError,
        NotFittedError,
        ParameterError,
        ReadingWarning,
        ShapeError,
        StoreError,
    )
    from knnspect.features import Backbone, Features
    from knnspect.gallery import Coreset, Gallery
    from knnspect.pyramid import FeaturePyramid
    from knnspect.search import Neighbors, SearchStats

_HOMES = {
    "Backbone": "features",
    "BackendUnavailable": "errors",
    "CFlow": "detectors",
    "Coreset": "gallery",
    "DTypeError": "errors",
    "DatasetWarning": "errors",
    "Detector": "detectors",
    "DisagreementError": "errors",
    "FeaturePyramid": "pyramid",
    "Features": "features",
    "ForkError": "errors",
    "Gallery": "gallery",
    "ImageError": "errors",
    "ImageWarning": "errors",
    "KnnspectError": "errors",
    "Neighbors": "search",
    "NotFittedError": "errors",
    "ParameterError": "errors",
    "PatchCore": "detectors",
    "Prediction": "detectors",
    "ReadingWarning": "errors",
    "ShapeError": "errors",
    "SimpleNet": "detectors",
    "Spade": "detectors",
    "StoreError": "errors",
    "SearchStats": "search",
    "load": "detectors",
}

__all__ = [
    "Backbone",
    "BackendUnavailable",
    "CFlow",
    "Coreset",
    "DTypeError",
    "DatasetWarning",
    "Detector",
    "DisagreementError",
    "FeaturePyramid",
    "Features",
    "ForkError",
    "Gallery",
    "ImageError",
    "ImageWarning",
    "KnnspectError",
    "Neighbors",
    "NotFittedError",
    "ParameterError",
    "PatchCore",
    "Prediction",
    "ReadingWarning",
    "SearchStats",
    "ShapeError",
    "SimpleNet",
    "Spade",
    "StoreError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'knnspect' has no attribute {name!r}")
    value = getattr(import_module(f"knnspect.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
