"""What methods have in common that keep small copies of their normal images, for reports."""

from __future__ import annotations

from knnspect.constraints import Count
from knnspect.detectors.base import Detector
from knnspect.detectors.state import State
from knnspect.model_files import StoredModel
from knnspect.normal_features import Run
from knnspect.normal_features.thumbnails import MOST_THUMBNAILS, Thumbnails
from knnspect.parameters import parameter

__all__ = ["IllustratedDetector"]

#: Before the names of its arrays in a file.
_PREFIX = "thumbnails."


class IllustratedDetector(Detector):
    """Keeps small copies of normal images, which a report shows beside what was found.

    Parameters
    ----------
    thumbnails : int, default 2000
        Of how many normal images the model keeps a small copy, at most 256 pixels a side, for
        reports: 5 to 20 kB each. Of more images than that those are taken whose ids have the
        smallest digests. 0: none, where normal images must not be seen. If it is set lower after
        `fit`, `save` leaves out the others.
    """

    thumbnails: int = parameter(Count(minimum=0), default=MOST_THUMBNAILS, changes_training=False)

    def thumbnail(self, image: str) -> bytes | None:
        """Return the small copy of a normal image, a JPEG.

        Parameters
        ----------
        image : str
            Its id, such as `Evidence.image`.

        Returns
        -------
        bytes or None
            None if the model has none, as one of an earlier version.

        Raises
        ------
        NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        return self._kept_thumbnails().get(image)

    def _kept_thumbnails(self) -> Thumbnails:
        found = Thumbnails({}) if self._thumbnails is None else self._thumbnails
        return found if len(found) <= self.thumbnails else found.most(self.thumbnails)

    def _prepare(self, run: Run) -> None:
        super()._prepare(run)
        run.n_thumbnails = self.thumbnails

    def _state_of_thumbnails(self) -> State:
        arrays = self._kept_thumbnails().to_arrays()
        return State({}, {_PREFIX + name: array for name, array in arrays.items()})

    def _set_thumbnails(self, stored: StoredModel) -> None:
        self._thumbnails = Thumbnails.from_arrays(stored.tensors(_PREFIX))
