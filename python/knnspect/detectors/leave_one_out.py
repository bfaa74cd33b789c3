"""Normal images compared with the others: which, and without which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from knnspect.calibration import Calibration
from knnspect.calibration.blocks import Blocks, blocks_of, merged_blocks
from knnspect.calibration.conformal import n_needed
from knnspect.normal_features import NormalFeatures
from knnspect.normal_features.checks import evenly_spaced
from knnspect.normal_features.near_duplicates import LEFT_OUT, NearDuplicates

__all__ = ["LeaveOneOut"]

#: Images that are scored, evenly spaced among all; more if the false-alarm rate needs more.
_MOST = 200


class LeaveOneOut:
    """Says what a normal image is not compared with: itself, and images that belong to it.

    Parameters
    ----------
    normal : NormalFeatures
        The normal images.
    blocks : Blocks
        Which images belong together. Near-duplicates do, too.

    Attributes
    ----------
    ids : list of str
        The images.
    """

    def __init__(self, normal: NormalFeatures, blocks: Blocks) -> None:
        self.ids = normal.stored.images
        self._stored = normal.stored
        pooled = normal.pooled[normal.stored.places]
        self._duplicates = NearDuplicates(normal.gallery, pooled, self.ids)
        self._blocks = blocks_of(self.ids, blocks)
        self._of_block: dict[Hashable, list[str]] = defaultdict(list)
        for id_, block in zip(self.ids, self._blocks or (), strict=self._blocks is not None):
            self._of_block[block].append(id_)
        self._left_out: dict[int, list[str]] = {}

    def left_out(self, index: int) -> list[str]:
        """Return the ids in the gallery that an image is not compared with: of all variants."""
        if index not in self._left_out:
            belonging = {self.ids[index]: None, **dict.fromkeys(self._duplicates.of(index))}
            if self._blocks is not None:
                belonging |= dict.fromkeys(self._of_block[self._blocks[index]])
            self._left_out[index] = self._stored.ids_of(belonging)
        return self._left_out[index]

    @property
    def near_duplicates(self) -> list[tuple[str, str]]:
        """Those found so far: an image, and one that belongs to it."""
        return self._duplicates.pairs

    def sample(self, false_alarm_rate: float | None) -> list[int]:
        """Return the images that are scored: as many as a rate needs, and 200 if there are."""
        needed = 0 if false_alarm_rate is None else n_needed(false_alarm_rate)
        return evenly_spaced(len(self.ids), max(_MOST, needed))

    def warn(self) -> None:
        """Warn once of near-duplicates."""
        self._duplicates.warn(len(self._left_out), LEFT_OUT)

    def calibration(
        self, scored: Sequence[int], scores: Sequence[float], map_maxima: Sequence[float]
    ) -> Calibration:
        """Return the calibration of some images, by their scores and the maxima of their maps."""
        ids = [self.ids[index] for index in scored]
        blocks = None if self._blocks is None else [self._blocks[index] for index in scored]
        return Calibration(
            scores,
            map_maxima,
            "leave one out",
            ids=ids,
            blocks=merged_blocks(ids, self._duplicates.pairs, blocks),
            n_images=len(self.ids),
        )
