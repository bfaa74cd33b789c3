"""The command ``knnspect info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.printing import figure, print_table

__all__ = ["info"]


def info(
    model: Annotated[
        Path,
        typer.Argument(
            help="A model, a gallery or a coreset: a file or a folder; or an ONNX file, of which "
            "are listed the tensors that can be levels."
        ),
    ],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Also read all images of a folder; a file is always read."),
    ] = False,
) -> None:
    """Say what a model or a gallery holds, and whether it is as it was written."""
    from knnspect.features.opening import is_onnx_file

    if is_onnx_file(model.name):
        _list_tensors(model)
        return
    from knnspect.model_files.inspect import contents

    print_table(str(model), {name: figure(value) for name, value in contents(model, verify)})


def _list_tensors(path: Path) -> None:
    from knnspect.features.onnx.listing import listing

    found = listing(path)
    height, width = found.image_size
    rows = {
        "input": found.input,
        "outputs": found.outputs,
        "can be levels": f"{len(found.maps)} tensors: rows x columns x channels for an image of "
        f"{height} x {width} pixels, operator, name",
    }
    print_table(str(path), rows)
    for map_ in found.maps:
        # Not by rich, which would break long names.
        typer.echo(f"{'x'.join(map(str, map_.shape)):<14} {map_.operator:<18} {map_.name}")
