"""Locators as files: safetensors with a checksum, as detectors are."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.calibration import Calibration
from knnspect.errors import ImageError, NotFittedError, ShapeError, StoreError, errors_about
from knnspect.files import as_damage, check_path, is_folder
from knnspect.locators.base import Locator
from knnspect.locators.golden_template import GoldenTemplate
from knnspect.locators.part import Part
from knnspect.locators.siam_mask import SiamMask
from knnspect.model_files import StoredModel, write_model
from knnspect.model_files.layout import CALIBRATION
from knnspect.views import Region

__all__ = ["load_locator", "locator_methods", "save_locator"]

#: The name of the array that shows the part.
_PIXELS = "part.pixels"
#: Before the names of what else was learnt.
_LEARNT = "learnt."
_KINDS: dict[str, type[Locator]] = {kind.method: kind for kind in (GoldenTemplate, SiamMask)}


def locator_methods() -> dict[str, type[Locator]]:
    """Return the kinds of locators, by their words.

    >>> locator_methods()["golden_template"].__name__
    'GoldenTemplate'
    """
    return dict(_KINDS)


def save_locator(locator: Locator, path: str | os.PathLike[str]) -> None:
    """Write a fitted locator, with its backbone's weights, to one file.

    Parameters
    ----------
    locator : Locator
        The locator.
    path : path-like
        The file; safetensors with a versioned header and a checksum. What is there is replaced only
        when everything is written.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    StoreError
        If the file cannot be written.
    """
    file = check_path(path)
    if not hasattr(locator, "part_"):
        raise NotFittedError(f"this {type(locator).__name__} is not fitted yet: call fit first")
    if is_folder(file):
        raise StoreError(f"{file}: expected a file, it is a folder", path=file)
    pixels, mask = locator.part_.pixels, locator.part_.mask
    config: dict[str, Any] = {
        "knnspect": _core.__version__,
        **locator.saved_params(),
        "part": {"mask": Region(mask).to_json(), "dtype": pixels.dtype.name},
        "state": locator.state(),
    }
    # Files have no whole numbers of 8 bits; half precision holds these exactly.
    kept = pixels.astype(np.float16) if pixels.dtype == np.uint8 else pixels
    arrays = {_PIXELS: np.ascontiguousarray(kept)}
    arrays |= {_LEARNT + name: array for name, array in locator.arrays().items()}
    if locator.calibration_ is not None:
        config["calibration"], of_frames = locator.calibration_.to_state()
        arrays |= {CALIBRATION + name: array for name, array in of_frames.items()}
    write_model(file, locator.method, config, locator.backbone.state(), arrays)


def load_locator(path: str | os.PathLike[str], device: str | None = None) -> Locator:
    """Load a locator that was saved by `save_locator`.

    Parameters
    ----------
    path : path-like
        The file. Its checksum is verified; nothing in it is executed.
    device : str, optional
        Where the network is to run; CUDA where there is one, else the CPU.

    Returns
    -------
    Locator
        Ready to locate, with the same results as before.

    Raises
    ------
    StoreError
        If the file is missing, truncated, altered, of a newer version, or no locator.
    ParameterError, DTypeError
        If the device cannot be used.

    Examples
    --------
    >>> load_locator("no-such.ks")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    knnspect.errors.StoreError: no-such.ks: cannot be opened: No such file or directory...
    """
    with errors_about(path=check_path(path)):
        stored = StoredModel(path)
        if stored.kind not in _KINDS:
            raise StoreError(f"{stored.path}: expected a locator, the file holds a {stored.kind}")
        kind = _KINDS[stored.kind]
        with as_damage(stored.path, "its settings"):
            stored.read_config()
        stored.check_device(device)  # so that it is not taken for a setting of the file
        with as_damage(stored.path, "its settings"):
            return _restored(kind, stored, device)


def _restored(kind: type[Locator], stored: StoredModel, device: str | None) -> Locator:
    config = stored.config
    given = {
        name: declared.constraint.restored(name, config[name])
        for name, declared in kind.parameters.items()
        if name != "backbone" and name in config
    }
    locator = kind(stored.backbone(device), **given)
    locator.check_params()
    calibration = None
    if "calibration" in config:
        calibration = Calibration.from_state(config["calibration"], stored.tensors(CALIBRATION))
        calibration.rate(locator.false_alarm_rate)
    locator.take_over(config.get("state", {}), stored.tensors(_LEARNT))
    locator.restore(_part(config["part"], stored.tensors(_PIXELS)[""]), calibration)
    return locator


def _part(about: dict[str, Any], pixels: NDArray[Any]) -> Part:
    kept = {"uint8": np.float16, "float32": np.float32}[about["dtype"]]
    size = about["mask"]["height"], about["mask"]["width"]
    if pixels.shape != (*size, 3) or pixels.dtype != kept:
        raise ShapeError(
            f"expected {np.dtype(kept)} pixels of a part of {size}, got {pixels.dtype} of shape "
            f"{pixels.shape}"
        )
    most = 255 if kept == np.float16 else 1
    if not ((pixels >= 0) & (pixels <= most)).all():
        raise ImageError(f"expected pixels of a part from 0 to {most}")
    return Part(pixels.astype(about["dtype"]), Region.from_json(about["mask"]).pixels.copy())
