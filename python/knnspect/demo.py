"""The demonstration: find the broken solar cells."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from knnspect import metrics
from knnspect.data import elpv_split, read_image
from knnspect.data.own_pictures import SHEET
from knnspect.detectors import Spade
from knnspect.extras import require
from knnspect.report import ResultsFolder, SheetEntry, contact_sheet, save_png

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["run_demo"]

_N_SHOWN = 12


def run_demo(
    output: Path, n_workers: int, console: Console, backbone: str = "efficientnet_lite0"
) -> float:
    """Learn 200 functional mono-crystalline cells; judge 60 functional and 60 defective others.

    Parameters
    ----------
    output : Path
        Folder for ``contact_sheet.png``, ``scores.csv``, ``scores.json`` and the overlays.
    n_workers : int
        Threads that read images.
    console : rich.console.Console
        Where the results are printed.
    backbone : str, default "efficientnet_lite0"
        The network, of which an installed package has weights.

    Returns
    -------
    float
        The image AUROC.

    Raises
    ------
    KnnspectError
        If the package with the images, or with the weights, is not installed.
    StoreError
        If the results cannot be written.
    """
    start = time.perf_counter()
    split = elpv_split()  # first of all, as the extra that has its images has all the rest
    require("torch", "timm", "sklearn", for_="the demo")  # before the work, not within it
    spade = Spade().set_params(backbone__name=backbone, backbone__weights="package")
    spade.fit(_by_name(split.train), n_workers=n_workers, progress=True)
    results = ResultsFolder(output, spade.normal_map_max_)
    learnt = dict(spade.seconds_)

    images = [*split.functional, *split.defective]
    is_defective = [False] * len(split.functional) + [True] * len(split.defective)
    predictions = spade.predict(_by_name(images), n_workers=n_workers, progress=True)
    judged = dict(spade.seconds_)
    writing = time.perf_counter()
    for image, prediction in zip(images, predictions, strict=True):
        results.add(prediction, read_image(image))
    auroc = metrics.auroc(is_defective, [prediction.score for prediction in predictions])

    strongest = sorted(range(len(images)), key=lambda i: -predictions[i].score)[:_N_SHOWN]
    entries = [
        SheetEntry(
            read_image(images[i]),
            predictions[i].map / spade.normal_map_max_,
            images[i].name,
            f"{predictions[i].score / spade.normal_map_max_:.2f} times normal, "
            + ("defective" if is_defective[i] else "functional"),
        )
        for i in strongest
    ]
    sheet = contact_sheet(
        entries,
        "The strongest finds among 120 solar cells",
        f"SPADE with {backbone} learnt from {len(split.train)} functional cells; "
        f"image AUROC {auroc:.3f}",
        results.scale / spade.normal_map_max_,
    )
    save_png(sheet, output / SHEET)

    table = _table(learnt, judged, len(split.train), len(images))
    table.add_row("writing results", "", f"{time.perf_counter() - writing:.2f}", "")
    total = time.perf_counter() - start
    results.finish(
        {
            "method": spade.method,
            "score": spade.score,
            "image_auroc": auroc,
            "seconds": {"learn": learnt, "judge": judged, "total": total},
        }
    )
    console.print(table)
    console.print(
        f"image AUROC {auroc:.4f} on {len(images)} unseen cells, half of them defective\n"
        f"total {total:.1f} s\n"
        f"strongest finds: {output / 'contact_sheet.png'}\n"
        f"scores and overlays of all cells: {output}",
        soft_wrap=True,
    )
    return auroc


def _table(
    learnt: dict[str, float], judged: dict[str, float], n_learnt: int, n_judged: int
) -> Table:
    """Return the seconds of each stage."""
    from rich.table import Table

    table = Table(title="Seconds by stage", title_justify="left")
    table.add_column("stage")
    table.add_column(f"learn {n_learnt}", justify="right")
    table.add_column(f"judge {n_judged}", justify="right")
    table.add_column("ms per image judged", justify="right")
    names = {
        "decode": "waiting for images",
        "features": "features",
        "gallery": "gallery",
        "retrieval": "nearest images",
        "matching": "matching",
        "maps": "maps",
    }
    for stage, name in names.items():
        seconds = [learnt.get(stage), judged.get(stage)]
        cells = ["" if value is None else f"{value:.2f}" for value in seconds]
        each = "" if seconds[1] is None else f"{1000 * seconds[1] / n_judged:.1f}"
        table.add_row(name, *cells, each)
    return table


def _by_name(paths: list[Path]) -> dict[str, Path]:
    return {path.name: path for path in paths}
