"""A backbone's network once it is loaded: prepared images in, feature maps out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data import Geometry
from knnspect.errors import DTypeError, ParameterError
from knnspect.features.architectures import channels_first
from knnspect.features.constraints import PatchSize, checked_image_size, checked_levels
from knnspect.features.prefix import Prefix
from knnspect.features.weights import build_network
from knnspect.forked import check_cuda, fork_safe, lock
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Network", "NetworkSettings", "check_device"]


@dataclass(frozen=True)
class NetworkSettings:
    """What is asked of a network; the parameters are those of `Backbone`, not checked yet."""

    name: str
    levels: Sequence[int]
    image_size: int | tuple[int, int]
    resize: Any
    patch_size: int
    device: str | None


class Network:
    """The network of a backbone and what it needs around it, with all parameters checked.

    Parameters
    ----------
    settings : NetworkSettings
        What is asked of it.
    architecture : str
        timm's name of the network.
    source : str
        Where the weights come from, in words.
    weights : Path, mapping, or None
        As `knnspect.features.weights.build_network` takes them.

    Raises
    ------
    ParameterError, DTypeError
        If a parameter lies outside its values.
    StoreError
        If the weights cannot be read or do not fit.
    """

    @fork_safe
    def __init__(
        self, settings: NetworkSettings, architecture: str, source: str, weights: Any
    ) -> None:
        import torch
        from timm.data.config import resolve_data_config
        from timm.models import FeatureHookNet

        levels = checked_levels(settings.levels)
        image_size = checked_image_size(settings.image_size)
        PatchSize().check("patch_size", settings.patch_size)
        self.patch_size = int(settings.patch_size)
        if self.patch_size > min(image_size):
            raise ParameterError(
                f"patch_size: expected at most {min(image_size)}, the shorter side of image_size, "
                f"got {self.patch_size}"
            )
        self.device = check_device(settings.device)
        self.architecture, self.source = architecture, source

        self.module: nn.Module = build_network(architecture, image_size, weights)
        #: How timm says that the maps are laid out; networks that do not say so put channels first.
        self.layout = str(getattr(getattr(self.module, "output_fmt", None), "value", "NCHW"))
        info: Any = self.module.feature_info
        self.channels: list[int] = info.channels()
        if levels[-1] >= len(self.channels):
            raise ParameterError(
                f"levels: {settings.name} has the levels 0 to {len(self.channels) - 1}, "
                f"got {levels[-1]}"
            )
        self.levels = levels
        stride = max(info.reduction()[level] for level in levels)
        if image_size[0] % stride or image_size[1] % stride:
            raise ParameterError(
                f"image_size: expected multiples of {stride}, the stride of the coarsest level, "
                f"got {image_size[0]} x {image_size[1]}"
            )
        config: dict[str, Any] = resolve_data_config(model=self.module)  # type: ignore[no-untyped-call]
        self.geometry = Geometry(image_size, settings.resize, config["interpolation"])
        self.mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)
        # Convolutions on the CPU are about twice as fast with the channels last.
        self.module.to(self.device).to(memory_format=torch.channels_last)
        self.prefix = Prefix(self.module, levels)
        # Networks of this class keep the maps of a run in themselves, where another thread's run
        # would replace them.
        shared = isinstance(self.module, FeatureHookNet)
        self._alone = lock() if shared else nullcontext()

    @fork_safe
    def forward(
        self, images: NDArray[np.float32], batch_size: int, pooled: bool = True
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Run images, shape (n_images, 3, height, width) in [0, 1], through the network.

        Without pooled features, of which there are then none, only as far as the levels need.
        """
        import torch
        from torch.nn.functional import avg_pool2d

        check_cuda(self.device.type)
        if self.device.type == "cpu" and len(images) > 1:
            # PyTorch chooses its kernels, with other rounding, by the size of the batch. One image
            # keeps a CPU as busy as many do.
            parts = [self.forward(images[i : i + 1], 1, pooled) for i in range(len(images))]
            return (
                FeaturePyramid.concatenate(pyramid for pyramid, _ in parts),
                np.concatenate([means for _, means in parts]),
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
            found = self._run(batch, pooled)
            means = np.zeros((n_images, 0), np.float32)
            if pooled:
                last = self._channels_first(len(self.channels) - 1, found.pop())[:n_images].float()
                means = last.mean((2, 3)).cpu().numpy()
            chosen = [
                self._channels_first(level, feature)[:n_images].float()
                for level, feature in zip(self.levels, found, strict=True)
            ]
            if self.patch_size > 1:
                chosen = [
                    avg_pool2d(level, self.patch_size, 1, self.patch_size // 2) for level in chosen
                ]
        levels = [level.permute(0, 2, 3, 1) for level in chosen]
        if self.device.type == "cuda":
            # Waited for here, so that their time is not taken for that of whatever asks for them.
            torch.cuda.synchronize(self.device)
            return FeaturePyramid(levels), means
        return FeaturePyramid([level.cpu().numpy() for level in levels]), means

    def _run(self, batch: torch.Tensor, pooled: bool) -> list[torch.Tensor]:
        """Return the maps of the levels and, if `pooled`, the last one after them."""
        import torch

        try:
            with self._alone:
                maps = list(self.module(batch)) if pooled else self.prefix(batch)
        except torch.cuda.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:  # what timm's networks raise, and PyTorch
            height, width = batch.shape[2:]
            raise ParameterError(
                f"image_size: {self.architecture} fails on {height} x {width} pixels "
                f"({str(error).strip() or type(error).__name__})"
            ) from error
        return [*(maps[level] for level in self.levels), maps[-1]] if pooled else maps

    def _channels_first(self, level: int, feature: torch.Tensor) -> torch.Tensor:
        found = channels_first(feature, self.layout)
        if found.ndim != 4 or found.shape[1] != self.channels[level]:
            raise ParameterError(
                f"name: {self.architecture} cannot be a backbone: its level {level} should be a "
                f"map of {self.channels[level]} channels as {self.layout}, it has the shape "
                f"{tuple(feature.shape)}"
            )
        return found


def check_device(device: str | None) -> torch.device:
    """Return the device to use, CUDA where there is one by default, or raise a ParameterError."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, (str, torch.device)):
        raise DTypeError(f"device: expected a word such as 'cpu', got {type(device).__name__}")
    try:
        checked = torch.device(device)
        torch.zeros(1, device=checked).cpu()  # some devices, such as "meta", give nothing back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\. |\n", str(error))[0]  # PyTorch goes on for pages
        raise ParameterError(f"device: {device!r} cannot be used here ({reason})") from error
    return checked
