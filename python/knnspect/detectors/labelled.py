"""Methods whose network also learns from a few images with defects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Images, Optional
from knnspect.data import open_to_learn
from knnspect.detectors.heads.base import HeadDetector
from knnspect.detectors.trained import split
from knnspect.errors import ImageError, ParameterError
from knnspect.gallery import Gallery
from knnspect.normal_features import NormalFeatures, Run, extract_in_memory
from knnspect.parameters import parameter

if TYPE_CHECKING:
    from typing_extensions import Self

    from knnspect.training.checkpoint import Checkpoint

__all__ = ["LabelledHeadDetector"]

#: The share of the cells of an image with defects that are taken for defective.
_SHARE = 0.01


class LabelledHeadDetector(HeadDetector):
    """A head that also learns from a few images with defects, if there are some.

    Parameters
    ----------
    defects : folder, file, or list of paths or arrays, optional
        Images with defects, to learn from beside the normal ones; `predict` does not need them.
    """

    defects: str | os.PathLike[str] | list[Any] | NDArray[Any] | None = parameter(
        Optional(Images()), default=None, is_saved=False
    )

    upsample: Literal["bilinear", "block"]

    #: Features of defective cells, and the digests of their images, during a fit alone.
    _defective: ClassVar[tuple[NDArray[np.float32], dict[str, bytes]] | None] = None

    def fit(self, images: object, *, defects: object = None, **options: Any) -> Self:
        """Learn from normal images, and from some with defects.

        Parameters
        ----------
        images, **options
            As in `Detector.fit`.
        defects : folder, file, or list of paths or arrays, optional
            Images with defects, in place of the parameter of the same name for this fit alone.

        Returns
        -------
        Detector
            Itself.

        Raises
        ------
        ImageError
            If there is no image with defects, or one cannot be used.
        ParameterError
            If an image with defects is one of the normal images, too.
        """
        before = self.defects
        if defects is not None:
            self.defects = defects  # type: ignore[assignment]
        try:
            return super().fit(images, **options)
        finally:
            self.defects = before

    def _prepare(self, run: Run) -> None:
        if self.defects is not None:  # before the work
            _naming_defects(open_to_learn, Images.given(self.defects))
        super()._prepare(run)

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        if self.defects is not None:
            how = Run(run.batch_size, run.n_workers, run.skip_bad)
            given = Images.given(self.defects)
            found = _naming_defects(extract_in_memory, self.backbone, given, Gallery(), how)
            _check_labels(normal.digests, found.digests)
            vars(self)["_defective"] = self._farthest(normal, found), found.digests
        try:
            super()._learn(normal, run)
        finally:
            vars(self).pop("_defective", None)

    def _farthest(self, normal: NormalFeatures, defective: NormalFeatures) -> NDArray[np.float32]:
        """Return the features of the defective cells that are farthest from normal ones."""
        trained, _ = split(normal.gallery.ids, self.validation_fraction, self.seed)
        images = defective.gallery.pyramid()
        found = normal.gallery.search(images, 1, trained).sq_distances
        sq_distances = found.reshape(len(images), -1)
        n = max(1, round(_SHARE * sq_distances.shape[1]))
        places = np.argsort(-sq_distances, axis=1, kind="stable")[:, :n]
        rows = images.concatenated(self.upsample)
        rows = rows.reshape(len(images), -1, rows.shape[-1])
        return np.take_along_axis(rows, places[:, :, None], axis=1).reshape(-1, rows.shape[-1])

    def _checkpoint(
        self, path: str | os.PathLike[str], run: Run, digests: dict[str, bytes] | None = None
    ) -> Checkpoint:
        if digests is not None and self._defective is not None:
            of_defects = {f"defect {id_}": digest for id_, digest in self._defective[1].items()}
            digests = {**digests, **of_defects}
        return super()._checkpoint(path, run, digests)


def _naming_defects(function: Any, *arguments: Any) -> Any:
    """Call a function that takes images; an error says that these are the ones with defects."""
    try:
        return function(*arguments)
    except ImageError as error:
        raise ImageError(f"defects: {error}") from error


def _check_labels(normal: dict[str, bytes], defects: dict[str, bytes]) -> None:
    """Raise a ParameterError if an image with defects is a normal image, too."""
    names = {digest: id_ for id_, digest in normal.items()}
    for id_, digest in defects.items():
        if digest in names:
            raise ParameterError(
                f"defects: {id_} is the normal image {names[digest]}, too: expected images with "
                "defects that are not among the normal ones",
                parameter="defects",
            )
