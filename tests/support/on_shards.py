"""Any search, made in the shards of a gallery that is written for it."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knnspect import FeaturePyramid, Neighbors, ShardedGallery
from knnspect.backends import Backend, Capabilities
from knnspect.backends.ray import RayBackend
from knnspect.backends.ray_host import ShardHost, in_pieces
from knnspect.search import Search
from knnspect.testing.expectations import expect_identical

#: Galleries that are kept, as checks search some of them often.
N_KEPT = 4


class OnShards:
    """Writes the images of a search into shards, searches these, and compares with the core."""

    name = "shards"
    capabilities = Capabilities("pyramids", ("cpu",), ("float32", "float16", "int8"), windows=True)

    def __init__(self, inner: Backend | str, n_shards: int) -> None:
        self.inner, self.n_shards = inner, n_shards
        self._folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._kept: OrderedDict[Any, ShardedGallery] = OrderedDict()
        self._lock = threading.Lock()
        self._n_made = 0

    def search(self, search: Search) -> Neighbors:
        if not search.query.n_images:  # which has no images to be written
            return search.by_core()
        gallery = self._gallery_of(search)
        of_images = [search.ranks(image) for image in range(search.query.n_images)]
        images = [[search.image_ids[rank] for rank in ranks] for ranks in of_images]
        is_all = all(len(ranks) == len(search.image_ids) for ranks in of_images)
        found = gallery.search(
            search.query,
            search.k,
            None if is_all else images,
            search.threads,
            self.inner,
            search.window,
        )
        expect_identical(f"{self.n_shards} shards", found, search.by_core())
        return found

    def _gallery_of(self, search: Search) -> ShardedGallery:
        serials: dict[int, int] = {}
        features: dict[int, int] = {}
        for image in range(search.query.n_images):
            ranks = search.ranks(image)
            serials.update(zip(ranks.tolist(), search.serials(image).tolist(), strict=True))
            features.update(dict.fromkeys(ranks.tolist(), image))
        key = (search.upsample, tuple(sorted(serials.items())), search.image_ids)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = self._made(search, features)
                while len(self._kept) > N_KEPT:
                    self._kept.popitem(last=False)
            return self._kept[key]

    def _made(self, search: Search, features: dict[int, int]) -> ShardedGallery:
        self._n_made += 1
        path = Path(self._folder, f"{self._n_made}")
        levels = [search.levels(image, [rank]) for rank, image in sorted(features.items())]
        stacked = [np.concatenate(level) for level in zip(*levels, strict=True)]
        with ShardedGallery.create(path, search.upsample, shards=self.n_shards) as gallery:
            gallery.add(FeaturePyramid(stacked), search.image_ids)
        return ShardedGallery.open(path)


@dataclass
class Ready:
    """An answer that is there."""

    value: Any


class HereActors:
    """Searches shards in this process, as actors do in others."""

    def __init__(self, n_processes: int) -> None:
        self._n_processes = n_processes
        self._host = ShardHost()
        self._lock = threading.Lock()

    def connect(self) -> None:
        pass

    def n_places(self, n_shards: int) -> int:
        return min(self._n_processes, n_shards)

    def send(self, levels: Any, n_asked: int) -> tuple[Any, ...]:
        return in_pieces(levels) if n_asked == 1 else (levels,)

    def node(self, place: int) -> str:
        return "here"

    def ask(
        self, place: int, request: Any, window: Any, threads: Any, query: Any, n_asked: Any
    ) -> Any:
        about = (request.shards, request.asked, request.parts)
        with self._lock:
            return Ready(self._host.search(*about, window, threads, *query))

    def answer(self, reference: Ready, seconds: float) -> Any:
        return reference.value

    def interrupt(self, place: int) -> None:
        pass


def merging_here(n_processes: int) -> RayBackend:
    """Return a backend that merges what shards answer, without Ray's processes between them."""
    backend = RayBackend()
    backend._actors = HereActors(n_processes)  # type: ignore[assignment]
    return backend
