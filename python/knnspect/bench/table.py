"""What was measured, on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from knnspect.bench.results import BackendFigures, BenchReport

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["describe_case", "tables"]

#: Columns of a terminal; those of the labels; and of each further column beside its text.
_WIDTH, _LABEL, _BORDER = 80, 30, 3


#: Names of areas on a terminal.
_AREAS = {
    "image_auroc": "image AUROC",
    "map_max_auroc": "map AUROC",
    "pixel_auroc": "pixel AUROC",
}


def describe_case(case: dict[str, Any]) -> str:
    """Return what was searched, in one line or two.

    Parameters
    ----------
    case : dict
        That of a report.

    Returns
    -------
    str
        For people.

    Examples
    --------
    >>> from knnspect.bench import synthetic_case
    >>> print(describe_case(synthetic_case([(8, 8, 3)], n_images=3, n_queries=2).about))
    synthetic features, 8x8x3, bilinear, float32; k 1 in 3 images; 2 queries
    """
    levels = " + ".join("x".join(map(str, shape)) for shape in case["levels"])
    if case["kind"] == "search":
        what, where = f"{case['features']} features", f"{case['gallery_images']} images"
    else:
        what = f"{case['method']}, {case['backbone']}"
        where = (
            f"{case['rows_searched']} rows"
            if "rows_searched" in case
            else f"{case['images_searched']} of {case['gallery_images']} images"
        )
    return (
        f"{what}, {levels}, {case['upsample']}, {case['gallery_dtype']}; "
        f"k {case['k']} in {where}; {case['queries']} queries"
    )


def tables(report: BenchReport) -> list[Table]:
    """Return tables with a column for each backend, none wider than 80 columns.

    Parameters
    ----------
    report : BenchReport
        What was measured.

    Returns
    -------
    list of rich.table.Table
        More than one where the backends do not fit beside each other.

    Examples
    --------
    >>> from knnspect.bench import run_bench, synthetic_case
    >>> case = synthetic_case([(8, 8, 3)], n_images=3, n_queries=2)
    >>> report = run_bench(case, ["rust"], repeats=1, batch_sizes=[2], pause=0)
    >>> [column.header.plain for column in tables(report)[0].columns]
    ['', 'rust']
    """
    from rich.table import Table
    from rich.text import Text

    built = []
    for names in _fitting(list(report.backends)):
        table = Table()
        table.add_column(Text(""))
        for name in names:
            table.add_column(Text(name), justify="right", overflow="fold")
        columns = [dict(_rows(report.backends[name])) for name in names]
        for label in columns[0]:
            table.add_row(Text(label), *(Text(column.get(label, "")) for column in columns))
        built.append(table)
    return built


def _fitting(names: list[str]) -> Iterator[list[str]]:
    """Share names out among tables."""
    some: list[str] = []
    width = _LABEL
    for name in names:
        needed = max(len(name), 8) + _BORDER
        if some and width + needed > _WIDTH:
            yield some
            some, width = [], _LABEL
        some.append(name)
        width += needed
    yield some


def _rows(figures: BackendFigures) -> Iterator[tuple[str, str]]:
    for name, value in figures.ms.items():
        yield f"one image, ms, {name}", _ms(value)
    if len(figures.stages) > 1:
        for stage, values in figures.stages.items():
            yield f"  {stage}", _ms(values["p50"])
    yield "first search, ms", _ms(figures.cold_ms)
    yield "later searches, ms", _ms(figures.warm_ms)
    for size, rate in figures.images_per_s.items():
        yield f"images/s in batches of {size}", f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"
    yield "search memory, host, MB", f"{figures.host_added_bytes / 1e6:.1f}"
    if figures.device_peak_bytes is not None:
        yield "PyTorch memory, GPU, MB", f"{figures.device_peak_bytes / 1e6:.1f}"
    yield "recall", "exact" if figures.is_exact else f"{figures.recall:.4f}"
    if figures.accuracy is not None and figures.change is not None:
        for area in figures.accuracy:
            name = _AREAS[area]
            yield name, f"{figures.accuracy[area]:.4f}"
            yield f"  change of {name}", f"{figures.change[area]:+.5f}"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
