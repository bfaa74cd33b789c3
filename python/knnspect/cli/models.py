"""Models that commands judge with, and the options of how they do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.options import check_option, flag, parsed
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.detectors import Detector
    from knnspect.detectors.composed import AnyDetector

__all__ = [
    "Backend",
    "Device",
    "FalseAlarmRate",
    "MaxPixels",
    "Threads",
    "load_alone",
    "load_to_judge",
]

Backend = Annotated[
    str | None, typer.Option(help="Methods that search: what searches; auto by default.")
]
Threads = Annotated[str | None, typer.Option(help="Methods that search: threads; all by default.")]
Device = Annotated[
    str | None, typer.Option(help="cpu or cuda; CUDA where there is one by default.")
]
MaxPixels = Annotated[
    str | None, typer.Option(help="Pixels that an image may have; 200MP by default.")
]

FalseAlarmRate = Annotated[
    str | None,
    typer.Option(
        help="The share of normal images that may be called anomalous; the model's own by default.",
        metavar="NUM",
    ),
]


def load_to_judge(
    model: Path,
    device: str | None,
    backend: str | None,
    threads: str | None,
    max_pixels: str | None,
    false_alarm_rate: str | None = None,
) -> AnyDetector:
    """Return the detector of a model, with the settings of this machine.

    Raises
    ------
    StoreError
        If the model cannot be read.
    ParameterError
        If an option belongs to other methods, or its value is none of the option's.
    """
    from knnspect.detectors.composed import Composed, load_any

    detector = load_any(model, device=device)
    for each in detector.leaves_ if isinstance(detector, Composed) else [detector]:
        for name, text in (("backend", backend), ("threads", threads)):
            if text is not None:
                check_option(flag(name), type(each))
                each.set_params(**{name: parsed(each.parameters[name], text)})
    if max_pixels is not None:
        declared = detector.backbone.parameters["max_pixels"]
        detector.backbone.max_pixels = parsed(declared, max_pixels)
    if false_alarm_rate is not None:
        declared = detector.parameters["false_alarm_rate"]
        detector.set_params(false_alarm_rate=parsed(declared, false_alarm_rate))
    detector.check_params()
    return detector


def load_alone(
    model: Path,
    device: str | None,
    backend: str | None,
    threads: str | None,
    max_pixels: str | None,
) -> Detector:
    """Return the same of a model that is not composed of others.

    Raises
    ------
    ParameterError
        If it is; also as `load_to_judge`.
    """
    from knnspect.detectors import Composed

    detector = load_to_judge(model, device, backend, threads, max_pixels)
    if isinstance(detector, Composed):
        raise ParameterError(
            f"{model}: is composed of several detectors ({detector.method}), which this command "
            "does not take: fit it anew, or judge with it"
        )
    return detector
