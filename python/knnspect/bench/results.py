"""What a run measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BackendFigures", "BenchReport"]


@dataclass(frozen=True)
class BackendFigures:
    """What was measured of one backend.

    Parameters
    ----------
    is_exact : bool
        Whether it is to give the neighbours of the contract; it did so then, on every query image.
    ms : dict of str to float
        "p50", "p95" and "p99" of a single image, from beginning to end, in milliseconds.
    stages : dict of str to dict
        The same of each stage of it: "decode", "features", "retrieval" (of normal images),
        "matching" (of cells), "map"; of a search of features "matching" alone.
    n_times : int
        How many times these figures are of: query images times repeats.
    cold_ms : float
        The first search, with all that the backend makes of the gallery; without a network.
    warm_ms : float
        Median of later searches, one for each query image; without a network.
    images_per_s : dict of str to float
        Images a second in batches of so many, from beginning to end.
    host_added_bytes : int
        The most anonymous memory that the process had in its first two searches, less what it had
        before; 0 where the system does not tell.
    host_peak_bytes : int
        The same with what it had before.
    device_peak_bytes : int or None
        The most memory that PyTorch had allocated on GPUs meanwhile, and None where it uses none;
        what other libraries allocate there is not known.
    recall : float
        The share of neighbours that are among the exact ones; 1 for an exact backend.
    accuracy : dict of str to float, optional
        "image_auroc", "map_max_auroc" and "pixel_auroc" of all test images, as far as they are
        defined.
    change : dict of str to float, optional
        Their differences from the Rust core's.
    """

    is_exact: bool
    ms: dict[str, float]
    stages: dict[str, dict[str, float]]
    n_times: int
    cold_ms: float
    warm_ms: float
    images_per_s: dict[str, float]
    host_added_bytes: int
    host_peak_bytes: int
    device_peak_bytes: int | None
    recall: float
    accuracy: dict[str, float] | None = None
    change: dict[str, float] | None = None


@dataclass(frozen=True)
class BenchReport:
    """What `run_bench` measures.

    Parameters
    ----------
    case : dict
        What was searched.
    settings : dict
        "threads" (None: all), "repeats", "batch_sizes", "pause_ms".
    machine : dict
        Where; see `machine`.
    gallery_bytes : int
        Of the features that are searched.
    backends : dict of str to BackendFigures
        By name, in the order in which they were given.
    unavailable : dict of str to str
        Backends that could not run, and why, or what is to be done.
    auto : dict of str to str
        "backend" and "reason": what ``backend="auto"`` means here, and why.
    """

    case: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any]
    gallery_bytes: int
    backends: dict[str, BackendFigures]
    unavailable: dict[str, str]
    auto: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything under its name, JSON-compatible."""
        return asdict(self)
