"""What detectors have in common when they learn, and in files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import get_backend
from knnspect.detectors.maps import check_sigma
from knnspect.errors import DTypeError, ImageError
from knnspect.features import Backbone, Features
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_choice, check_count, check_positive

__all__ = [
    "ConstantLevels",
    "backbone_tensors",
    "check_backbone",
    "check_parameters",
    "check_pooled",
    "held_out",
    "naming_images",
    "stored_map_max",
    "stored_tensors",
    "weights_digest",
]

#: Before the names of a backbone's tensors in a file.
_BACKBONE = "backbone."


def check_parameters(detector: Any) -> None:
    """Check the parameters that all detectors have that keep normal features.

    Parameters
    ----------
    detector : Detector
        With `backbone`, `score`, `upsample`, `gallery_dtype`, `sigma`, `backend` and `threads`.

    Raises
    ------
    ParameterError, DTypeError
        For the first that lies outside its values.
    """
    check_backbone(detector.backbone)
    check_choice("score", detector.score, ["image", "map"])
    check_choice("upsample", detector.upsample, ["bilinear", "block"])
    check_choice("gallery_dtype", detector.gallery_dtype, ["float32", "float16", "int8"])
    check_sigma(detector.sigma)
    get_backend(detector.backend)
    if detector.threads is not None:
        check_count("threads", detector.threads)


def check_backbone(backbone: object) -> None:
    """Raise a DTypeError if it is not a Backbone."""
    if not isinstance(backbone, Backbone):
        raise DTypeError(f"backbone: expected a Backbone, got {type(backbone).__name__}")


def held_out(n_images: int) -> list[int]:
    """Return up to 16 images, evenly spaced, that are judged by what was learnt from the others.

    >>> held_out(0), held_out(3), len(held_out(100))
    ([], [0, 1, 2], 16)
    """
    if n_images == 0:
        return []
    return [int(image) for image in np.unique(np.linspace(0, n_images - 1, 16).astype(int))]


def check_pooled(features: Features) -> None:
    """Raise an ImageError for the first image whose pooled features are not finite."""
    for id_, pooled in zip(features.ids, features.pooled, strict=True):
        if not np.isfinite(pooled).all():
            raise ImageError(f"image {id_}: its pooled features are not finite")


@contextmanager
def naming_images(features: Features) -> Iterator[None]:
    """Name the image whose features are not finite, where a search does not know its id."""
    try:
        yield
    except ImageError as error:
        for index, id_ in enumerate(features.ids):
            if not all(np.isfinite(level[index]).all() for level in features.pyramid.levels):
                raise ImageError(f"image {id_}: its features are not finite") from error
        raise


def backbone_tensors(tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Name a backbone's tensors as they are named in a file."""
    return {_BACKBONE + name: tensor for name, tensor in tensors.items()}


def stored_tensors(store: _core.Store, prefix: str = _BACKBONE) -> dict[str, NDArray[Any]]:
    """Return the tensors of the backbone in a file, or others, under their own names."""
    return {
        name.removeprefix(prefix): store.tensor(name)
        for name in store.names
        if name.startswith(prefix)
    }


def stored_map_max(value: Any) -> float:
    """Return the largest normal map value that a file has, NaN if there is none.

    Raises
    ------
    DTypeError, ParameterError
        If it is not a number, or none that a map has.
    """
    return float("nan") if value is None else check_positive("normal_map_max", value, or_zero=True)


def weights_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return what tells a backbone's weights from others."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


class ConstantLevels:
    """Notices levels that are the same at every cell of every image: nothing can be learnt."""

    def __init__(self) -> None:
        self._first: list[NDArray[Any]] | None = None
        self._constant: set[int] = set()

    @property
    def is_settled(self) -> bool:
        """Whether no level can be constant any more."""
        return self._first is not None and not self._constant

    def see(self, pyramid: FeaturePyramid) -> None:
        """Look at more images."""
        if self._first is None:
            self._first = [level[0, 0, 0].copy() for level in pyramid.levels]
            self._constant = set(range(len(pyramid.levels)))
        for level in sorted(self._constant):
            if (pyramid.levels[level] != self._first[level]).any():
                self._constant.discard(level)

    def check(self) -> None:
        """Raise an ImageError where a level is constant."""
        if self._constant:
            level = min(self._constant)
            raise ImageError(
                f"the features of level {level} are the same at every cell of every image, "
                "so that nothing can be told apart: check the images and the backbone's weights"
            )
