"""The scores of normal images that were added: each compared with all others, as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from knnspect.corrections import Standing
from knnspect.normal_features import NormalFeatures

__all__ = ["N_RECENT", "AddedScores", "Score"]

#: Score and largest map value of an image.
Score = tuple[float, float]
#: Of so many images that were added last the features are kept, to find their scores anew.
N_RECENT = 8


@dataclass(frozen=True, eq=False)
class AddedScores:
    """The scores of added images, which fall when more are added that are like them.

    A score that is not found anew is an upper bound: fewer false alarms come than are promised. It
    is found anew where it matters, that is above the threshold, for the images that were added last
    by this process.

    Parameters
    ----------
    scores : mapping of str to (float, float)
        Score and largest map value of each image.
    recent : mapping of str to NormalFeatures
        The features of those that were added last.
    outdated : frozenset of str
        Those of them after which others were added.
    """

    scores: Mapping[str, Score] = field(default_factory=dict)
    recent: Mapping[str, NormalFeatures] = field(default_factory=dict)
    outdated: frozenset[str] = frozenset()

    def of(self, standing: Standing) -> AddedScores:
        """Return those of the images that are there after some corrections."""
        mine = {k: v for k, v in self.scores.items() if k in standing.scores}
        recent = {k: v for k, v in self.recent.items() if k in standing.added}
        return AddedScores({**standing.scores, **mine}, recent, self.outdated & recent.keys())

    def after(self, added: Mapping[str, NormalFeatures]) -> AddedScores:
        """Return them when images were added, of which the scores are found by now."""
        recent = dict([*self.recent.items(), *added.items()][-N_RECENT:])
        return AddedScores(self.scores, recent, frozenset(self.recent) & recent.keys())

    def above(self, limits: Score) -> str | None:
        """Return the outdated image with the highest score at or above a limit; None if none is."""
        found = [
            image
            for image in self.outdated
            if image in self.scores
            and (self.scores[image][0] >= limits[0] or self.scores[image][1] >= limits[1])
        ]
        return max(found, key=lambda image: (self.scores[image], image), default=None)

    def renewed(
        self, image: str, find: Callable[[str, NormalFeatures], Score | None]
    ) -> AddedScores:
        """Return them with the score of an outdated image found anew."""
        found = find(image, self.recent[image])
        scores = self.scores if found is None else {**self.scores, image: found}
        return replace(self, scores=scores, outdated=self.outdated - {image})
