"""HADGAN: reconstruct the spectra of a scene's background, and judge what is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from knnspect.constraints import Instance, Positive
from knnspect.detectors.prediction import Prediction
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.detectors.trained import TrainedDetector
from knnspect.errors import ImageError, ShapeError
from knnspect.features import Features, Pixels, Scenes
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import parameter
from knnspect.progress import Stopwatch

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.hadgan import HADGANNetwork

__all__ = ["HADGAN"]

#: The fewest pixels of a scene that is learnt from.
_FEWEST_PIXELS = 64


class HADGAN(ReconstructionDetector):
    """Learn to reconstruct the usual spectra of a hyperspectral scene; judge pixels by the rest.

    - map: D_SS = lambda D_spatial + (1 - lambda) D_spectral at each pixel. D_spatial is what is
      small in the three bands whose residual has the least energy, smoothed by a guided filter;
      D_spectral the squared Mahalanobis distance of the residual from those of the scenes learnt
      from. Each is divided by its spread there (the median distance from the median, times 1.4826);
    - image score: the maximum of the map before its blur.

    The paper's protocol is to judge the scene that was learnt from, ``fit(scene).predict(scene)``:
    anomalies are too few to be learnt. A scene is one image, so none is held out then: there is no
    early stopping, no decision without `calibrate`, and `normal_map_max_` is NaN.

    Parameters
    ----------
    backbone : Scenes or Pixels, optional
        How scenes become the network's input: ``Scenes()`` by default, at their own size and with
        all of their bands; ``Pixels()`` brings ordinary images to one size.
    latent_size : int, default 8
        Numbers that a spectrum is described by: fewer than bands, more than materials in a scene.
    width : int, default 64
        Units of the layers next to the code; those beyond them have twice as many.
    consistency_weight : float, default 1.0
        What it counts that a reconstructed spectrum has the code of its original.
    shrink_weight : float, default 0.1
        What the absolute values of codes count.
    adversarial_weight : float, default 0.01
        What it counts to be taken for real by the discriminators of codes and of spectra.
    spatial_weight : float, default 0.5
        The share of the spatial map, lambda.
    contamination : float, default 0.05
        The share of spectra that may be anomalies in what is learnt from: of those that are hardest
        to reconstruct so many count neither in training nor as usual residuals.
    max_epochs : int, default 60
        Passes through all scenes, each with at most 16,384 of a scene's spectra, at random.
    patience : int or None, default 20
        Stop after so many epochs without a smaller residual of the scenes held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for autoencoder and discriminators.
    sigma : float, default 0.0
        Blur of the map, in pixels of the scene; with `Pixels`, of a 224 px input.

    Source
    ------
    Jiang, Li, Xie and Du, "Discriminative Reconstruction Constrained Generative Adversarial Network
    for Hyperspectral Anomaly Detection" (2020), as a summary of it has it: the loss is the mean
    squared residual, plus 1 times consistency, plus 0.1 times shrink, plus both adversarial terms.
    Deviations:

    - flat opening and closing in windows of 5x5 find what is small, in place of attribute filters;
    - the Mahalanobis distance is that of the residual with its sign, which is nearer to a Gaussian
      than its absolute value, and has a shrunk covariance (Ledoit and Wolf), as the scene that is
      learnt from has anomalies in it, and the autoencoder leaves little in some directions;
    - `contamination`, as an autoencoder has room for a few anomalies of a scene, too;
    - both maps are scaled by what was learnt from, never by the scene that is judged;
    - the paper judges pixels alone; the image score is ours, as are the weight of the adversarial
      terms, which the paper does not name, and the number of units.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> shares = rng.dirichlet(np.ones(3), (16, 16))
    >>> scene = shares @ rng.random((3, 12)) + rng.normal(scale=0.01, size=(16, 16, 12))
    >>> scene[4, 7] += rng.normal(scale=0.2, size=12)
    >>> detector = HADGAN(Scenes(device="cpu"), latent_size=4, max_epochs=5).fit(scene)
    >>> (found,) = detector.predict(scene)
    >>> [int(at) for at in np.unravel_index(found.map.argmax(), found.map.shape)]
    [4, 7]
    """

    backbone: Scenes | Pixels = parameter(  # type: ignore[assignment]  # scenes, too
        Instance(Scenes, Pixels), default_factory=Scenes, kw_only=False
    )
    latent_size: int = parameter(default=8)
    width: int = parameter(default=64)
    consistency_weight: float = parameter(Positive(or_zero=True), default=1.0)
    shrink_weight: float = parameter(Positive(or_zero=True), default=0.1)
    adversarial_weight: float = parameter(Positive(or_zero=True), default=0.01)
    spatial_weight: float = parameter(
        Positive(or_zero=True, at_most=1), default=0.5, changes_training=False
    )
    contamination: float = parameter(Positive(or_zero=True, below=0.5), default=0.05)
    max_epochs: int = parameter(default=60)
    patience: int | None = parameter(default=20)
    learning_rate: float = parameter(default=1e-3)
    sigma: float = parameter(default=0.0)

    method: ClassVar[str] = "hadgan"
    _judging: ClassVar[tuple[str, ...]] = ("spatial_weight",)
    fewest_images: ClassVar[int] = 1

    def _network(self, shapes: list[tuple[int, int, int]]) -> HADGANNetwork:
        from knnspect.detectors.reconstruction.networks.hadgan import HADGANNetwork, Weights

        of_loss = self.consistency_weight, self.shrink_weight, self.adversarial_weight
        weights = Weights(*of_loss, self.spatial_weight, self.contamination)
        return HADGANNetwork(shapes[0], self._settings(), weights)

    def _prepare(self, run: Run) -> None:
        # Spectra are learnt one by one: no side of an image has to be a multiple of anything.
        TrainedDetector._prepare(self, run)

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        height, width, _ = normal.gallery.shapes[0]
        if height * width < _FEWEST_PIXELS:
            raise ImageError(
                f"image {normal.gallery.ids[0]}: expected at least {_FEWEST_PIXELS} pixels to "
                f"learn from, got {height} x {width}"
            )
        super()._learn(normal, run)

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        learnt, given = self._shapes[0][2], features.pyramid.shapes[0][2]
        if given != learnt:
            raise ShapeError(
                f"image {features.ids[0]}: expected {learnt} bands, as the model has learnt, "
                f"got {given}",
                image=features.ids[0],
            )
        yield from super()._judge(features, watch)
