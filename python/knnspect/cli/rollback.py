"""The command ``knnspect rollback``."""

from __future__ import annotations

from typing import Annotated

import typer

from knnspect.cli.corrections import Model, correcting, said

__all__ = ["rollback"]


def rollback(
    model: Model,
    to: Annotated[
        int, typer.Option(help="The number of a correction, as `history` lists it; 0: as fitted.")
    ],
) -> None:
    """Make a model what it was after a correction.

    This is a correction, too, which can be rolled back.
    """
    with correcting(model) as detector:
        detector.rollback(to)
    typer.echo(said(model, detector))
