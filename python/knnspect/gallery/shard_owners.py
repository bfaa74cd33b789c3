"""A sharded gallery that processes of a cluster fill, each its own shard."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from knnspect import _core
from knnspect.cluster import Asked, Cluster, ProcessDied
from knnspect.errors import BackendUnavailable, KnnspectError, StoreError
from knnspect.gallery.manifest import Manifest, read_manifest
from knnspect.gallery.shard_owner import Change, ShardOwner
from knnspect.search.shards import Shard, Shards

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["ShardOwners", "patiently"]

_T = TypeVar("_T")

#: Seconds in which the processes of a fit that was killed end, and give back their shards.
_PATIENCE = 20
#: Seconds within which a process has to say what has become of its shard.
_TIMEOUT = 300
#: How often a process is started that dies at once.
_STARTS = 3
#: Processes that are started at the same time.
_AT_ONCE = 16


class ShardOwners:
    """Processes that add images to the shards of a gallery, which no other process can change.

    Each has its shard open for writing; this process has the manifest. `changes` has them write
    what they were given, and this counts once `commit` has named the new states in the manifest. A
    process that dies is not restarted: what it was given after the last commit is gone.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    home : Path
        The folder of the gallery, which all nodes reach under this path.

    Raises
    ------
    StoreError
        If the gallery is being written by another process, or a shard cannot be opened on its node;
        the message names both.
    BackendUnavailable
        If there is no cluster, or a node has another version of knnspect.
    """

    def __init__(self, cluster: Cluster, home: Path) -> None:
        self.owners: list[Asked] = []
        #: Those whose processes have died.
        self._gone: set[Asked] = set()
        #: What was written, and does not count yet.
        self._written: list[Change] = []
        self._lock = _core.FolderLock(home)
        try:
            self._manifest: Manifest = read_manifest(home)
            cluster.connect()
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="knnspect-owners") as pool:
                started = pool.map(partial(_started, cluster, home), self.shards.shards)
                self.owners += started
            for owner in self.owners:
                patiently(partial(_open, owner))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def shards(self) -> Shards:
        """The shards, in the states that count."""
        return self._manifest.shards

    def changes(self) -> tuple[list[Change], KnnspectError | None]:
        """Have the processes write what they were given.

        As long as this was not committed, it is returned again, and nothing more is written: a
        shard may be one change ahead of the manifest, and no more.

        Returns
        -------
        list of Change, KnnspectError or None
            What has become of the shards; of those that could not be written, or whose process has
            died, the first error.
        """
        if self._written:
            return self._written, None
        asked = [(owner, owner.ask("change")) for owner in self.owners if owner not in self._gone]
        until = time.monotonic() + _TIMEOUT
        answers = [_answered(owner, reference, until) for owner, reference in asked]
        for (owner, _), answer in zip(asked, answers, strict=True):
            if isinstance(answer, ProcessDied):  # or it is too late: what it says is not heard
                self._gone.add(owner)
                owner.stop()
        errors = [answer for answer in answers if isinstance(answer, KnnspectError)]
        self._written = [answer for answer in answers if isinstance(answer, Change)]
        return self._written, next(iter(errors), None)

    def commit(self) -> None:
        """Have what `changes` has returned count, in one step.

        Raises
        ------
        StoreError
            If the manifest cannot be written; then none of it counts.
        """
        new = {change.shard.name: change.shard for change in self._written}
        shards = [new.get(shard.name, shard) for shard in self.shards.shards]
        if tuple(shards) != self.shards.shards:
            manifest = self._manifest.after(shards)
            try:
                manifest.write()
            except BaseException:
                # What came late, such as Ctrl-C, may have found it written.
                if read_manifest(self.shards.home).version != manifest.version:
                    raise
            self._manifest = manifest
        self._written = []

    def close(self) -> None:
        """End the processes; what they were given after the last commit is gone."""
        for owner in self.owners:
            with suppress(BackendUnavailable):
                owner.answer(owner.ask("close"), _PATIENCE)
            owner.stop()
        self.owners = []
        self._lock.close()


def _started(cluster: Cluster, home: Path, shard: Shard) -> Asked:
    start = partial(Asked.start, cluster, f"shard {shard.name}", ShardOwner, home, shard.name)
    for _ in range(_STARTS - 1):
        with suppress(ProcessDied):  # its node has died, and Ray takes another one
            return start()
    return start()


def _open(owner: Asked) -> None:
    owner.answer(owner.ask("open"), _TIMEOUT)


def _answered(owner: Asked, reference: Any, until: float) -> Change | KnnspectError:
    try:
        answer: Change = owner.answer(reference, max(0.0, until - time.monotonic()))
    except KnnspectError as error:
        return error
    return answer


def patiently(open_: Callable[[], _T]) -> _T:
    """Open what is to be written, as soon as the processes of a fit that was killed have ended.

    Raises
    ------
    StoreError
        If another process has it still after some time, or it cannot be opened.
    """
    until = time.monotonic() + _PATIENCE
    while True:
        found, error = _tried(open_)
        if error is None:
            return cast("_T", found)
        if "is open for writing" not in str(error) or time.monotonic() > until:
            raise error
        time.sleep(0.2)


def _tried(open_: Callable[[], _T]) -> tuple[_T | None, StoreError | None]:
    try:
        return open_(), None
    except StoreError as error:
        return None, error
