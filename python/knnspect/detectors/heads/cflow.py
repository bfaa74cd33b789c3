"""CFLOW-AD: how likely features are where they are, by a conditional normalizing flow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Literal

from knnspect.detectors.heads.base import TrainedDetector
from knnspect.features import Backbone
from knnspect.validation import check_count

if TYPE_CHECKING:
    from knnspect.detectors.heads.cflow_network import CFlowNetwork

__all__ = ["CFlow"]


class CFlow(TrainedDetector):
    """Learn how likely a feature is at its place; what is unlikely there is a defect.

    Each level has a flow: an invertible network, told by sines and cosines which cell it looks at,
    that takes the features of normal images to a normal distribution.

    - map: with ``p`` the likelihood of a cell (per channel), relative to that of the most likely
      cell of its level in the normal images: minus the logarithm of the mean of ``p`` over the
      levels; upsampled bilinearly and blurred;
    - image score: the maximum of the map, or that of the cells.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(1, 2, 3), patch_size=3)`` by default.
    coupling_blocks : int, default 4
        Blocks of each flow; 8, as in the paper, describe features better and take twice as long.
    max_epochs : int, default 6
        Passes through all images.
    patience : int or None, default 3
        Stop after so many epochs without a lower loss of the images held out, and keep the weights
        of the best epoch; None: never stop, and keep the last.
    validation_fraction : float, default 0.1
        The share of the normal images that is held out: at least one, unless there is only one.
    learning_rate : float, default 2e-3
        Adam's, at its highest.
    mixed_precision : bool, default True
        Train in bfloat16 on CUDA devices that have it. Scores are float32 always.
    score : {"map", "image"}, default "map"
        Maximum of the map, as in the paper, or of the cells before they are upsampled and blurred.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept while the flows are trained on them; see `Gallery`.
    sigma : float, default 4.0
        Standard deviation of the map's Gaussian blur in pixels of a 224 px input; 0: none.
    seed : int, default 0
        Decides the weights at the beginning, which images are held out, and the order of cells.

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
        "features", "gallery" (keeping them), "training", "calibration", "matching" (the flows),
        "maps".

    Source
    ------
    Gudovskiy, Ishizaka and Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with
    Localization via Conditional Normalizing Flows" (2022), section 4. Deviations:

    - features are standardized, by the normal images, and averaged over 3x3 cells, which suits the
      fine levels of light networks; the paper's deep levels need neither;
    - 6 epochs at ten times the learning rate instead of 200, as standardized features are learnt
      faster; the schedule (warm-up, cosine) is the paper's;
    - 4 coupling blocks instead of 8, with thinner hidden layers on thin levels: levels
      have tens of channels here instead of hundreds, and a prediction is to take little more than
      its features;
    - hard permutations and an affine map for each channel between blocks, instead of soft ones;
    - the largest likelihoods come from normal images, where published code takes them from the
      test images; the logarithm of the mean over levels replaces a sum that is subtracted from its
      largest value: the order is the same, and values neither vanish nor end;
    - the map is blurred (``sigma=0``, the paper, is noisier).

    There is no augmentation, so features are extracted once and kept while the flows are trained.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> cflow = CFlow(Backbone(image_size=64, patch_size=3)).fit(normal[1:])
    >>> good, bad = cflow.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(16 <= row <= 34 and 26 <= column <= 44)
    True
    """

    method: ClassVar[str] = "cflow"
    _own: ClassVar[tuple[str, ...]] = ("coupling_blocks",)

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        coupling_blocks: int = 4,
        max_epochs: int = 6,
        patience: int | None = 3,
        validation_fraction: float = 0.1,
        learning_rate: float = 2e-3,
        mixed_precision: bool = True,
        score: Literal["map", "image"] = "map",
        gallery_dtype: Literal["float32", "float16", "int8"] = "float32",
        sigma: float = 4.0,
        seed: int = 0,
    ) -> None:
        self.backbone = Backbone(levels=(1, 2, 3), patch_size=3) if backbone is None else backbone
        self.coupling_blocks = coupling_blocks
        self.max_epochs = max_epochs
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.learning_rate = learning_rate
        self.mixed_precision = mixed_precision
        self.score = score
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
    ) -> CFlow:
        """Train the flows on normal images.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            Normal images, as `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that go through the backbone together; see `predict`.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising.
        progress : bool, default False
            Report progress on standard error, with losses and the time left.
        max_memory, folder
            As in `Spade.fit`: where features are kept while the network is trained.
        checkpoint : path-like, optional
            A file for the state of the training, written at the end of every epoch and every 30
            seconds of a long one; in `folder` by default, if there is one. An interrupted `fit`
            with the same images and parameters goes on from it, and ends as if it had not been
            interrupted. With others, also under the same names, it is refused. It is deleted when
            the training is done.

        Returns
        -------
        CFlow
            Itself.

        Raises
        ------
        ImageError
            If an image cannot be used, there is none, or the features are constant or not finite.
        ParameterError, DTypeError
            If a parameter of the detector or its backbone lies outside its values, or the
            checkpoint is of another training.
        StoreError
            If the backbone's weights cannot be read, the checkpoint is damaged, or a file cannot be
            written.
        MemoryError
            If more than `max_memory` is in use.
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

    def _network(self, shapes: list[tuple[int, int, int]]) -> CFlowNetwork:
        from knnspect.detectors.heads.cflow_network import CFlowNetwork

        return CFlowNetwork(shapes, self.coupling_blocks, self.learning_rate)

    @property
    def _n_blocks(self) -> int:
        return self.coupling_blocks

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_count("coupling_blocks", self.coupling_blocks)
