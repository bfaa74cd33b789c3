"""Hyperspectral scenes as features, for methods that learn from the spectra of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry
from knnspect.data.scenes import SceneGeometry, SceneReader, scenes_of
from knnspect.errors import StoreError
from knnspect.features.constraints import Device, Unused
from knnspect.features.extractor import Extractor
from knnspect.features.network import Images
from knnspect.parameters import parameter
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    import torch

__all__ = ["Scenes"]


class Scenes(Extractor):
    """Reads scenes of any number of bands; each cell is a pixel, its features are the bands.

    Scenes come as arrays of shape (height, width, n_bands), as ``.npy`` files, or as TIFF files
    whose bands are samples of a pixel, or pages. Ordinary images are scenes of three bands.
    Whole numbers of 8 and 16 bits without a sign are divided by 255 and 65535; all else is as it
    comes: a method learns the scale of each band.

    Parameters
    ----------
    device : str, optional
        Where the method's network runs, such as cpu or cuda:0: CUDA where there is one, else the
        CPU.
    white : None
        Not used with scenes, as a method learns the scale of each band.

    Attributes
    ----------
    source : str
        Where the features come from, in words.

    Examples
    --------
    >>> scene = np.random.default_rng(0).normal(size=(40, 50, 30))
    >>> Scenes().extract(scene).pyramid
    FeaturePyramid(n_images=1, levels=40x50x30)

    Notes
    -----
    Scenes that are learnt from together have one size; those that are judged may have others.
    """

    device: str | None = parameter(Device(), default=None)
    white: None = parameter(Unused(), default=None)

    @property
    def name(self) -> str:
        """What it is called where it is kept."""
        return "scenes"

    def reader(self) -> SceneReader:
        """Return a reader of scenes, with the limit of size."""
        return SceneReader(max_pixels=self.max_pixels)

    def reader_of_sizes(self) -> SceneReader:
        """Return a reader that tells how large scenes are."""
        return self.reader()

    def opened(self, images: object) -> object:
        """Return scenes in a form that `open_images` takes; see `scenes_of`."""
        self.check_params()
        return scenes_of(images)

    def _build(self) -> _SceneNetwork:
        return _SceneNetwork(self.device)

    @classmethod
    def from_state(
        cls,
        settings: dict[str, Any],
        tensors: dict[str, NDArray[Any]],
        device: str | None = None,
    ) -> Scenes:
        """Rebuild it from what `state` returned; the parameters are those of `Backbone.from_state`.

        Raises
        ------
        StoreError
            If there are tensors, or a white level.
        """
        if tensors or settings.get("white") is not None:
            raise StoreError("the stored scenes cannot be used: expected no tensors and no white")
        scenes = cls(device=device)
        scenes._load()
        return scenes


class _SceneNetwork:
    """Gives scenes back as pyramids of one level."""

    def __init__(self, device: str | None) -> None:
        self.source = "the bands of the scenes"
        self.levels = [0]
        self.geometry: Geometry = SceneGeometry()
        self._device = device

    @property
    def device(self) -> torch.device:
        """Where the method's network runs."""
        from knnspect.features.torch.network import check_device

        return check_device(self._device)

    @property
    def channels(self) -> list[int]:
        """Nothing: each scene says how many bands it has."""
        return []

    def forward(
        self,
        images: Images,
        batch_size: int,  # noqa: ARG002 - networks need it
        pooled: bool = True,
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Return the pixels of scenes, each (n_bands, height, width); means, if asked for."""
        pixels = np.ascontiguousarray(np.asarray(images, np.float32).transpose(0, 2, 3, 1))
        means = pixels.mean(axis=(1, 2)) if pooled else np.zeros((len(pixels), 0), np.float32)
        return FeaturePyramid([pixels]), means

    def settings(self) -> dict[str, Any]:
        """Return, JSON-compatible, what marks them as scenes."""
        return {"format": "scenes", "source": self.source}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return no weights."""
        return {}
