"""Student-teacher: networks that guess features of normal images, and are wrong about defects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray

from knnspect.constraints import Choice, Count
from knnspect.detectors.heads.base import HeadDetector
from knnspect.detectors.heads.scorers.student_teacher import StudentTeacherScorer
from knnspect.features import Backbone
from knnspect.normal_features import NormalFeatures, Run
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.student_teacher import StudentTeacherNetwork

__all__ = ["StudentTeacher"]


class StudentTeacher(HeadDetector):
    """Learn to guess each cell's features by the cells around it; a wrong guess is a defect.

    The frozen network is the teacher. Several small students learn on normal images to predict the
    upsampled, concatenated, standardized feature of a cell; each is shown the mean of the eight
    cells around it.

    - map: the squared error of the students' mean, plus the variance of the students around it,
      each divided by its standard deviation over the cells of normal images that were held out;
      upsampled bilinearly and blurred;
    - image score: the mean of the largest values of the map, the maximum of the map, or of the
      cells.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(2, 3), patch_size=3)`` by default.
    students : int, default 3
        How many there are; of one alone there is no variance.
    hidden : int, default 128
        Width of each, between its two layers.
    max_epochs : int, default 6
        Passes through all images.
    learning_rate : float, default 2e-3
        Adam's, at its highest.
    score : {"image", "map", "top"}, default "top"
        Maximum of the cells, as in the paper, or of the map, or the mean of its largest values.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.

    Source
    ------
    Bergmann, Fauser, Sattlegger and Steger, "Uninformed Students: Student-Teacher Anomaly Detection
    with Discriminative Latent Embeddings" (2020), section 3. Deviations:

    - the teacher is the frozen network, not one that is distilled from it for patches of images;
    - students see the features around a cell, not the image: those who see the cell itself could
      copy what is strange about it. Guessed from the other levels instead, welds were told less
      well;
    - one scale, whose levels are concatenated, instead of teachers for patches of three sizes;
    - error and variance are divided by the number of channels;
    - their means are not subtracted, so that scores begin at zero: all are higher by a constant;
    - a mean of a map decides by default;
    - 6 epochs of steps of 512 cells, with the learning rate falling along a cosine.

    Held-out images give both deviations and, with ``fit`` alone, what scores are held against: two
    numbers of these were fitted on them.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> taught = StudentTeacher(Backbone(levels=(2, 3), image_size=64)).fit(normal[1:])
    >>> good, bad = taught.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    """

    backbone: Backbone = parameter(
        default_factory=lambda: Backbone(levels=(2, 3), patch_size=3), kw_only=False
    )
    students: int = parameter(Count(maximum=2**10), default=3)
    hidden: int = parameter(Count(), default=128)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    max_epochs: int = parameter(default=6)
    learning_rate: float = parameter(default=2e-3)
    score: Literal["image", "map", "top"] = parameter(default="top")

    method: ClassVar[str] = "student_teacher"
    fewest_images: ClassVar[int] = 2

    def _network(self, shapes: list[tuple[int, int, int]]) -> StudentTeacherNetwork:
        from knnspect.detectors.heads.networks.student_teacher import StudentTeacherNetwork

        return StudentTeacherNetwork(
            shapes, self.upsample, self.students, self.hidden, self.learning_rate
        )

    def _scorer(self, arrays: dict[str, NDArray[Any]]) -> StudentTeacherScorer:
        return StudentTeacherScorer(self._shapes, self.upsample, self.students, self.hidden, arrays)

    def _train(self, normal: NormalFeatures, run: Run) -> list[str]:
        held = super()._train(normal, run)
        self.network_.normalize(normal.gallery.pyramid([id_]) for id_ in held)
        return held
