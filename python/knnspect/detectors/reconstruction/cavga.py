"""CAVGA: a VAE that is to pay attention to every part of a normal image."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Choice, Images, Optional, Positive
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.errors import ParameterError
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import parameter
from knnspect.pyramid import FeaturePyramid

if TYPE_CHECKING:
    from knnspect.detectors.reconstruction.networks.cavga import CAVGANetwork
    from knnspect.training.checkpoint import Checkpoint

__all__ = ["CAVGA"]


class CAVGA(ReconstructionDetector):
    """Learn to draw normal images, attentive to all of each; see where attention is missing.

    The code of an image has rows and columns. Its attention A is Grad-CAM's: by how much the code
    depends on each place of the encoder's last features. Training expands it to all of a normal
    image. With weak supervision, some defective images teach a classifier, and on normal images,
    where it is right, the attention of "normal" is to be everywhere, that of "defective" nowhere.

    - map: the absolute difference of the image and what is drawn, or 1 - A;
    - image score: the mean of this difference.

    Parameters
    ----------
    map_of : {"residual", "attention"}, default "residual"
        What maps show; it may be changed after `fit`. Attention is the paper's.
    supervision : {"none", "weak"}, default "none"
        Whether `fit` also learns from `defects`.
    defects : folder, file, or list of paths or arrays, optional
        Images with defects, for weak supervision; `predict` does not need them.
    adversarial_weight : float, default 0.01
        Of the discriminator in the loss of the others.
    attention_weight : float, default 0.01
        Of the attention expansion loss, mean(1 - A), or the complementary guided attention loss.
    classifier_weight : float, default 0.001
        Of the classifier's loss, with weak supervision.
    latent_size : int, default 2
        Channels of the code, at each of its rows and columns, of which there are at least 7.
    max_epochs : int, default 200
        Passes through all images.
    patience : int or None, default 30
        Stop after so many epochs without a smaller residual of the images held out, and keep the
        weights of the best; None: never stop, and keep the last.
    learning_rate : float, default 1e-3
        Of Adam, for all networks.

    Source
    ------
    Venkataramanan, Peng, Singh and Mahalanobis, "Attention Guided Anomaly Localization in Images"
    (2020), section 3. Deviations:

    - maps show the residual by default, as attention found no defects of hazelnuts;
    - the adversarial loss has a weight of .01 instead of 1, so that few images are drawn as they
      are, and the discriminator has spectral norms;
    - the divergence of codes is taken, as the cross-entropy, for each value of a pixel, so that
      the balance of both is that of a likelihood;
    - with weak supervision defective images reach the classifier alone: they are not drawn;
    - after the features that attention weighs, nothing is normalized, so that attention is each
      image's own; a logistic function, not the batch's maximum, brings it to (0, 1);
    - encoder and decoder of the family's size instead of ResNet-18.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Pixels
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (12, 32, 32), np.uint8)
    >>> odd = normal[:1].copy()
    >>> odd[0, 10:20, 15:25] = 255
    >>> detector = CAVGA(Pixels(32, color="grey", device="cpu"), max_epochs=5).fit(normal[1:])
    >>> good, bad = detector.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (32, 32))
    """

    map_of: Literal["residual", "attention"] = parameter(
        Choice("residual", "attention"), default="residual", changes_training=False
    )
    supervision: Literal["none", "weak"] = parameter(Choice("none", "weak"), default="none")
    defects: str | os.PathLike[str] | list[Any] | NDArray[Any] | None = parameter(
        Optional(Images()), default=None, is_saved=False
    )
    adversarial_weight: float = parameter(Positive(or_zero=True, at_most=1e6), default=0.01)
    attention_weight: float = parameter(Positive(or_zero=True, at_most=1e6), default=0.01)
    classifier_weight: float = parameter(Positive(or_zero=True, at_most=1e6), default=0.001)
    latent_size: int = parameter(default=2)
    max_epochs: int = parameter(default=200)
    patience: int | None = parameter(default=30)
    learning_rate: float = parameter(default=1e-3)

    method: ClassVar[str] = "cavga"
    _judging: ClassVar[tuple[str, ...]] = ("map_of",)
    #: Pixels of defective images, during a fit alone.
    _defects: ClassVar[NDArray[np.float32] | None] = None

    def _network(self, shapes: list[tuple[int, int, int]]) -> CAVGANetwork:
        from knnspect.detectors.reconstruction.networks.cavga import CAVGANetwork, Weights

        weights = Weights(self.adversarial_weight, self.attention_weight, self.classifier_weight)
        is_weak = self.supervision == "weak"
        network = CAVGANetwork(shapes[0], self._settings(), weights, self.map_of, is_weak)
        if self._defects is not None:
            network.defects = network.images_of(FeaturePyramid([self._defects]))
        return network

    def _prepare(self, run: Run) -> None:
        if (self.supervision == "weak") != (self.defects is not None):
            wanted = "images with defects" if self.supervision == "weak" else "none"
            raise ParameterError(
                f"defects: expected {wanted} with supervision={self.supervision!r}, got "
                f"{'none' if self.defects is None else 'some'}",
                parameter="defects",
            )
        super()._prepare(run)

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        if self.supervision == "weak":
            batches = self.backbone.iterate(
                Images.given(self.defects), run.batch_size, run.n_workers, pooled=False
            )
            self._defects = np.concatenate([each.pyramid.levels[0] for each in batches])  # type: ignore[misc]
        try:
            super()._learn(normal, run)
        finally:
            vars(self).pop("_defects", None)

    def _checkpoint(
        self, path: str | os.PathLike[str], run: Run, digests: dict[str, bytes] | None = None
    ) -> Checkpoint:
        if digests is not None and self._defects is not None:
            digest = hashlib.blake2b(self._defects.tobytes(), digest_size=16)
            digests = {**digests, "those with defects": digest.digest()}
        return super()._checkpoint(path, run, digests)
