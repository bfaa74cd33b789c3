"""Decisions: the options of calibrating, and what a model promises, in words."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.errors import CalibrationError

if TYPE_CHECKING:
    from knnspect.detectors.composed import AnyDetector

__all__ = ["EXIT_OF_ANOMALY", "Blocks", "BlocksBy", "check_decides", "promise"]

EXIT_OF_ANOMALY = 3


class BlocksBy(str, Enum):
    """What tells which images belong together."""

    FOLDER = "folder"


Blocks = Annotated[
    BlocksBy | None,
    typer.Option(help="Calibrating: images that lie in one folder count as one, as of one video."),
]


def promise(detector: AnyDetector) -> str:
    """Return in a few words what decisions of a fitted detector promise."""
    if detector.calibration_ is None:
        return "not calibrated, as that takes more normal images (knnspect calibrate)"
    return f"calibrated by {detector.calibration_.summary}"


def check_decides(detector: AnyDetector, model: Path, needed: bool) -> None:
    """Say on standard error if a model gives no verdicts, and what brings them.

    Raises
    ------
    CalibrationError
        If it gives none and they are needed, or the false-alarm rate is smaller than it can
        promise.
    """
    calibration, missing = detector.calibration_, detector.uncalibrated
    if calibration is not None and not missing:
        calibration.rate(detector.false_alarm_rate)
        return
    words = (
        f"{model}: gives no verdicts, which need a calibration: {missing} "
        f"(knnspect calibrate {model} IMAGES)"
    )
    if needed:
        raise CalibrationError(words, path=model)
    typer.echo(f"knnspect: {words}", err=True)
