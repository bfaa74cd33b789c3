"""The command ``knnspect info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.printing import figure, print_table

__all__ = ["info"]


def info(
    model: Annotated[
        Path, typer.Argument(help="A model, a gallery or a coreset: a file or a folder.")
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also read all images of a folder; a file is always read."),
    ] = False,
) -> None:
    """Say what a model or a gallery holds, and whether it is as it was written."""
    from knnspect.model_files.inspect import contents

    print_table(str(model), {name: figure(value) for name, value in contents(model, verify)})
