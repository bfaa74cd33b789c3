"""The command ``knnspect history``."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.corrections import Model

if TYPE_CHECKING:
    from knnspect.corrections import Correction

__all__ = ["history"]


def history(
    model: Model,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Write CSV, with a line for each image and its file.")
    ] = False,
) -> None:
    """List what was corrected since a model was fitted: which images came or went, and when."""
    from knnspect.model_files import corrections_of

    corrections = corrections_of(model)
    if as_csv:
        typer.echo(_csv(corrections), nl=False)
        return
    for correction in corrections:
        typer.echo(_line(correction))
    n = len(corrections)
    typer.echo(f"{model}: {n} correction{'' if n == 1 else 's'} since it was fitted", err=True)


def _line(correction: Correction) -> str:
    from knnspect.validation import some_ids

    what = f"to {correction.to}" if correction.to is not None else some_ids(correction.images)
    name = f" as {correction.name}" if correction.name else ""
    n = f" {len(correction.images)}:" if len(correction.images) > 1 else ""
    return f"{correction.number}\t{correction.time}\t{correction.kind}{n} {what}{name}"


def _csv(corrections: tuple[Correction, ...]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["correction", "time", "kind", "image", "file", "name", "to"])
    for one in corrections:
        to = "" if one.to is None else one.to
        for image in one.images or ("",):
            came = one.added.get(image)
            file = "" if came is None else came.file
            rows.writerow([one.number, one.time, one.kind, image, file, one.name, to])
    return text.getvalue()
