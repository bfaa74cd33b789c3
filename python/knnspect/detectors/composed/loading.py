"""Loading a detector, composed or not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from knnspect.detectors.base import Detector
from knnspect.detectors.composed.aligned import Aligned
from knnspect.detectors.composed.base import AnyDetector, Composed
from knnspect.detectors.composed.lights import Lights
from knnspect.detectors.composed.parts import LOCATOR, VIEWS, unpacked_files
from knnspect.detectors.composed.regions import Regions
from knnspect.detectors.registry import get_method, methods
from knnspect.errors import StoreError, errors_about
from knnspect.features import Extractor
from knnspect.files import as_damage, check_path
from knnspect.locators import load_locator
from knnspect.model_files import StoredModel

__all__ = ["load", "load_any"]

_KINDS: dict[str, type[Composed]] = {kind.method: kind for kind in (Aligned, Lights, Regions)}


def load(path: str | os.PathLike[str], device: str | None = None) -> Detector:
    """Load a detector that was saved, composed or not.

    Parameters
    ----------
    path : path-like
        The file, or the folder. Its checksum is verified, but for the features in a folder, which
        are verified image by image when they are first used; nothing in it is executed. It stays
        memory-mapped: replace it by `Detector.save` or a rename, do not write into it.
    device : str, optional
        Where the network is to run; CUDA where there is one, else the CPU. Of a model that was
        exported the CPU, unless ``"cuda"`` or ``"tensorrt"`` is asked for.

    Returns
    -------
    Detector
        Or a `Composed` one, which type checkers are not told, since most are not. Ready to predict,
        with the same results as before: to the bit on the same machine with as many PyTorch
        threads. `backend` and `threads` have their defaults; `fitted_with_` tells which they were.

    Raises
    ------
    StoreError
        If the file is missing, truncated, altered, of a newer version, or not a detector.
    ParameterError, DTypeError
        If the device cannot be used.

    Examples
    --------
    >>> load("no-such.ks")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    knnspect.errors.StoreError: no-such.ks: cannot be opened: No such file or directory...
    """
    return cast("Detector", load_any(path, device))


def load_any(path: str | os.PathLike[str], device: str | None = None) -> AnyDetector:
    """Return the same as `load`, and tell type checkers so."""
    with errors_about(path=check_path(path)):
        stored = StoredModel(path)
        kind = _kind(stored)
        with as_damage(stored.path, "its settings"):
            stored.read_config()
        stored.check_device(device)  # so that it is not taken for a setting of the file
        with as_damage(stored.path, "its settings"):
            return _restored(kind, stored, device)


class _StoredView(StoredModel):
    """The model of a view, read from the file of the whole, which has the backbone."""

    def __init__(self, path: Path, backbone: Extractor) -> None:
        super().__init__(path)
        self._shared = backbone

    def backbone(self, device: str | None) -> Extractor:  # noqa: ARG002 - it was chosen for all
        """Return the backbone that all views share."""
        return self._shared


def _kind(stored: StoredModel) -> type[Detector] | type[Composed]:
    if stored.kind in _KINDS:
        return _KINDS[stored.kind]
    if stored.kind not in methods():
        raise StoreError(f"{stored.path}: expected a detector, the file holds a {stored.kind}")
    return get_method(stored.kind)


def _restored(
    kind: type[Detector] | type[Composed], stored: StoredModel, device: str | None
) -> AnyDetector:
    if issubclass(kind, Detector):
        return kind._from_store(stored, device)
    config, backbone = stored.config, stored.backbone(device)
    given = {
        name: declared.constraint.restored(name, config[name])
        for name, declared in kind.parameters.items()
        if name in config and name != "detector"
    }
    # What is open stays mapped when its name is gone; where that cannot be, the folder stays.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if kind is Aligned:
            (file,) = unpacked_files(stored, LOCATOR, Path(folder))
            given["locator"] = load_locator(file, device)
        files = unpacked_files(stored, VIEWS, Path(folder))
        names = list(config["views"])
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"views: expected names of views, got {names}")
        views = {name: _view(file, backbone) for name, file in zip(names, files, strict=True)}
    first = next(iter(views.values()))
    detector = kind(type(first)(**_unfitted(first)), **given)
    detector.check_params()
    detector.check_views(list(views))
    detector.views_, detector.seconds_ = views, {}
    return detector


def _view(file: Path, backbone: Extractor) -> AnyDetector:
    stored = _StoredView(file, backbone)
    stored.read_config()
    return _restored(_kind(stored), stored, None)


def _unfitted(detector: AnyDetector) -> Mapping[str, Any]:
    """Return the parameters of a detector of which all views are clones."""
    params = detector.get_params(deep=False)
    return {**params, "mask": None} if "mask" in params else params
