"""A backbone's network once it is loaded: prepared images in, feature maps out."""

from __future__ import annotations

import re
import warnings
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data.config import resolve_data_config
from timm.models import FeatureHookNet
from torch import nn
from torch.nn.functional import avg_pool2d

from knnspect.data.own_size import geometry_of
from knnspect.errors import DTypeError, ParameterError, StoreError
from knnspect.features.constraints import (
    check_multiples,
    checked_image_size,
    checked_levels,
)
from knnspect.features.network import ANY_SIZE, Images, NetworkSettings, check_settings
from knnspect.features.torch.architectures import (
    Blueprint,
    channels_first,
    needed_tensors,
    offer_all_blocks,
)
from knnspect.features.torch.blocks import Blocks
from knnspect.features.torch.prefix import Prefix
from knnspect.features.torch.weights import build_network
from knnspect.forked import check_cuda, fork_safe, lock
from knnspect.pyramid import FeaturePyramid

__all__ = ["TorchNetwork", "check_device", "finished", "unit_rows"]


class TorchNetwork:
    """A network of timm and what it needs around it, with all parameters checked.

    Parameters
    ----------
    settings : NetworkSettings
        What is asked of it.
    architecture : str
        timm's name of the network.
    source : str
        Where the weights come from, in words.
    weights : Path, mapping, or None
        As `knnspect.features.torch.weights.build_network` takes them.

    Raises
    ------
    ParameterError, DTypeError
        If a parameter lies outside its values.
    StoreError
        If the weights cannot be read or do not fit.

    Warns
    -----
    UserWarning
        If half precision is asked for on a device that is not CUDA.
    """

    @fork_safe
    def __init__(
        self, settings: NetworkSettings, architecture: str, source: str, weights: Any
    ) -> None:
        check_settings(settings)
        image_size = checked_image_size(settings.image_size)
        self.patch_size = int(settings.patch_size)
        if self.patch_size > min(image_size):
            raise ParameterError(
                f"patch_size: expected at most {min(image_size)}, the shorter side of image_size, "
                f"got {self.patch_size}"
            )
        self.device = check_device(settings.device)
        self.architecture, self.source = architecture, source
        self.unit, self.norm = bool(settings.unit), bool(settings.norm)
        self.pooled = settings.pooled
        any_size = settings.resize in ANY_SIZE
        blueprint = Blueprint(architecture, image_size, self.norm, any_size)

        try:
            self.module: nn.Module = build_network(blueprint, weights)
        except (ParameterError, StoreError):
            if not isinstance(weights, dict):  # what is wrong with a model's own is no size
                _check_size(settings, blueprint)
            raise
        offered = offer_all_blocks(self.module)
        #: How timm says that the maps are laid out; networks that do not say so put channels first.
        self.layout = str(getattr(getattr(self.module, "output_fmt", None), "value", "NCHW"))
        info: Any = self.module.feature_info
        #: How many channels each of its maps has.
        self.map_channels: list[int] = info.channels()
        #: How many blocks a transformer has; None for networks whose levels are stages.
        self.n_blocks = None if offered is None else len(self.map_channels)
        levels = checked_levels(settings.levels)
        if offered is not None and settings.counts_offered:
            _check_range(settings.name, levels, len(offered), "levels")
            levels = [offered[level] for level in levels]
        kind = "levels" if offered is None else "blocks"
        _check_range(settings.name, levels, len(self.map_channels), kind)
        self.levels = checked_levels(levels, len(self.map_channels))
        stride = max(info.reduction()[level] for level in self.levels)
        check_multiples(image_size, stride, _name_of_stride(settings.name, offered is not None))
        config: dict[str, Any] = resolve_data_config(model=self.module)  # type: ignore[no-untyped-call]
        multiple = stride if any_size else 1
        self.geometry = geometry_of(image_size, settings.resize, config["interpolation"], multiple)
        self.mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)
        self.precision = settings.precision
        self._is_half = self.precision == "float16" and self.device.type == "cuda"
        if self.precision == "float16" and not self._is_half:
            warnings.warn(
                f'precision: "float16" is for CUDA; on {self.device.type} the network computes in '
                "float32",
                UserWarning,
                stacklevel=2,
            )
        # Convolutions on the CPU are about twice as fast with the channels last.
        self.module.to(self.device).to(memory_format=torch.channels_last)
        self._blocks = None if offered is None else Blocks(self.module, self.norm)
        if self.pooled == "cls" and (self._blocks is None or not self._blocks.has_class_token):
            raise ParameterError(
                f'pooled: "cls" needs a class token, which {settings.name} does not have; expected '
                '"mean" or "max"'
            )
        self.prefix = Prefix(self.module, self.levels)
        # Networks of this class keep the maps of a run in themselves, where another thread's run
        # would replace them.
        shared = isinstance(self.module, FeatureHookNet)
        self._alone = lock() if shared else nullcontext()

    @property
    def channels(self) -> list[int]:
        """How many channels each of the levels has."""
        return [self.map_channels[level] for level in self.levels]

    def settings(self) -> dict[str, Any]:
        """Return all that features depend on beside the weights; and `source`, for people."""
        return {
            "architecture": self.architecture,
            "levels": self.levels,
            "image_size": list(self.geometry.image_size),
            "resize": self.geometry.resize,
            "patch_size": self.patch_size,
            "source": self.source,
            "unit": self.unit,
            "norm": self.norm,
            "pooled": self.pooled,
            "precision": self.precision,
            "blocks": self.n_blocks,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the weights by name."""
        weights = self.module.state_dict()
        return {name: weights[name].cpu().numpy() for name in needed_tensors(weights)}

    @fork_safe
    def forward(
        self, images: Images, batch_size: int, pooled: bool = True
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Run images of one size, each (3, height, width) in [0, 1], through the network.

        Without pooled features, of which there are then none, only as far as the levels need.
        """
        check_cuda(self.device.type)
        if self.device.type == "cpu" and len(images) > 1:
            # PyTorch chooses its kernels, with other rounding, by the size of the batch. One image
            # keeps a CPU as busy as many do.
            parts = [self.forward(images[i : i + 1], 1, pooled) for i in range(len(images))]
            return (
                FeaturePyramid.concatenate(pyramid for pyramid, _ in parts),
                np.concatenate([vectors for _, vectors in parts]),
            )
        batch = torch.from_numpy(np.asarray(images)).to(self.device)
        n_images = len(batch)
        if self.device.type == "cuda" and n_images < batch_size:
            # cuDNN may choose another algorithm, with other rounding, for another batch size.
            batch = torch.cat([batch, batch.new_zeros(batch_size - n_images, *batch.shape[1:])])
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
            torch.autocast("cuda", torch.float16) if self._is_half else nullcontext(),
        ):
            chosen, vectors = self.features(batch, n_images, pooled)
            means = np.zeros((n_images, 0), np.float32)
            if vectors is not None:
                means = vectors.float().cpu().numpy()
        levels = [level.permute(0, 2, 3, 1) for level in chosen]
        if self.device.type == "cuda":
            # Waited for here, so that their time is not taken for that of whatever asks for them.
            torch.cuda.synchronize(self.device)
            return FeaturePyramid(levels), means
        return FeaturePyramid([level.cpu().numpy() for level in levels]), means

    def features(
        self, batch: torch.Tensor, n_images: int, pooled: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Return the levels, channels first, and the pooled features if they are asked for.

        The images, (n, 3, height, width) in [0, 1], are on the network's device; of those behind
        the first `n_images`, which fill the batch, there are no features.
        """
        batch = ((batch - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found, vectors = self._run(batch, n_images, pooled)
        chosen = [
            self._channels_first(level, feature)[:n_images].float()
            for level, feature in zip(self.levels, found, strict=True)
        ]
        return [finished(level, self.patch_size, self.unit) for level in chosen], vectors

    def _run(
        self, batch: torch.Tensor, n_images: int, pooled: bool
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Return the maps of the levels and, if they are asked for, pooled features.

        Of the images behind the first `n_images`, which fill the batch, there are maps only.
        """
        last = len(self.map_channels) - 1
        try:
            with self._alone:
                if self._blocks is not None:
                    wanted = sorted({*self.levels, last}) if pooled else self.levels
                    tokens = pooled and self.pooled == "cls"
                    maps, vectors = self._blocks(batch, wanted, tokens)
                    end = maps[-1]
                    maps = [maps[wanted.index(level)] for level in self.levels]
                elif pooled:
                    every = list(self.module(batch))
                    maps, end, vectors = [every[level] for level in self.levels], every[-1], None
                else:
                    return self.prefix(batch), None
        except torch.cuda.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError) as error:  # what timm's networks raise, and PyTorch
            height, width = batch.shape[2:]
            raise ParameterError(
                f"image_size: {self.architecture} fails on {height} x {width} pixels "
                f"({str(error).strip() or type(error).__name__})"
            ) from error
        if not pooled:
            return maps, None
        if vectors is not None:
            return maps, vectors[:n_images]
        map_ = self._channels_first(last, end)[:n_images].float()
        return maps, map_.mean((2, 3)) if self.pooled == "mean" else map_.amax((2, 3))

    def _channels_first(self, level: int, feature: torch.Tensor) -> torch.Tensor:
        found = channels_first(feature, self.layout)
        if found.ndim != 4 or found.shape[1] != self.map_channels[level]:
            raise ParameterError(
                f"name: {self.architecture} cannot be a backbone: its level {level} should be a "
                f"map of {self.map_channels[level]} channels as {self.layout}, it has the shape "
                f"{tuple(feature.shape)}"
            )
        return found


def _check_range(name: str, levels: list[int], n_levels: int, kind: str) -> None:
    for level in levels:
        if not -n_levels <= level < n_levels:
            raise ParameterError(f"levels: {name} has the {kind} 0 to {n_levels - 1}, got {level}")


def _check_size(settings: NetworkSettings, blueprint: Blueprint) -> None:
    """Raise a ParameterError if that is why a network was not built: its size is no multiple."""
    config = timm.get_pretrained_cfg(blueprint.architecture)
    if config is None:
        return
    try:
        native = replace(blueprint, image_size=config.input_size[1:], any_size=False)
        network: Any = native.outline()
        has_blocks = offer_all_blocks(network) is not None
        strides = network.feature_info.reduction()
        stride = max(strides[level] for level in settings.levels)
    except Exception:  # timm raises many kinds; then it is not for its size
        return
    what = _name_of_stride(settings.name, has_blocks)
    check_multiples(blueprint.image_size, stride, what)


def _name_of_stride(name: str, has_blocks: bool) -> str:
    return f"the patch of {name}" if has_blocks else "the stride of the coarsest level"


def finished(level: torch.Tensor, patch_size: int, unit: bool) -> torch.Tensor:
    """Return a level, (n_images, channels, height, width), with averages and norms taken."""
    if patch_size > 1:
        level = avg_pool2d(level, patch_size, 1, patch_size // 2)
    return unit_rows(level) if unit else level


def unit_rows(level: torch.Tensor) -> torch.Tensor:
    """Return a level, (n_images, channels, height, width), with the features of cells of norm 1.

    Zeros stay zeros; what is not finite makes its cell so.
    """
    largest = level.abs().amax(1, keepdim=True)
    largest = largest.where(largest != 0, 1)
    level = level / largest  # so that no square is too large or too small for its type
    norm = level.square().sum(1, keepdim=True).sqrt()
    return level / norm.where(norm != 0, 1)


def check_device(device: str | None) -> torch.device:
    """Return the device to use, CUDA where there is one by default, or raise a ParameterError."""
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
