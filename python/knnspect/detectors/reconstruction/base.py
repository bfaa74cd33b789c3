"""What methods have in common that learn to draw normal images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count, Flag, Instance
from knnspect.detectors.prediction import Prediction
from knnspect.detectors.trained import TrainedDetector
from knnspect.errors import ImageError, ParameterError
from knnspect.features import Features, Pixels
from knnspect.features.constraints import check_multiples, checked_image_size
from knnspect.forked import fork_safe
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import parameter
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork, Settings

__all__ = ["ReconstructionDetector"]

#: The smallest side of an image, and what sides are multiples of, as networks halve them twice.
SMALLEST_SIDE, MULTIPLE = 16, 4


class ReconstructionDetector(TrainedDetector):
    """A detector that learns to draw normal images, and judges what it cannot draw.

    Parameters
    ----------
    backbone : Pixels, optional
        How images become the network's input; ``Pixels()`` by default: 64 px, in colour. Sides are
        multiples of 4, and at least 16 px.
    latent_size : int, default 64
        Numbers that an image is described by between encoder and decoder.
    width : int, default 32
        Channels of the first convolution; deeper ones have up to four times as many.
    augment : bool, default False
        Show training images turned by up to 5 degrees and shifted by up to 4 % of the side.
    validation_fraction : float, default 0.1
        The share of the normal images that is held out: at least one.
    mixed_precision : bool, default True
        Train in bfloat16 on CUDA devices that have it. Scores are float32 always.
    seed : int, default 0
        Decides the weights at the beginning, which images are held out, their order, and noise.
    """

    backbone: Pixels = parameter(Instance(Pixels), default_factory=Pixels, kw_only=False)
    latent_size: int = parameter(Count(maximum=2**16), default=64)
    width: int = parameter(Count(maximum=2**12), default=32)
    augment: bool = parameter(Flag(), default=False)

    fewest_images: ClassVar[int] = 2
    #: Of pixels, copies alone are as near as this: two digits may be as near as .1.
    _share_of_duplicates: ClassVar[float] = 0.003
    #: Parameters that decide how the network judges, and may be changed after `fit`; the network
    #: has an attribute of the same name.
    _judging: ClassVar[tuple[str, ...]] = ()

    def _settings(self) -> Settings:
        """Return what every network depends on."""
        from knnspect.detectors.reconstruction.networks.base import Settings

        return Settings(self.latent_size, self.width, self.learning_rate, self.augment)

    def _prepare(self, run: Run) -> None:
        size = checked_image_size(self.backbone.image_size)
        what = f"as the network of {type(self).__name__} halves them twice"
        check_multiples(size, MULTIPLE, what)
        if min(size) < SMALLEST_SIDE:
            raise ParameterError(
                f"image_size: expected sides of at least {SMALLEST_SIDE} px for "
                f"{type(self).__name__}, got {size[0]} x {size[1]}",
                parameter="image_size",
            )
        super()._prepare(run)

    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        with watch.stage("matching"):
            scores, residuals = self._judged(features.ids, features.pyramid)
        for id_, score, residual, placement in zip(
            features.ids, scores, residuals, features.placements, strict=True
        ):
            yield Prediction(id_, *self._with_map(float(score), residual, placement, watch))

    def _own_scores(self, id_: str, pyramid: FeaturePyramid) -> tuple[float, NDArray[Any]]:
        scores, residuals = self._judged([id_], pyramid)
        return float(scores[0]), residuals[0]

    def _scored_of(
        self, ids: list[str], normal: NormalFeatures
    ) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Yield the scores and maps of normal images, as many at once as the network takes."""
        at_once = self.network_.judged_at_once
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            scores, residuals = self._judged(some, normal.gallery.pyramid(some))
            for id_, score, residual in zip(some, scores, residuals, strict=True):
                yield self._with_map(float(score), residual, normal.placement(id_), Stopwatch())

    @fork_safe
    def _judged(
        self, ids: list[str], pyramid: FeaturePyramid
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the scores of images, and how far each pixel is from what is drawn."""
        scores, residuals = self._judging_network().judge(pyramid)
        finite = np.isfinite(scores) & np.isfinite(residuals).all(axis=(1, 2))
        if not finite.all():
            first = ids[int(np.flatnonzero(~finite)[0])]
            raise ImageError(f"image {first}: what is drawn of it is not finite", image=first)
        return scores, residuals

    @fork_safe
    def reconstruct(self, images: object, batch_size: int = 16) -> NDArray[np.float32]:
        """Return what the network draws in place of images, at the size that it works at.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `predict` takes them.
        batch_size : int, default 16
            Images that are handled together.

        Returns
        -------
        ndarray of float32, shape (n_images, height, width, 1 or 3)
            In [0, 1], in the order of the images.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If an image cannot be used, or there is none.
        """
        self._check_fitted()
        network = self._judging_network()
        batches = self.backbone.iterate(images, batch_size, pooled=False)
        return np.concatenate([network.reconstruct(batch.pyramid) for batch in batches])

    def _judging_network(self) -> ReconstructionNetwork:
        """Return the network, with the parameters as they are now."""
        network: ReconstructionNetwork = self.network_
        for name in self._judging:
            setattr(network, name, getattr(self, name))
        return network
