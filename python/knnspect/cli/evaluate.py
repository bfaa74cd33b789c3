"""The command ``knnspect evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.composing import ViewOptions
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
from knnspect.cli.printing import console, figure, print_columns, print_table

if TYPE_CHECKING:
    from knnspect.detectors import Detector
    from knnspect.evaluation import DecisionEvaluation, Evaluation
    from knnspect.metrics import Rate

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
    views: ViewOptions,
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
        views.before(build_detector(kind, given)),
        MVTecDataset(dataset, good_names(good)),
        batch_size=batch_size,
        n_workers=workers,
        progress=True,
    )
    figures = evaluation.to_dict()
    if json_file is not None:
        replace_file(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    _print(str(dataset), evaluation)


def _print(title: str, evaluation: Evaluation) -> None:
    figures = evaluation.to_dict()
    # The notes were said before the work; overlaps of images are for the file.
    for name in ("notes", "aupimo_by_image", "kinds", "decisions"):
        figures.pop(name, None)
    reasons, seconds = figures.pop("undefined", {}), figures.pop("seconds")
    rows: dict[str, str] = {}
    for name, value in figures.items():
        if name.endswith("_threshold") or name == "aupimo_median":
            continue
        text = "not defined" if value is None else figure(value)
        if value is not None and (threshold := figures.get(f"{name}_threshold")) is not None:
            text += f" at a threshold of {figure(threshold)}"
        if value is not None and name == "aupimo":
            text += f" (median {figure(figures['aupimo_median'])})"
        decided = getattr(evaluation.decisions, name.removesuffix("_max"), None)
        if name.endswith("_f1_max") and decided is not None:
            text += f"; decided: {figure(decided)}"
        if name == "peak_memory_mb":  # after all that says how good it is
            rows |= _rows_of_decisions(evaluation.decisions)
        rows[_words(name)] = text
    rows["seconds"] = ", ".join(f"{stage} {value:.2f}" for stage, value in seconds.items())
    print_table(title, rows)
    _print_reasons(reasons)
    _print_reasons_of_decisions(evaluation)
    if len(evaluation.kinds) > 1:
        _print_kinds(evaluation)


def _rows_of_decisions(decisions: DecisionEvaluation) -> dict[str, str]:
    """Return the rows that say how often images were called anomalous."""
    if decisions.false_alarm_rate is None:
        return {}
    asked = f"{decisions.false_alarm_rate:.4g}"
    return {
        "false alarms": _share(decisions.false_alarms, f"; {asked} asked"),
        "detections": _share(decisions.detections),
    }


def _share(rate: Rate | None, more: str = "") -> str:
    """Return a share with its interval, as it is printed."""
    if rate is None:
        return f"not defined{more}"
    return f"{rate.count} of {rate.total}: {_interval(rate)}{more}"


def _interval(rate: Rate) -> str:
    return f"{rate.rate:.3f} ({rate.low:.3f} to {rate.high:.3f})"


def _print_reasons_of_decisions(evaluation: Evaluation) -> None:
    """Print why decisions are not defined, but for what was said of the labels."""
    decisions = evaluation.decisions
    if decisions.false_alarm_rate is None:
        reason = decisions.undefined["false_alarm_rate"]
        console().print(f"false alarms, detections: not defined: {reason}")


def _print_kinds(evaluation: Evaluation) -> None:
    names = ("images", "image_auroc", "pixel_auroc", "aupro", "aupro_05", "aupimo")
    rows = [
        [
            kind,
            *("-" if getattr(own, name) is None else figure(getattr(own, name)) for name in names),
        ]
        for kind, own in evaluation.kinds.items()
    ]
    print_columns("by kind of defect", ("kind", *map(_words, names)), rows)
    for kind, own in evaluation.kinds.items():
        said = evaluation.undefined
        _print_reasons({n: why for n, why in own.undefined.items() if n not in said}, f"{kind}: ")
    if found := evaluation.decisions.kinds:
        called = [[kind, f"{r.count} of {r.total}", _interval(r)] for kind, r in found.items()]
        print_columns("detections", ("kind", "found", "share (95 % interval)"), called)


def _print_reasons(reasons: dict[str, str], where: str = "") -> None:
    """Print why figures are not defined, each reason once."""
    for reason in dict.fromkeys(reasons.values()):
        names = [_words(name) for name, why in reasons.items() if why == reason]
        names = [name for name in names if not name.endswith((" threshold", " median"))]
        console().print(f"{where}{', '.join(names)}: not defined: {reason}")


def _words(name: str) -> str:
    return {"aupro_05": "aupro .05"}.get(name, name.replace("_", " "))
