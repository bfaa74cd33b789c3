"""The command ``knnspect judge-unlabelled``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import typer

from knnspect.cli.judged import outside
from knnspect.cli.left_out import LeftOut
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers, build_detector
from knnspect.cli.places import check_results_folder
from knnspect.cli.predict import Maps
from knnspect.validation import check_count

if TYPE_CHECKING:
    from knnspect.cleaning import MutualScoring
    from knnspect.detectors import Detector

__all__ = ["judge_unlabelled"]


def judge_unlabelled(
    images: Annotated[Path, typer.Argument(help="Folder of images, most of them normal.")],
    output: Annotated[Path, typer.Option(help="Folder for overlays, scores.csv and scores.json.")],
    *,
    maps: Annotated[
        Maps | None, typer.Option(help="Also write the map of each image, float32, as it came.")
    ] = None,
    config: Config = None,  # noqa: ARG001 - it was read before
    max_memory: Annotated[
        str | None,
        typer.Option(help="Memory to use, such as 2GB: features go to a temporary folder."),
    ] = None,
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
    kind: type[Detector],
    given: dict[str, str],
) -> None:
    """Score images by each other, where none is known to be normal.

    Scores are relative to the folder: there is no threshold. Standard output has a line for each
    image: its score, a tab, its id.
    """
    from knnspect.data import open_to_judge
    from knnspect.report import ResultsFolder, check_apart

    check_results_folder(output)
    check_count("batch_size", batch_size)
    check_count("n_workers", workers, minimum=0)
    scoring = cast("MutualScoring", build_detector(kind, given))
    source = open_to_judge(scoring.backbone.opened(images))
    check_apart(output, images, [item.id for item in source])
    source = outside(output, source)
    items = {item.id: item for item in source}
    left_out = LeftOut()
    found = scoring.compare(
        source,
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
        progress=True,
        max_memory=max_memory,
    )
    typical = float(np.median(found.scores))
    results = ResultsFolder(
        output, np.nan, maps=None if maps is None else maps.value, scale=1.5 * typical
    )
    reader = scoring.backbone.reader()
    for prediction in found:
        results.add(prediction, reader.picture(items[prediction.id].read(reader)))
    about: dict[str, Any] = {"method": scoring.method, "score": "map", "share": scoring.share}
    results.finish(about | {"median_score": typical}, left_out.reasons)
    scored = zip(found.scores, found.ids, strict=True)
    typer.echo("\n".join(f"{score:.6g}\t{id_}" for score, id_ in scored))
    typer.echo(
        f"{output}: {len(results)} images, compared with each other{left_out.summary()}; scores "
        "are relative to them",
        err=True,
    )
