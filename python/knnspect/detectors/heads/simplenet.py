"""SimpleNet: a discriminator that tells normal features from noisy ones."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.detectors.heads.base import TrainedDetector
from knnspect.errors import ParameterError
from knnspect.features import Backbone
from knnspect.validation import check_choice, check_count, check_positive

if TYPE_CHECKING:
    from knnspect.detectors.heads.simplenet_network import SimpleNetNetwork

__all__ = ["SimpleNet"]

#: In standard deviations of the features; float32 holds what comes of it.
_LARGEST_NOISE = 1e6


class SimpleNet(TrainedDetector):
    """Learn to tell normal features from the same with noise; what is taken for noise is a defect.

    - map: minus what the discriminator says of each cell's upsampled, concatenated feature, less
      the lowest such value of the normal images; upsampled bilinearly and blurred;
    - image score: the largest of these values (not blurred).

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(1, 2, 3), patch_size=5)`` by default.
    hidden : int, default 256
        Width of the discriminator.
    noise : float, default 0.5
        Standard deviation of the noise, in units of the standard deviation of each channel.
    margin : float, default 0.5
        Of the hinge loss: what the discriminator says of normal features is to be above it, and of
        noisy ones below its negative.
    max_epochs : int, default 12
        Passes through all images.
    patience : int or None, default None
        Stop after so many epochs without a lower loss of the images held out, and keep the weights
        of the best epoch; None: never stop, and keep the last.
    validation_fraction : float, default 0.1
        The share of the normal images that is held out: at least one, unless there is only one.
    learning_rate : float, default 5e-4
        The discriminator's, by Adam, at its highest; that of the adaptor is a fiftieth of it.
    mixed_precision : bool, default True
        Train in bfloat16 on CUDA devices that have it. Scores are float32 always.
    score : {"image", "map"}, default "image"
        The image score of the paper, or the maximum of the map.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept while the network is trained on them; see `Gallery`.
    sigma : float, default 4.0
        Standard deviation of the map's Gaussian blur in pixels of a 224 px input; 0: none.
    seed : int, default 0
        Decides the weights at the beginning, which images are held out, the order of cells, and
        the noise.

    Attributes
    ----------
    history_ : list of dict
        For each epoch its "loss" and, where images are held out, "held_out_loss".
    best_epoch_ : int
        The epoch whose weights were kept, from 1.
    normal_map_max_ : float
        The largest map value of the images held out (at most 16 of them, evenly spaced): what a
        value of a map is to be held against. NaN where there are none.
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "training", "calibration", "matching" (the
        discriminator), "maps".

    Source
    ------
    Liu, Zhou, Xu and Wang, "SimpleNet: A Simple Network for Image Anomaly Detection and
    Localization" (2023), section 3. Deviations:

    - features are averaged over 5x5 cells instead of 3x3, as the finest level has twice the
      resolution of the paper's; they are not pooled to a common number of channels;
    - features are standardized, by the normal images, and the noise is given in these units, since
      backbones differ in scale;
    - the adaptor begins near the identity and learns slowly: from random weights it learns to put
      normal features into few directions, so that noise is told by the others and defects are not;
    - the discriminator's last layer begins small, lest what it says of defects come from random
      weights;
    - a discriminator of 256 instead of 1024, for features of hundreds instead of 1536 channels;
    - 12 epochs of small steps, with the learning rate falling along a cosine, instead of 160;
    - the weights that are kept are the last, where published figures come from the epoch that is
      best on the test images;
    - the lowest value of normal images is subtracted, so that scores begin at zero.

    There is no augmentation, so features are extracted once and kept while the network is trained.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> simplenet = SimpleNet(Backbone(image_size=64, patch_size=5)).fit(normal[1:])
    >>> good, bad = simplenet.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(16 <= row <= 34 and 26 <= column <= 44)
    True
    """

    method: ClassVar[str] = "simplenet"
    _own: ClassVar[tuple[str, ...]] = ("hidden", "noise", "margin", "upsample")

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        hidden: int = 256,
        noise: float = 0.5,
        margin: float = 0.5,
        max_epochs: int = 12,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        learning_rate: float = 5e-4,
        mixed_precision: bool = True,
        score: Literal["image", "map"] = "image",
        upsample: Literal["bilinear", "block"] = "bilinear",
        gallery_dtype: Literal["float32", "float16", "int8"] = "float32",
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        self.backbone = Backbone(levels=(1, 2, 3), patch_size=5) if backbone is None else backbone
        self.hidden = hidden
        self.noise = noise
        self.margin = margin
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.learning_rate = learning_rate
        self.mixed_precision = mixed_precision
        self.score = score
        self.upsample = upsample
        self.gallery_dtype = gallery_dtype
        self.sigma = sigma
        self.seed = seed

    def fit(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
        max_memory: int | str | None = None,
        folder: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> SimpleNet:
        """Train the adaptor and the discriminator on normal images.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress, max_memory, folder, checkpoint
            As in `CFlow.fit`.

        Returns
        -------
        SimpleNet
            Itself.

        Raises
        ------
        ImageError, ParameterError, DTypeError, StoreError, MemoryError
            As in `CFlow.fit`.
        """
        self._fit(
            images,
            batch_size=batch_size,
            n_workers=n_workers,
            skip_bad=skip_bad,
            progress=progress,
            max_memory=max_memory,
            folder=folder,
            checkpoint=checkpoint,
        )
        return self

    def _network(self, shapes: list[tuple[int, int, int]]) -> SimpleNetNetwork:
        from knnspect.detectors.heads.simplenet_network import SimpleNetNetwork

        return SimpleNetNetwork(
            shapes, self.upsample, self.hidden, self.noise, self.margin, self.learning_rate
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("hidden", self.hidden)
        if check_positive("noise", self.noise) > _LARGEST_NOISE:
            raise ParameterError(f"noise: expected at most {_LARGEST_NOISE:g}, got {self.noise}")
        check_positive("margin", self.margin)
        check_choice("upsample", self.upsample, ["bilinear", "block"])
