"""The command ``knnspect evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.options import (
    BatchSize,
    Config,
    GoodNames,
    Method,
    Workers,
    build_detector,
    good_names,
)
from knnspect.cli.places import check_writable
from knnspect.cli.printing import figure, print_table

if TYPE_CHECKING:
    from knnspect.detectors import Detector

__all__ = ["evaluate"]


def evaluate(
    dataset: Annotated[Path, typer.Argument(help="Dataset in MVTec layout.")],
    *,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the figures to this file.")
    ] = None,
    good: GoodNames = "good",
    method: Method = "spade",  # noqa: ARG001 - it was read before: `kind`
    config: Config = None,  # noqa: ARG001
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    kind: type[Detector],
    given: dict[str, str],
) -> None:
    """Fit on train/good, judge test/*, and compare with ground_truth/*."""
    from knnspect.data import MVTecDataset
    from knnspect.evaluation import evaluate as run_evaluation
    from knnspect.files import replace_file

    if json_file is not None:
        check_writable(json_file)
    evaluation, _ = run_evaluation(
        build_detector(kind, given),
        MVTecDataset(dataset, good_names(good)),
        batch_size=batch_size,
        n_workers=workers,
        progress=True,
    )
    figures = evaluation.to_dict()
    if json_file is not None:
        replace_file(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    seconds, reasons = figures.pop("seconds"), figures.pop("undefined", {})
    figures.pop("notes", None)  # which were said before the work
    figures |= {name: f"not defined: {reason}" for name, reason in reasons.items()}
    rows = {name.replace("_", " "): figure(value) for name, value in figures.items()}
    rows |= {f"seconds, {stage}": f"{value:.2f}" for stage, value in seconds.items()}
    print_table(str(dataset), rows)
