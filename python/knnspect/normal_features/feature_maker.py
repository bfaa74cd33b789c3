"""What extracts features in a process of a cluster, and hands them to the owners of shards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.cluster import Asked
from knnspect.cluster.streams import StreamWorker
from knnspect.data import ImageItem, ImageReader, ImageSource
from knnspect.data.reader import Remarks
from knnspect.errors import ImageError, KnnspectError, ShapeError
from knnspect.features import Extractor, Features
from knnspect.memory import check_memory
from knnspect.normal_features.checks import check_pooled, other_grid
from knnspect.normal_features.memory_plan import Plan
from knnspect.normal_features.run import Run
from knnspect.normal_features.thumbnails import ThumbnailMaker
from knnspect.search.shards import Shards
from knnspect.views import Variants

__all__ = ["About", "FeatureMaker", "How", "Made"]

#: Seconds until an owner that had no room is asked again.
_WAIT = 0.05


@dataclass(frozen=True)
class How:
    """How features are extracted; the parameters are those of `Run` and of a plan."""

    batch_size: int
    n_workers: int
    skip_bad: bool
    variants: Variants | None
    n_thumbnails: int
    limit: int | None

    @classmethod
    def of(cls, plan: Plan, run: Run, limit: int | None) -> How:
        """Return what a plan and a run say, for `limit` bytes of memory if there is a limit."""
        return cls(
            plan.batch_size,
            plan.n_workers,
            bool(run.skip_bad),
            run.variants,
            run.n_thumbnails,
            limit,
        )


@dataclass(frozen=True)
class About:
    """What is kept of an image, or of a variant of it, beside its pyramid.

    Parameters
    ----------
    image : str
        The id of the image.
    pooled : ndarray of float32, shape (n_features,)
        The pooled features.
    size : (int, int)
        Height and width of the image as it came.
    digest : bytes
        What the image was made of.
    thumbnail : bytes, optional
        A small copy of the image, if it may be kept.
    """

    image: str
    pooled: NDArray[np.float32]
    size: tuple[int, int]
    digest: bytes
    thumbnail: bytes | None


@dataclass
class Made:
    """What was made of a piece, of which the owners have the features.

    Parameters
    ----------
    n_images : int
        Images of the piece.
    bad : list of (str, ImageError)
        Those that cannot be used.
    remarks : Remarks, optional
        What is to be said of the images.
    """

    n_images: int
    bad: list[tuple[str, ImageError]] = field(default_factory=list)
    remarks: Remarks | None = None


@dataclass(frozen=True)
class _Sent:
    """What an owner was asked to add, and the reference of its answer."""

    owner: Asked
    given: tuple[Any, ...]
    reference: Any


class FeatureMaker(StreamWorker):
    """Extracts the features of images, and has the owners of shards add them.

    It is at most one batch ahead of the owners: when these have no room, it waits.

    Parameters
    ----------
    backbone : Extractor
        What extracts the features.
    how : How
        How.
    shards : Shards
        Which image belongs where.
    owners : sequence of Asked
        The owner of each shard.
    """

    def __init__(
        self, backbone: Extractor, how: How, shards: Shards, owners: Sequence[Asked]
    ) -> None:
        self._backbone, self._how = backbone, how
        self._shards, self._owners = shards, owners
        self._maker = ThumbnailMaker(how.n_thumbnails)

    def work(self, piece: Sequence[ImageItem]) -> Made:
        """Learn the images of a piece; all of them are with their owners when it returns."""
        how, made = self._how, Made(len(piece))
        digests: dict[str, bytes] = {}
        source = ImageSource([item.recorded(digests) for item in piece], len(piece))
        reader = self._backbone.reader()
        before: list[_Sent] = []
        for features in self._features(self._maker.watching(source), reader, made):
            check_pooled(features)
            sent = self._sent(features, digests)
            self._wait_for(before)
            before = sent
            check_memory(how.limit, "raise it, or lower batch_size or n_workers")
        self._wait_for(before)
        made.remarks = reader.remarks()
        return made

    def _features(self, source: ImageSource, reader: ImageReader, made: Made) -> Iterator[Features]:
        """Extract the features batch by batch; errors say on which node."""
        try:
            yield from self._backbone.iterate(
                source,
                self._how.batch_size,
                self._how.n_workers,
                (lambda id_, error: made.bad.append((id_, error))) if self._how.skip_bad else False,
                may_be_none=True,
                views=self._how.variants,
                reader=reader,
            )
        except KnnspectError as error:
            error.args = (f"{error} (on node {self.about().node})",)
            raise

    def _sent(self, features: Features, digests: dict[str, bytes]) -> list[_Sent]:
        """Ask the owners to add images; return what they were asked."""
        owners = self._shards.owners(features.ids)
        levels = features.pyramid.levels
        asked = []
        for place, owner in enumerate(self._owners):
            own = (owners == place).nonzero()[0].tolist()
            if not own:
                continue
            ids = [features.ids[at] for at in own]
            about = [self._about(features, at, digests) for at in own]
            given = [level[own] for level in levels], ids, about
            asked.append(_Sent(owner, given, owner.ask("add", *given)))
        return asked

    def _about(self, features: Features, place: int, digests: dict[str, bytes]) -> About:
        id_, variants = features.ids[place], self._how.variants
        image = id_ if variants is None else variants.split(id_)[0]
        return About(
            image,
            features.pooled[place],
            features.sizes[place],
            digests[image],
            self._maker.made(image) if image == id_ else None,
        )

    def _wait_for(self, asked: Sequence[_Sent]) -> None:
        try:
            for sent in asked:
                reference = sent.reference
                while not sent.owner.answer(reference):
                    time.sleep(_WAIT)
                    reference = sent.owner.ask("add", *sent.given)
        except ShapeError as error:
            raise other_grid(error.image or "", str(error), self._backbone.geometry) from error
