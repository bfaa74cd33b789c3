"""What of a folder of images was kept as normal, what was dropped, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Round", "SelectedImage", "Selection"]


class Round(NamedTuple):
    """One clustering of all images.

    Parameters
    ----------
    n_kept : int
        Images in the clusters that were kept.
    n_returned, n_dropped : int
        Images that are kept and were not in the round before, and the other way round; before the
        first round none is kept.
    """

    n_kept: int
    n_returned: int
    n_dropped: int

    @property
    def n_changed(self) -> int:
        """How many images changed sides."""
        return self.n_returned + self.n_dropped


@dataclass(frozen=True)
class SelectedImage:
    """An image, and what was found about it in the last round.

    Parameters
    ----------
    id : str
        The image.
    is_kept : bool
        Whether it is kept.
    cluster : int
        The cluster that it belongs to; 0 is the tightest.
    n_in_cluster : int
        How many images belong to that.
    variance : float
        Of the cluster: the mean squared distance of its images to their mean.
    sq_distance : float
        The squared distance of the image to that mean.
    error : float
        What the autoencoder makes wrong of it: the squared distance of what comes in and what comes
        out, divided by the mean of all images' squared distances to their mean.
    rounds_kept : int
        In how many rounds it was kept.
    """

    id: str
    is_kept: bool
    cluster: int
    n_in_cluster: int
    variance: float
    sq_distance: float
    error: float
    rounds_kept: int


@dataclass(frozen=True)
class Selection:
    """What of a folder of images is kept as normal.

    Parameters
    ----------
    images : list of SelectedImage
        All images, sorted by id.
    limit : float
        The largest variance of a cluster that the last round kept.
    fewest : int
        Clusters of fewer images are dropped, however tight they are.
    rounds : list of Round
        The first clustering, and those of the autoencoder's codes.

    Examples
    --------
    >>> images = [SelectedImage("a", True, 0, 2, 0.5, 0.25, 0.1, 2),
    ...           SelectedImage("b", False, 1, 2, 4.0, 3.0, 0.75, 1)]
    >>> found = Selection(images, 1.0, 1, [Round(1, 1, 1), Round(1, 0, 0)])
    >>> found.kept, [image.id for image in found.dropped], found.is_settled
    (['a'], ['b'], True)
    >>> found.reason(found.dropped[0])
    'cluster 1 of 2 images has variance 4, above 1; reconstruction error 0.75'
    """

    images: list[SelectedImage]
    limit: float
    fewest: int
    rounds: list[Round]

    @property
    def kept(self) -> list[str]:
        """The ids of the images that are kept, sorted."""
        return [image.id for image in self.images if image.is_kept]

    @property
    def dropped(self) -> list[SelectedImage]:
        """The images that are dropped, largest reconstruction error first."""
        dropped = [image for image in self.images if not image.is_kept]
        return sorted(dropped, key=lambda image: (-image.error, image.id))

    @property
    def borderline(self) -> list[SelectedImage]:
        """The images that are kept, and were in less than three quarters of the rounds.

        Those of the fewest rounds first; of these, those of the largest reconstruction error.
        """
        often = 0.75 * len(self.rounds)
        found = [image for image in self.images if image.is_kept and image.rounds_kept < often]
        return sorted(found, key=lambda image: (image.rounds_kept, -image.error, image.id))

    @property
    def is_settled(self) -> bool:
        """Whether the last round changed nothing."""
        return self.rounds[-1].n_changed == 0

    def reason(self, image: SelectedImage) -> str:
        """Return in words why an image is kept or dropped."""
        images = f"{image.n_in_cluster} image{'' if image.n_in_cluster == 1 else 's'}"
        is_tight = self.fewest <= image.n_in_cluster and image.variance <= self.limit
        if image.n_in_cluster < self.fewest:
            why = f"is too small: fewer than {self.fewest}"
        else:
            side = "at most" if is_tight else "above"
            why = f"has variance {image.variance:.4g}, {side} {self.limit:.4g}"
        words = f"cluster {image.cluster} of {images} {why}"
        if image.is_kept != is_tight:
            verdict = "kept" if image.is_kept else "dropped"
            of_rounds = f"in {image.rounds_kept} of {len(self.rounds)} rounds"
            words = f"{verdict} by most rounds: kept {of_rounds}; its last {words}"
        return f"{words}; reconstruction error {image.error:.4g}"

    def to_json(self) -> dict[str, Any]:
        """Return it as something that JSON has."""
        return {
            "images": [list(asdict(image).values()) for image in self.images],
            "limit": self.limit,
            "fewest": self.fewest,
            "rounds": [list(each) for each in self.rounds],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Selection:
        """Return it from what `to_json` returned.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is something else.
        """
        kinds = (str, bool, int, int, float, float, float, int)
        images = [_checked(row, kinds) for row in stored["images"]]
        rounds = [Round(*_checked(row, (int, int, int))) for row in stored["rounds"]]
        if not rounds:
            raise ValueError("expected at least one round")
        limit, fewest = _checked([stored["limit"], stored["fewest"]], (float, int))
        return cls([SelectedImage(*row) for row in images], limit, fewest, rounds)


def _checked(row: Any, kinds: tuple[type, ...]) -> list[Any]:
    """Return some values, if each is of its type, and finite."""
    if not isinstance(row, list) or [type(value) for value in row] != list(kinds):
        raise TypeError(f"expected values of {[kind.__name__ for kind in kinds]}, got {row!r}")
    if not all(np.isfinite(value) for value in row if not isinstance(value, str)):
        raise ValueError(f"expected finite values, got {row!r}")
    return row
