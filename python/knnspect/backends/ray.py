"""Ray as a backend: the shards of a gallery are searched by processes of a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from knnspect.backends.ray_actors import ShardActors
from knnspect.backends.ray_host import Answer
from knnspect.backends.ray_requests import Request, Requests, TooFewCells, merged
from knnspect.cluster import Cluster
from knnspect.errors import BackendUnavailable, KnnspectError, StoreError
from knnspect.search import Capabilities, Neighbors, Search
from knnspect.search.shards import Shards
from knnspect.validation import check_count, check_positive

__all__ = ["RayBackend"]


class RayBackend:
    """Searches the shards of a `ShardedGallery` by processes (actors) of a Ray cluster.

    There is one on each node, or as many as asked for. Shards are dealt out to them, and opened
    there memory-mapped, in the state that the gallery has here. Shards of one process are searched
    together, so that what is found in one limits what is looked for in the others. A query is sent
    once, each process answers with its exact `k` nearest, and these are merged by (distance, image
    id, row, column), with distances in float64: the results are the same to the bit as those of one
    process. Only shards that hold images that are asked for are searched, as those of SPADE's image
    stage. Actors stay for later searches, of this gallery or another one.

    What is not in shards is left to the Rust core in this process: other galleries, coresets, and
    searches with a window and a `k` beyond the cells that the shards of a process have within it.

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
        How often shards are asked whose process has died meanwhile.
    processes : int, default 1
        How many there are on each node, but not more than shards. With as many as shards each has
        one of its own; they share the cores of the node, and each prepares the query.

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
    RayBackend('ray://10.0.0.1:10001', allow_missing=False, timeout=20.0, attempts=3, processes=1)
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
        processes: int = 1,
    ) -> None:
        # "ray://host" as a word for a backend is "ray", a colon and the rest.
        is_rest = isinstance(address, str) and address.startswith("//")
        cluster = Cluster(f"ray:{address}" if is_rest else address, "backend 'ray'")
        self.address = cluster.address
        self.allow_missing = bool(allow_missing)
        self.timeout = check_positive("timeout", timeout)
        self.attempts = check_count("attempts", attempts)
        self.processes = check_count("processes", processes)
        self._actors = ShardActors(cluster, self.attempts, self.processes)
        self._known_owners: tuple[Shards, NDArray[np.intp]] | None = None

    def __reduce__(self) -> tuple[Callable[..., RayBackend], tuple[str | None]]:
        make = partial(
            RayBackend,
            allow_missing=self.allow_missing,
            timeout=self.timeout,
            attempts=self.attempts,
            processes=self.processes,
        )
        return make, (self.address,)

    def __repr__(self) -> str:
        return (
            f"RayBackend({self.address!r}, allow_missing={self.allow_missing}, "
            f"timeout={self.timeout}, attempts={self.attempts}, processes={self.processes})"
        )

    def search(self, search: Search) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of the query; see `Gallery.search`."""
        shards = search.shards
        if shards is None or not search.query.n_images:
            return search.left_to_core()
        self._actors.connect()
        n_shards = len(shards.shards)
        n_places = self._actors.n_places(n_shards)
        requests = Requests(search, shards, self._owners(search, shards))
        try:
            of_places = [requests.of(range(at, n_shards, n_places)) for at in range(n_places)]
        except TooFewCells:
            return search.left_to_core()
        asked = {place: request for place, request in enumerate(of_places) if request}
        answers, missing = self._ask(search, requests, asked)
        found = merged(search, answers, missing)
        return replace(found, missing=(*shards.missing, *missing))

    def stop(self) -> None:
        """End the processes of the shards; the next search starts them again."""
        self._actors.stop()

    def _owners(self, search: Search, shards: Shards) -> NDArray[np.intp]:
        """Return the shard of each image of a search; for all images of a gallery they are kept."""
        if len(search.ranks(0)) != shards.n_images:
            return shards.owners(search.image_ids)
        known = self._known_owners
        if known is None or known[0] is not shards:
            known = self._known_owners = (shards, shards.owners(search.image_ids))
        return known[1]

    def _ask(
        self, search: Search, requests: Requests, asked: dict[int, Request]
    ) -> tuple[list[tuple[Request, list[Answer]]], list[str]]:
        """Ask processes, by their places; return the answers, and the shards that are left out.

        A process that dies is restarted, and asked again, by Ray; one that Ray gave up, here.
        """
        deadline = time.monotonic() + self.timeout
        levels = [np.ascontiguousarray(level) for level in search.query.levels]
        ask = partial(
            self._actors.ask,
            window=search.window,
            threads=search.threads,
            query=self._actors.send(levels, len(asked)),
            n_asked=Counter(self._actors.node(place) for place in asked),
        )
        pending = {place: ask(place, request) for place, request in asked.items()}
        n_asked = Counter(pending.keys())
        answers: list[tuple[Request, list[Answer]]] = []
        missing: list[str] = []
        try:
            while pending:
                place = next(iter(pending))
                request = asked[place]
                answer = self._actors.answer(pending[place], deadline - time.monotonic())
                if isinstance(answer, list):
                    answers.append((request, answer))
                    del pending[place]
                elif answer is None and n_asked[place] < self.attempts:
                    n_asked[place] += 1
                    pending[place] = ask(place, request, again=True)
                elif isinstance(answer, dict) and self.allow_missing:
                    missing.extend(answer)
                    del pending[place]
                    if less := _without(requests, request, missing):
                        asked[place] = less
                        pending[place] = ask(place, less)
                else:
                    raise self._failed(request, answer)
        except BaseException:
            # They would go on, and keep the next search waiting.
            for place in pending:
                self._actors.interrupt(place)
            raise
        return answers, missing

    def _failed(
        self, request: Request, answer: dict[str, StoreError] | BaseException | None
    ) -> BaseException:
        if isinstance(answer, dict):
            return next(iter(answer.values()))
        if isinstance(answer, KnnspectError):
            return answer
        shards = [request.shards[at] for at in request.asked]
        names = ", ".join(f"{shard.name} ({shard.path})" for shard in shards)
        process = f"the process of the shard{'' if len(shards) == 1 else 's'} {names} has"
        if isinstance(answer, TimeoutError):
            return BackendUnavailable(f"{process} not answered within {self.timeout:g} s")
        reason = "" if answer is None else f": {answer}"
        return BackendUnavailable(f"{process} died {self.attempts} times{reason}")


def _without(requests: Requests, request: Request, missing: list[str]) -> Request | None:
    """Return what is asked of shards without those that are missing; None if nothing is left."""
    try:
        return requests.of(request.numbers, missing)
    except TooFewCells:
        raise StoreError(
            f"without the shards {', '.join(missing)} there are fewer cells within the window than "
            "neighbours are asked for"
        ) from None
