"""The command ``knnspect remove``."""

from __future__ import annotations

from typing import Annotated

import typer

from knnspect.cli.corrections import Model, correcting, said

__all__ = ["remove"]


def remove(
    model: Model,
    ids: Annotated[
        list[str],
        typer.Argument(help="Normal images of the model, or rejected ones, by their ids."),
    ],
) -> None:
    """Compare with some images no more, such as a defective one that was learnt.

    `rollback` brings them back.
    """
    with correcting(model) as detector:
        detector.remove(ids)
    typer.echo(said(model, detector))
