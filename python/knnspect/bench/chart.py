"""What was measured, as a picture."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knnspect.bench.results import BenchReport
from knnspect.bench.table import describe_case
from knnspect.errors import KnnspectError
from knnspect.files import replace_file

__all__ = ["check_matplotlib", "save_chart"]

#: Of Okabe and Ito, which the colour-blind can tell apart; "other" is what no stage counts.
_COLORS = {
    "decode": "#999999",
    "features": "#56B4E9",
    "retrieval": "#F0E442",
    "matching": "#D55E00",
    "map": "#009E73",
    "other": "#DDDDDD",
}
_INK = "#222222"

#: The slowest is so many times slower than the fastest when the fast ones are shown enlarged, too.
_TOO_SMALL = 5.0


def check_matplotlib() -> None:
    """Raise a KnnspectError that says what to do where there is no matplotlib.

    Examples
    --------
    >>> check_matplotlib()
    """
    if find_spec("matplotlib") is None:
        raise KnnspectError(
            'a chart needs matplotlib, which is not installed: pip install "knnspect[bench]"'
        )


def save_chart(report: BenchReport, path: Path) -> None:
    """Draw one bar for each backend: the stages of a single image, and how far p95 reaches.

    Parameters
    ----------
    report : BenchReport
        What was measured.
    path : Path
        The PNG file; replaced when the picture is complete.

    Raises
    ------
    KnnspectError
        If matplotlib is not installed.
    StoreError
        If the file cannot be written.
    """
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    medians = [figures.ms["p50"] for figures in report.backends.values()]
    fastest, slowest = min(medians), max(medians)
    n_panels = 2 if slowest > _TOO_SMALL * fastest else 1
    height = 1.5 + n_panels * (0.9 + 0.5 * len(report.backends))
    figure = Figure(figsize=(9, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(n_panels, squeeze=False)[:, 0]
    ends = [figures.ms["p95"] for figures in report.backends.values()]
    _draw(panels[0], report, 1.3 * max(ends))
    if n_panels == 2:
        near = [end for end, p50 in zip(ends, medians, strict=True) if p50 <= _TOO_SMALL * fastest]
        _draw(panels[1], report, 1.4 * max(near))
        panels[1].set_title("The same, enlarged", loc="left", fontsize=10, color=_INK)
    panels[0].set_title(
        f"Milliseconds for one image: median by stage, whisker to p95\n"
        f"{describe_case(report.case)}",
        loc="left",
        fontsize=10,
        color=_INK,
    )
    panels[-1].set_xlabel(f"ms    ({report.machine['cpu']})", color=_INK)
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white")
    replace_file(path, buffer.getvalue())


def _draw(axes: Any, report: BenchReport, limit: float) -> None:
    names = list(report.backends)
    places = range(len(names))
    lefts = [0.0] * len(names)
    for stage in _stages(report):
        widths = [_stage_ms(report, name, stage) for name in names]
        axes.barh(places, widths, 0.6, lefts, color=_COLORS[stage], label=stage)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for place, name in zip(places, names, strict=True):
        ms = report.backends[name].ms
        if ms["p50"] > limit:
            axes.text(
                0.99 * limit,
                place,
                f"{ms['p50']:.0f} ms →",
                ha="right",
                va="center",
                fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            )
            continue
        axes.errorbar(
            ms["p50"], place, xerr=[[0], [ms["p95"] - ms["p50"]]], color=_INK, capsize=4, lw=1.2
        )
        end = min(max(ms["p95"], lefts[place]), limit)
        digits = 1 if ms["p95"] < 100 else 0
        axes.annotate(
            f"{ms['p50']:.{digits}f} ms, p95 {ms['p95']:.{digits}f}",
            (end, place),
            (8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
        )
    axes.set_xlim(0, limit)
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.grid(axis="x", color="#E5E5E5", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _stages(report: BenchReport) -> list[str]:
    stages = list(next(iter(report.backends.values())).stages)
    return [*stages, "other"] if len(stages) > 1 else stages


def _stage_ms(report: BenchReport, name: str, stage: str) -> float:
    figures = report.backends[name]
    if stage == "other":
        return max(figures.ms["p50"] - sum(each["p50"] for each in figures.stages.values()), 0.0)
    return figures.stages[stage]["p50"]
