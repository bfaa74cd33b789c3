"""Ray as a backend: each shard of a gallery is searched by a process of a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends.ray_actors import ShardActors
from knnspect.backends.ray_host import Answer, Part
from knnspect.cluster import Cluster
from knnspect.errors import BackendUnavailable, KnnspectError, StoreError
from knnspect.search import Capabilities, Neighbors, Search, SearchStats
from knnspect.search.shards import Shard, Shards
from knnspect.search.window import fewest_cells
from knnspect.validation import check_count, check_positive

__all__ = ["RayBackend"]

#: Where the images of a shard are among all that are searched: their ranks, for each part.
_Ranks = list[NDArray[np.uint32]]


class RayBackend:
    """Searches the shards of a `ShardedGallery` on a Ray cluster, one process (actor) for each.

    An actor opens its shard memory-mapped, in the state that the gallery has here. A query is put
    once, each shard answers with its exact `k` nearest, and these are merged by (distance, image
    id, row, column), with distances in float64: the results are the same to the bit as those of one
    process. Only shards that hold images that are asked for are asked, as those of SPADE's image
    stage. Actors stay for later searches, of this gallery or another one.

    What is not in shards is left to the Rust core in this process: other galleries, coresets, and
    searches with a window and a `k` beyond the cells that a shard has within it.

    Parameters
    ----------
    address : str, optional
        The cluster: ``"ray://host:10001"``, ``"host:6379"``, or ``"local"`` to start one here. By
        default the one that this process is connected to; else the one that ``RAY_ADDRESS`` names
        or that runs on this machine; else one is started, and ends with this process.
    allow_missing : bool, default False
        Leave out shards that cannot be opened; `Neighbors.missing` names them.
    timeout : float, default 300
        Seconds within which all shards have to answer.
    attempts : int, default 3
        How often a shard is asked whose process has died meanwhile.

    Raises
    ------
    BackendUnavailable
        Without Ray. When searching: if there is no cluster at the address, a node has another
        version of knnspect, or a shard does not answer in time, or not in so many attempts.
    StoreError
        When searching: if a shard cannot be opened where its process runs; the message names both.

    Examples
    --------
    >>> RayBackend("ray://10.0.0.1:10001", timeout=20)  # doctest: +SKIP
    RayBackend('ray://10.0.0.1:10001', allow_missing=False, timeout=20.0, attempts=3)
    """

    name = "ray"
    capabilities = Capabilities(
        "pyramids", devices=("cpu",), dtypes=("float32", "float16", "int8"), windows=True
    )

    def __init__(
        self,
        address: str | None = None,
        *,
        allow_missing: bool = False,
        timeout: float = 300,
        attempts: int = 3,
    ) -> None:
        # "ray://host" as a word for a backend is "ray", a colon and the rest.
        is_rest = isinstance(address, str) and address.startswith("//")
        cluster = Cluster(f"ray:{address}" if is_rest else address, "backend 'ray'")
        self.address = cluster.address
        self.allow_missing = bool(allow_missing)
        self.timeout = check_positive("timeout", timeout)
        self.attempts = check_count("attempts", attempts)
        self._actors = ShardActors(cluster, self.attempts)

    def __reduce__(self) -> tuple[Callable[..., RayBackend], tuple[str | None]]:
        make = partial(
            RayBackend,
            allow_missing=self.allow_missing,
            timeout=self.timeout,
            attempts=self.attempts,
        )
        return make, (self.address,)

    def __repr__(self) -> str:
        return (
            f"RayBackend({self.address!r}, allow_missing={self.allow_missing}, "
            f"timeout={self.timeout}, attempts={self.attempts})"
        )

    def search(self, search: Search) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of the query; see `Gallery.search`."""
        shards = search.shards
        if shards is None or not search.query.n_images:
            return search.left_to_core()
        requests = _requests(search, shards)
        if requests is None:
            return search.left_to_core()
        parts = {place: of_shard for place, of_shard, _ in requests}
        answers, missing = self._ask(search, shards.shards, parts)
        ranks = {place: of_parts for place, _, of_parts in requests}
        found = _merged(search, answers, ranks, missing)
        return replace(found, missing=(*shards.missing, *missing))

    def stop(self) -> None:
        """End the processes of the shards; the next search starts them again."""
        self._actors.stop()

    def _ask(
        self, search: Search, shards: Sequence[Shard], parts: dict[int, list[Part]]
    ) -> tuple[dict[int, list[Answer]], tuple[str, ...]]:
        """Ask shards, by their places; return the answers, and the names of those that have none.

        An actor that dies is restarted, and asked again, by Ray; one that Ray gave up, here.
        """
        deadline = time.monotonic() + self.timeout
        self._actors.connect()
        query = self._actors.put([np.ascontiguousarray(level) for level in search.query.levels])
        how = (search.window, search.threads)
        answers: dict[int, list[Answer]] = {}
        missing: list[str] = []
        pending = {
            place: self._actors.ask(place, shards[place], query, of_shard, *how)
            for place, of_shard in parts.items()
        }
        n_asked = Counter(pending.keys())
        try:
            while pending:
                place = next(iter(pending))
                answer = self._actors.answer(pending[place], deadline - time.monotonic())
                if answer is None and n_asked[place] < self.attempts:
                    n_asked[place] += 1
                    pending[place] = self._actors.ask(
                        place, shards[place], query, parts[place], *how, again=True
                    )
                    continue
                if isinstance(answer, StoreError) and self.allow_missing:
                    missing.append(shards[place].name)
                elif isinstance(answer, list):
                    answers[place] = answer
                else:
                    raise self._failed(shards[place], answer)
                del pending[place]
        except BaseException:
            # They would go on, and keep the next search waiting.
            for place in pending:
                self._actors.interrupt(place)
            raise
        return answers, tuple(missing)

    def _failed(self, shard: Shard, answer: BaseException | None) -> BaseException:
        if isinstance(answer, KnnspectError):
            return answer
        if isinstance(answer, TimeoutError):
            return BackendUnavailable(
                f"shard {shard.name} ({shard.path}) has not answered within {self.timeout:g} s"
            )
        reason = "" if answer is None else f": {answer}"
        return BackendUnavailable(
            f"shard {shard.name} ({shard.path}): its process has died {self.attempts} times{reason}"
        )


def _requests(search: Search, shards: Shards) -> list[tuple[int, list[Part], _Ranks]] | None:
    """Return what each shard is asked for, and the ranks of its images, part by part.

    None if a shard has fewer cells within a window than are asked for: cells that are not in the
    corner of the grid have more.
    """
    owners = shards.owners(search.image_ids)
    n_cells = fewest_cells(search.shapes, search.window)
    requests = []
    of_images = [search.ranks(image) for image in range(search.query.n_images)]
    for place, shard in enumerate(shards.shards):
        own = [ranks[owners[ranks] == place] for ranks in of_images]
        parts: dict[tuple[int, bool], tuple[list[int], _Ranks]] = {}
        for image, ranks in enumerate(own):
            if not len(ranks):
                continue
            k = min(search.k, n_cells * len(ranks))
            if k < search.k and search.window is not None:
                return None
            images, of_part = parts.setdefault((k, len(ranks) == shard.n_images), ([], []))
            images.append(image)
            of_part.append(ranks)
        if not parts:
            continue
        asked, in_all = [], []
        for (k, is_all), (images, of_part) in parts.items():
            ids = None if is_all else [_ids(search.image_ids, ranks) for ranks in of_part]
            asked.append(Part(images, k, ids))
            in_all.append(np.unique(np.concatenate(of_part)))
        requests.append((place, asked, in_all))
    return requests


def _ids(image_ids: Sequence[str], ranks: NDArray[np.uint32]) -> list[str]:
    return [image_ids[rank] for rank in ranks.tolist()]


def _merged(
    search: Search,
    answers: dict[int, list[Answer]],
    ranks: dict[int, _Ranks],
    missing: Sequence[str],
) -> Neighbors:
    """Return the nearest of what all shards have found."""
    lists: list[list[tuple[Any, Any, Any]]] = [[] for _ in range(search.query.n_images)]
    pairs, stages = 0, Counter[str]()
    for place, of_shard in answers.items():
        for answer, in_all in zip(of_shard, ranks[place], strict=True):
            for image, (sq_distances, of_part, cells) in zip(
                answer.images, answer.found, strict=True
            ):
                lists[image].append((sq_distances, in_all[of_part], cells))
            pairs += answer.stats.pairs
            stages.update(answer.stats.stages)
    merged = []
    for image, of_image in enumerate(lists):
        if sum(one[0].shape[1] for one in of_image) < search.k:
            raise StoreError(
                f"query image {image}: without the shards {', '.join(missing)} there are fewer "
                f"than k = {search.k} cells to search"
            )
        merged.append(_core.merge_found(of_image, search.k))
    return search.found(
        np.concatenate([one.sq_distances for one in merged]),
        np.concatenate([one.ranks for one in merged]),
        np.concatenate([one.cells for one in merged]),
        SearchStats(pairs, dict(stages)),
    )
