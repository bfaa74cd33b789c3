"""Rivals take turns: which backend is how fast here, after it was seen to be right."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from knnspect.backends import (
    Backend,
    auto_backend,
    available_backends,
    get_backend,
    unavailable_backends,
)
from knnspect.bench.accuracy import Labelled
from knnspect.bench.agreement import check_agreement, recall
from knnspect.bench.cases import Case, DetectorCase
from knnspect.bench.machine import machine
from knnspect.bench.results import BackendFigures, BenchReport
from knnspect.bench.timing import percentiles, synchronize, timed, turns
from knnspect.data import MVTecDataset
from knnspect.errors import DTypeError, ParameterError
from knnspect.memory import PeakMemory, anonymous_bytes
from knnspect.progress import Progress
from knnspect.validation import check_count

__all__ = ["run_bench"]


def run_bench(
    case: Case,
    backends: Sequence[str] | Mapping[str, str | Backend] | None = None,
    *,
    threads: int | None = None,
    repeats: int = 3,
    batch_sizes: Sequence[int] = (1, 8, 32),
    dataset: MVTecDataset | Labelled | None = None,
    pause: float = 0.05,
    progress: bool = False,
) -> BenchReport:
    """Measure backends on the same queries, in turns, after comparing what they find.

    Each backend searches once, cold. Then all of them search for every query image, and what they
    find is compared with what the Rust core finds. Only then are they timed.

    Parameters
    ----------
    case : Case
        What is searched.
    backends : sequence of str, or mapping of str to str or Backend, optional
        Which; all that can run here by default.
    threads : int, optional
        Threads of the search; by default all that the process may use.
    repeats : int, default 3
        How often each query image, and each batch, is timed with each backend.
    batch_sizes : sequence of int, default (1, 8, 32)
        Images that are handled together; smaller than the number of query images or larger.
    dataset : MVTecDataset or Labelled, optional
        Labelled images: what each backend changes in AUROC is told, too, as far as it is defined.
        Needs a `DetectorCase`.
    pause : float, default 0.05
        Seconds of rest before each turn.
    progress : bool, default False
        Report progress on standard error.

    Returns
    -------
    BenchReport
        The figures.

    Raises
    ------
    DisagreementError
        If a backend that is to be exact finds something else; nothing is timed then.
    ParameterError, DTypeError
        If an argument lies outside its values, there is no backend of a name, or k is too large.
    BackendUnavailable
        If a backend that was asked for cannot run here.

    Examples
    --------
    >>> from knnspect.bench import synthetic_case
    >>> case = synthetic_case([(8, 8, 3), (4, 4, 16)], n_images=3, n_queries=2)
    >>> report = run_bench(case, ["rust"], repeats=1, batch_sizes=[2], pause=0)
    >>> report.backends["rust"].recall, list(report.backends["rust"].images_per_s)
    (1.0, ['2'])
    """
    unavailable = unavailable_backends() if backends is None else {}
    rivals = _rivals(available_backends() if backends is None else backends)
    check_count("repeats", repeats)
    if threads is not None:
        check_count("threads", threads)
    for size in batch_sizes:
        check_count("batch_sizes", size)
    if dataset is not None and not isinstance(case, DetectorCase):
        raise DTypeError("dataset: expected none, as there is no detector that could judge it")
    labelled = Labelled(dataset) if isinstance(dataset, MVTecDataset) else dataset

    n_turns = len(case) + len(case) * repeats + len(batch_sizes) * repeats
    with Progress("bench", total=len(rivals) * n_turns, show=progress, unit="turns") as shown:
        run = _Run(case, rivals, threads, pause, shown)
        unavailable |= run.search_cold()
        run.compare()
        run.time_single(repeats)
        run.time_batches(batch_sizes, repeats)
    if labelled is not None and labelled.areas and isinstance(case, DetectorCase):
        run.judge(case, labelled, progress)
    return BenchReport(
        case=case.about | _about(labelled),
        settings={
            "threads": threads,
            "repeats": repeats,
            "batch_sizes": [int(size) for size in batch_sizes],
            "pause_ms": 1000 * pause,
        },
        machine=machine(),
        gallery_bytes=case.target.nbytes,
        backends={name: run.figures(name) for name in run.rivals},
        unavailable=unavailable,
        auto=dict(zip(("backend", "reason"), auto_backend(), strict=True)),
    )


def _about(labelled: Labelled | None) -> dict[str, Any]:
    if labelled is None:
        return {}
    undefined = {"undefined": labelled.undefined} if labelled.undefined else {}
    return {"labelled_images": len(labelled), **undefined}


def _rivals(backends: Sequence[str] | Mapping[str, str | Backend]) -> dict[str, Backend]:
    if not isinstance(backends, Mapping):
        for name in backends:
            if list(backends).count(name) > 1:
                raise ParameterError(f"backends: expected every one once, got {name!r} twice")
        backends = {name: name for name in backends}
    if not backends:
        raise ParameterError("backends: expected at least one, got none")
    return {name: get_backend(backend) for name, backend in backends.items()}


@dataclass
class _Taken:
    """What has been measured of a backend so far, in seconds and bytes."""

    cold: float = 0.0
    warm: list[float] = field(default_factory=list)
    single: dict[str, list[float]] = field(default_factory=dict)
    batches: dict[int, list[float]] = field(default_factory=dict)
    recalls: list[float] = field(default_factory=list)
    host_before: int = 0
    host_peak: int = 0
    device_peak: int | None = None
    accuracy: dict[str, float] | None = None


class _Run:
    """The phases of a run, in the order of the methods."""

    def __init__(
        self,
        case: Case,
        rivals: dict[str, Backend],
        threads: int | None,
        pause: float,
        shown: Progress,
    ) -> None:
        self.case, self.rivals, self.threads = case, rivals, threads
        self._pause, self._shown = pause, shown
        self._taken = {name: _Taken() for name in rivals}
        self._exact_accuracy: dict[str, float] | None = None

    def search_cold(self) -> dict[str, str]:
        """Let each search for the first time; return those for which the memory was too small."""
        failed = {}
        for name, backend in list(self.rivals.items()):
            taken = self._taken[name]
            gc.collect()
            taken.host_before = anonymous_bytes() or 0
            device = _DeviceMemory()
            try:
                with PeakMemory() as memory:
                    taken.cold, _ = timed(lambda b=backend: self.case.search(0, b, self.threads))  # type: ignore[misc]
                    self.case.search(0, backend, self.threads)
            except MemoryError as error:
                failed[name] = f"needs more memory than there is: {error}"
                del self.rivals[name]
                continue
            taken.host_peak, taken.device_peak = memory.peak, device.peak()
        if not self.rivals:
            raise MemoryError("; ".join(f"{name}: {why}" for name, why in failed.items()))
        return failed

    def compare(self) -> None:
        """Raise where an exact backend is not; measure the recall of the others."""
        for index in range(len(self.case)):
            exact = self.case.search(index, "rust", self.threads)
            for _, name, backend in turns(self.rivals, 1, self._pause):
                seconds, found = timed(
                    lambda b=backend, i=index: self.case.search(i, b, self.threads)  # type: ignore[misc]
                )
                self._taken[name].warm.append(seconds)
                if backend.capabilities.is_exact:
                    check_agreement(self.case, index, name, found, exact)
                    self._taken[name].recalls.append(1.0)
                else:
                    self._taken[name].recalls.append(recall(found, exact))
                self._shown.advance(1)

    def time_single(self, repeats: int) -> None:
        """Time each query image by itself, from beginning to end."""
        for backend in self.rivals.values():
            self.case.run([0], backend, self.threads)
        for index in range(len(self.case)):
            for _, name, backend in turns(self.rivals, repeats, self._pause):
                for stage, seconds in self.case.run([index], backend, self.threads).items():
                    self._taken[name].single.setdefault(stage, []).append(seconds)
                self._shown.advance(1)

    def time_batches(self, batch_sizes: Sequence[int], repeats: int) -> None:
        """Time images that are handled together; a query image may be in a batch several times."""
        for size in batch_sizes:
            indices = [place % len(self.case) for place in range(size)]
            for _, name, backend in turns(self.rivals, repeats, self._pause):
                seconds = self.case.run(indices, backend, self.threads)["total"]
                self._taken[name].batches.setdefault(size, []).append(seconds)
                self._shown.advance(1)

    def judge(self, case: DetectorCase, labelled: Labelled, progress: bool) -> None:
        """Judge labelled images with each, and with the Rust core."""
        with Progress("judging", len(self.rivals) + 1, progress, "backends") as shown:
            self._exact_accuracy = labelled.accuracy(case.with_backend("rust", self.threads))
            shown.advance(1)
            for name, backend in self.rivals.items():
                detector = case.with_backend(backend, self.threads)
                self._taken[name].accuracy = labelled.accuracy(detector)
                shown.advance(1)

    def figures(self, name: str) -> BackendFigures:
        """Return what was measured of one."""
        taken = self._taken[name]
        change = None
        if taken.accuracy is not None and self._exact_accuracy is not None:
            exact = self._exact_accuracy
            change = {area: value - exact[area] for area, value in taken.accuracy.items()}
        return BackendFigures(
            is_exact=self.rivals[name].capabilities.is_exact,
            ms=percentiles(taken.single["total"]),
            stages={stage: percentiles(taken.single[stage]) for stage in self.case.stages},
            n_times=len(taken.single["total"]),
            cold_ms=round(1000 * taken.cold, 3),
            warm_ms=round(1000 * float(np.median(taken.warm)), 3),
            images_per_s={
                str(size): round(size / float(np.median(seconds)), 3)
                for size, seconds in taken.batches.items()
            },
            host_added_bytes=max(taken.host_peak - taken.host_before, 0),
            host_peak_bytes=taken.host_peak,
            device_peak_bytes=taken.device_peak,
            recall=float(np.mean(taken.recalls)),
            accuracy=taken.accuracy,
            change=change,
        )


class _DeviceMemory:
    """The most memory of GPUs that PyTorch has allocated since this was made."""

    def __init__(self) -> None:
        synchronize()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int | None:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return None
        return sum(
            int(torch.cuda.max_memory_allocated(device))
            for device in range(torch.cuda.device_count())
        )
