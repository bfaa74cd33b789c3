"""Pieces of work that go through processes of a cluster, by Ray Data."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.cluster.asking import ProcessDied
from knnspect.cluster.connection import Cluster
from knnspect.cluster.pools import Pool
from knnspect.cluster.worker import Worker
from knnspect.errors import BackendUnavailable, DTypeError
from knnspect.extras import require

__all__ = ["Pieces", "StreamWorker", "streamed"]

#: Seconds after which a caller that waits for an answer may do something else.
_WAIT = 0.5
#: Of Ray Data's messages only these are shown on standard error; all are in its log.
_SHOWN = logging.CRITICAL


class StreamWorker(Worker):
    """The base of classes whose objects work on pieces, one after the other."""

    def work(self, piece: Any) -> Any:
        """Return what is made of a piece; an error is raised where the answers are read."""
        raise NotImplementedError


class Pieces:
    """Pieces of work, as what can be sent to other processes."""

    def __init__(self) -> None:
        require("ray", "pyarrow", for_="a fit on a cluster", error=BackendUnavailable)
        self._packed: list[bytes] = []

    def __len__(self) -> int:
        return len(self._packed)

    def add(self, piece: object, name: str) -> None:
        """Add a piece, as it is now.

        Raises
        ------
        DTypeError
            If it cannot be sent; the message names it.
        """
        try:
            self._packed.append(_packed(piece))
        except Exception as error:  # of whatever lies in it
            raise DTypeError(
                f"{name}: cannot be sent to other processes: {error or type(error).__name__}"
            ) from error

    def rows(self) -> list[dict[str, bytes]]:
        """Return them as rows of a dataset."""
        return [{"piece": piece} for piece in self._packed]


def streamed(
    cluster: Cluster,
    worker: type[StreamWorker],
    args: Sequence[Any],
    pieces: Pieces,
    pool: Pool,
    timeout: float,
) -> Generator[Any, None, None]:
    """Yield what processes make of pieces, in the order of the pieces.

    Ray Data sends the pieces to the processes, restarts those that die, and asks them again. It
    reads ahead by a few pieces for each process. Leaving the iterator early ends the processes.

    Parameters
    ----------
    cluster : Cluster
        Where they run.
    worker : type of StreamWorker
        The class of the object in each process, which is made there with `args`.
    args : sequence
        What it is made with.
    pieces : Pieces
        The work.
    pool : Pool
        The processes.
    timeout : float
        Seconds within which the next answer has to come.

    Yields
    ------
    object
        The next answer; None if there was none for a moment.

    Raises
    ------
    ProcessDied
        If the processes die again and again, or no answer comes in time.
    Exception
        What an object has raised; an OSError of its node as a BackendUnavailable.
    """
    from ray import data  # noqa: F401 - it says where its messages go

    waited, n_answers = 0.0, 0
    with _quiet():
        rows = _Rows(cluster, worker, args, pieces, pool)
        try:
            while n_answers < len(pieces):
                answer = rows.next()
                if answer is None:
                    waited += _WAIT
                    if waited >= timeout:
                        raise ProcessDied(f"no images were learnt within {timeout:g} s")
                    yield None
                    continue
                waited, n_answers = 0.0, n_answers + 1
                value = _unpacked(answer)
                if isinstance(value, _Raised):
                    raise value.error
                yield value
        finally:
            rows.stop()


class _Rows:
    """The answers, which a thread reads from Ray Data."""

    def __init__(
        self,
        cluster: Cluster,
        worker: type[StreamWorker],
        args: Sequence[Any],
        pieces: Pieces,
        pool: Pool,
    ) -> None:
        from ray import data

        cluster.connect()
        self._found: SimpleQueue[bytes | BaseException] = SimpleQueue()
        self._is_stopped = False
        items = data.from_items(pieces.rows(), override_num_blocks=len(pieces))
        self._dataset: Any = items.map_batches(
            _Process,
            batch_size=1,
            batch_format="numpy",
            compute=data.ActorPoolStrategy(size=min(pool.n_actors, len(pieces))),
            fn_constructor_args=(worker, tuple(args), pool.n_threads, _core.__version__),
            num_cpus=0 if pool.num_gpus else 1,
            num_gpus=pool.num_gpus or None,
        )
        context = self._dataset.context
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        self._thread = threading.Thread(target=self._read, name="knnspect-stream", daemon=True)
        self._thread.start()

    def next(self) -> bytes | None:
        """Return the next answer; None if there is none for a moment."""
        try:
            found = self._found.get(timeout=_WAIT)
        except Empty:
            return None
        if isinstance(found, BaseException):
            reason = next(iter(str(found).splitlines()), type(found).__name__)
            raise ProcessDied(f"the processes that extract features: {reason}") from found
        return found

    def stop(self) -> None:
        self._is_stopped = True
        # Ray Data ends with its dataset, but not while a thread waits for it.
        executor = getattr(self._dataset, "_current_executor", None)
        if executor is not None:
            executor.shutdown(force=True)
        self._thread.join(_WAIT)

    def _read(self) -> None:
        try:
            for row in self._dataset.iter_rows():
                if self._is_stopped:
                    return
                self._found.put(row["answer"])
        except BaseException as error:  # handed on, to be raised by the thread that waits for it
            self._found.put(error)


class _Process:
    """What Ray Data has in each of its processes."""

    def __init__(
        self, worker: type[StreamWorker], args: tuple[Any, ...], n_threads: int, version: str
    ) -> None:
        # Before what computes is loaded, which reads it then.
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
        self._make = worker, args
        self._made: StreamWorker | None = None
        self._version = version

    def __call__(self, batch: dict[str, Any]) -> dict[str, NDArray[Any]]:
        answers = np.empty(len(batch["piece"]), object)
        answers[:] = [self._answer(piece) for piece in batch["piece"]]
        return {"answer": answers}

    def _answer(self, piece: bytes) -> bytes:
        try:
            if self._made is None:
                worker, args = self._make
                self._made = worker(*args)
                self._check_version()
            answer = self._made.work(_unpacked(piece))
        except Exception as error:
            answer = _Raised(self._told(error))
        return _packed(answer)

    def _check_version(self) -> None:
        about = Worker().about()
        if about.version != self._version:
            raise BackendUnavailable(
                f"node {about.node} has knnspect {about.version}, the process that fits has "
                f"{self._version}: install the same"
            )

    def _told(self, error: Exception) -> Exception:
        """Return an error as it can be sent."""
        try:
            _unpacked(_packed(error))
        except Exception:  # it is raised elsewhere by its words
            node = Worker().about().node
            return BackendUnavailable(f"node {node}: {type(error).__name__}: {error}")
        return error


@dataclass(frozen=True)
class _Raised:
    """An error, as an answer."""

    error: Exception


def _packed(value: object) -> bytes:
    from ray import cloudpickle

    dumps: Any = cloudpickle.dumps
    packed: bytes = dumps(value)
    return packed


def _unpacked(answer: bytes) -> Any:
    from ray import cloudpickle

    return cloudpickle.loads(answer)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's messages off standard error; what goes wrong is raised."""
    handlers = [
        handler
        for handler in logging.getLogger("ray.data").handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(_SHOWN)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
