"""What gave the predictions of a report: the model, its settings, versions."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from knnspect import _core
from knnspect.calibration import Calibration
from knnspect.detectors.composed import AnyDetector

__all__ = ["facts", "promise"]

#: Packages on which features and scores depend; without PyTorch, networks are run by onnxruntime.
_PACKAGES = ("torch", "timm", "onnxruntime", "numpy", "pillow")


def facts(detector: AnyDetector, model: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return what gave the predictions, as headings with names and values.

    Parameters
    ----------
    detector : Detector or Composed
        What judged.
    model : str
        What the model is called.
    """
    backbone = detector.backbone
    about = [
        ("model", model),
        ("method", detector.method),
        ("paper", detector.paper()),
        ("normal images learnt from", f"{detector.n_images_:,}"),
        ("written", datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
    ]
    settings = [(_plain(name), _value(each)) for name, each in detector.saved_params().items()]
    of_backbone = [(_plain(name), _value(each)) for name, each in backbone.saved_params().items()]
    return [
        ("Model", [row for row in about if row[1]]),
        ("Settings of the method", settings),
        ("Settings of the backbone", [*of_backbone, ("weights from", backbone.source)]),
        ("Versions", _versions()),
    ]


def promise(calibration: Calibration, asked: float | None) -> str:
    """Return what the false-alarm rate promises, in words.

    Parameters
    ----------
    calibration : Calibration
        Scores of normal images.
    asked : float, optional
        The false-alarm rate that was asked for.

    Examples
    --------
    >>> promise(Calibration([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), None)  # doctest: +ELLIPSIS
    'At a false-alarm rate of 25 %, at most 25 of 100 normal images are called anomalous, ...'
    """
    rate = calibration.rate(asked)
    percent = f"{100 * rate:.3g}"
    return (
        f"At a false-alarm rate of {percent} %, at most {percent} of 100 normal images are called "
        f"anomalous, and at most {percent} of 100 have an outlined region. "
        f"Calibrated with {calibration.guarantee}."
    )


def _versions() -> list[tuple[str, str]]:
    found = [("knnspect", _core.__version__), ("Python", platform.python_version())]
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append((name, metadata.version(name)))
    return found


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
