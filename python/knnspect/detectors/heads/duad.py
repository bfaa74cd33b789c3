"""DUAD: an autoencoder that learns from a folder in which some images are not normal."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.detectors.heads.base import HeadDetector
from knnspect.detectors.heads.scorers.autoencoder import AutoencoderScorer
from knnspect.detectors.selecting import Selecting, Selection
from knnspect.detectors.selecting.duad import rows_of
from knnspect.detectors.state import State
from knnspect.errors import ImageError
from knnspect.features import Backbone
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import learnt, parameter

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.autoencoder import CellNetwork

__all__ = ["Duad"]


class Duad(Selecting, HeadDetector):
    """Learn from a folder with defects in it: drop loose clusters of images, reconstruct the rest.

    - which images are normal: as `knnspect.cleaning.Cleaner` selects them, by their pooled
      features; images that are dropped are neither learnt from nor do they calibrate;
    - map: the mean squared error of an autoencoder of each cell's standardized, upsampled,
      concatenated feature; upsampled bilinearly and blurred;
    - image score: the mean of the largest 1 % of the map.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(patch_size=3)`` by default.
    max_epochs : int, default 5
        Passes of the autoencoder of cells through all images that are kept.
    learning_rate : float, default 2e-3
        Of Adam, at its highest, for the autoencoder of cells.

    Attributes
    ----------
    selection_ : Selection
        Which images were kept and dropped, and why.
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (keeping them), "selection", "training", "calibration", "matching"
        (the autoencoder), "maps".

    Source
    ------
    Li, Yang, Chen, Liu and Tang, "Deep Unsupervised Anomaly Detection" (2021). Deviations: those of
    `knnspect.cleaning.Cleaner`, and

    - images are judged by an autoencoder of the cells of the images that were kept, not by the one
      that selected these: it has no map, and a defect takes a small part of an image;
    - an error is a mean over standardized features, so that channels count alike.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(100, 120, (24, 64, 64, 3)).astype("u1")
    >>> images[:3, 10:40, 10:40] = rng.integers(0, 255, (3, 30, 30, 3))
    >>> duad = Duad(Backbone(image_size=64, patch_size=3), clusters=3).fit(images)
    >>> sorted(image.id for image in duad.selection_.dropped)[:3]
    ['000000', '000001', '000002']
    >>> good, bad = duad.predict(images[[23, 0]])
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(default_factory=lambda: Backbone(patch_size=3), kw_only=False)
    max_epochs: int = parameter(default=5)
    learning_rate: float = parameter(default=2e-3)
    score: Literal["image", "map", "top"] = parameter(default="top")

    method: ClassVar[str] = "duad"
    fewest_images: ClassVar[int] = 3

    selection_: Selection = learnt()

    def _prepare(self, run: Run) -> None:
        self._require_to_select()
        super()._prepare(run)

    def _ids_to_learn(self, normal: NormalFeatures, run: Run) -> list[str]:
        ids = normal.gallery.ids
        if len(ids) < self.fewest_images:
            raise ImageError(
                f"images: Duad needs at least {self.fewest_images} normal images, got {len(ids)}"
            )
        rows, device = rows_of(self.backbone, normal), self.backbone.torch_device
        with run.watch.stage("selection"):
            self.selection_ = self._select(rows, ids, device, run.progress)
        return self.selection_.kept

    def _network(self, shapes: list[tuple[int, int, int]]) -> CellNetwork:
        from knnspect.detectors.heads.networks.autoencoder import CellNetwork

        return CellNetwork(shapes, self.hidden, self.latent_size, self.learning_rate)

    def _scorer(self, arrays: dict[str, NDArray[Any]]) -> AutoencoderScorer:
        return AutoencoderScorer(self._shapes, self.hidden, self.latent_size, arrays)

    def _state(self) -> State:
        state = super()._state()
        return replace(state, values={**state.values, "selection": self.selection_.to_json()})

    def _set_state(self, stored: StoredModel) -> None:
        super()._set_state(stored)
        self.selection_ = Selection.from_json(stored.config["selection"])
