"""The scores of normal and of judged images, as bars over one axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bar", "Histogram", "Row", "histogram"]

_ROW = 84  # the height of the bars of a row
_HEAD = 24  # that of the words above them
_TOP = 18  # room for the threshold's words
_MARGIN = 10
_FOOT = 26


@dataclass(frozen=True)
class Bar:
    """A bar, in units of the picture."""

    left: float
    top: float
    width: float
    height: float
    kind: str
    words: str


@dataclass(frozen=True)
class Row:
    """The bars of one set of images."""

    label: str
    top: float
    base: float
    bars: list[Bar]


@dataclass(frozen=True)
class Histogram:
    """What is drawn."""

    width: int
    height: int
    rows: list[Row]
    ticks: list[tuple[float, str]]
    threshold: float | None
    threshold_label: str
    threshold_anchor: str
    axis: float
    words: str


def histogram(
    normal: NDArray[np.float64] | None,
    judged: Sequence[float],
    threshold: float | None,
    width: int,
) -> Histogram:
    """Return a histogram of the scores that calibrate, if there are some, and of those judged.

    Parameters
    ----------
    normal : ndarray of float, shape (n,), optional
        Scores of normal images.
    judged : sequence of float
        Scores of the images that were judged; at least one.
    threshold : float, optional
        The score above which an image is anomalous.
    width : int
        Of the picture; words have the same size in all.

    Examples
    --------
    >>> drawn = histogram(np.array([1.0, 2.0]), [1.5, 4.0], 2.0, width=400)
    >>> [row.label for row in drawn.rows], drawn.threshold_label
    (['2 normal images that calibrate', '2 judged images'], 'threshold 2')
    """
    of_judged = np.asarray(judged, np.float64)
    values = [of_judged] if normal is None else [np.asarray(normal), of_judged]
    together = np.concatenate(values)
    low, high = float(together.min()), float(together.max())
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    room = (high - low or abs(high) or 1.0) * 0.04
    low, high = low - room, high + room
    n_bins = max(12, min(width // 12, 48))
    edges = np.linspace(low, high, n_bins + 1)
    if threshold is not None:  # no bar lies on both sides of it
        edges[int(np.abs(edges - threshold).argmin())] = threshold
    scale = (width - 2 * _MARGIN) / (high - low)

    def x(value: float) -> float:
        return round(_MARGIN + (value - low) * scale, 1)

    labels = [f"{_count(len(judged), 'judged image')}"]
    if normal is not None:
        labels.insert(0, f"{_count(len(normal), 'normal image')} that calibrate")
    rows = []
    for number, (label, scores) in enumerate(zip(labels, values, strict=True)):
        top = _TOP + _HEAD + number * (_HEAD + _ROW)
        rows.append(_row(label, scores, edges, x, top, threshold, normal is None or number == 1))
    axis = rows[-1].base
    at = None if threshold is None else x(threshold)
    return Histogram(
        width,
        round(axis + _FOOT),
        rows,
        [(x(tick), f"{tick:.6g}") for tick in _ticks(low, high, max(3, width // 110))],
        at,
        "" if threshold is None else f"threshold {threshold:.4g}",
        "start" if at is not None and at < width * 0.6 else "end",
        axis,
        _words(normal, of_judged, threshold),
    )


def _row(
    label: str,
    scores: NDArray[np.float64],
    edges: NDArray[np.float64],
    x: Callable[[float], float],
    top: float,
    threshold: float | None,
    is_judged: bool,
) -> Row:
    # Like the decision: what equals the threshold lies below it.
    places = np.clip(np.searchsorted(edges, scores, "left") - 1, 0, len(edges) - 2)
    counts = np.bincount(places, minlength=len(edges) - 1)
    bars = []
    for place in np.flatnonzero(counts):
        left, right = x(float(edges[place])), x(float(edges[place + 1]))
        height = max(2.0, round(_ROW * float(counts[place] / counts.max()), 1))
        kind = "calibration"
        if is_judged:
            above = threshold is not None and edges[place] >= threshold
            kind = "anomalous" if above else "normal" if threshold is not None else "unknown"
        words = (
            f"{_count(int(counts[place]), 'image')} from {edges[place]:.4g} "
            f"to {edges[place + 1]:.4g}"
        )
        bars.append(
            Bar(
                left,
                round(top + _ROW - height, 1),
                max(1.0, round(right - left - 1, 1)),
                height,
                kind,
                words,
            )
        )
    return Row(label, top - 8, top + _ROW, bars)


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Return round numbers between two others.

    >>> _ticks(0.0, 1.0, 4)
    [0.0, 0.5, 1.0]
    """
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _words(
    normal: NDArray[np.float64] | None, judged: NDArray[np.float64], threshold: float | None
) -> str:
    parts = [
        f"{_count(len(scores), name)} from {scores.min():.4g} to {scores.max():.4g}, "
        f"median {np.median(scores):.4g}"
        for name, scores in (("normal image", normal), ("judged image", judged))
        if scores is not None
    ]
    if threshold is not None:
        above = int((judged > threshold).sum())
        parts.append(f"threshold {threshold:.4g}, with {above} of the judged images above it")
    return "Scores of images: " + "; ".join(parts) + "."


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
