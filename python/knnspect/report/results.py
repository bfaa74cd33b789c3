"""Predictions as files: an overlay for each image, and tables of scores."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.data.own_pictures import COLUMNS, MAPS, OVERLAYS, SOFTWARE, TABLE
from knnspect.detectors import Prediction
from knnspect.errors import StoreError
from knnspect.files import replace_file
from knnspect.locators import FoundPart
from knnspect.report.marks import Marks
from knnspect.report.overlay import overlay_strips
from knnspect.report.png import write_png

__all__ = ["ResultsFolder", "check_apart"]


#: What ``scores.json`` says of decisions; None without a calibration.
_OF_DECISIONS = ("false_alarm_rate", "threshold", "pixel_threshold", "guarantee")


class ResultsFolder:
    """A folder that receives predictions one by one.

    It holds ``overlays/<id>.png``, ``maps/<id>`` if asked for, and after `finish` ``scores.csv``
    and ``scores.json``. Verdicts, p-values and regions are there for predictions that have a
    calibration.

    Parameters
    ----------
    folder : path-like
        Made when it is not there.
    normal_map_max : float
        The largest map value of normal images: one and a half times this value gets the strongest
        colour, and ``relative`` is a multiple of it. NaN: each image is scaled by itself.
    maps : {"npy", "tiff"}, optional
        Also write ``maps/<id>.npy`` or ``.tiff``: float32, of the size of the image as it came.
    scale : float, optional
        The map value that gets the strongest colour, in place of one and a half times that.

    Attributes
    ----------
    n_anomalous : int
        How many images were called anomalous so far.

    Raises
    ------
    StoreError
        If the folder cannot be made or written to.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        normal_map_max: float,
        maps: Literal["npy", "tiff"] | None = None,
        scale: float | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._scale = scale
        self._maps = maps
        self._normal_map_max = normal_map_max
        self._rows: list[dict[str, Any]] = []
        self._decisions: dict[str, Any] = dict.fromkeys(_OF_DECISIONS)
        self.n_anomalous = 0
        self._names: set[str] = set()
        self._folders: set[str] = set()
        self._make(self.folder / OVERLAYS)

    @property
    def scale(self) -> float:
        """The map value that gets the strongest colour."""
        return 1.5 * self._normal_map_max if self._scale is None else self._scale

    @property
    def false_alarm_rate(self) -> float | None:
        """The share of normal images that may be called anomalous; None without decisions."""
        rate: float | None = self._decisions["false_alarm_rate"]
        return rate

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, prediction: Prediction, image: NDArray[Any]) -> None:
        """Write the overlay of an image, shape (height, width, 3), and remember its scores.

        Raises
        ------
        CalibrationError
            If its false-alarm rate is smaller than its calibration can promise.
        StoreError
            If a file cannot be written.
        """
        marks = Marks.of(prediction)
        peak = np.unravel_index(int(prediction.map.argmax()), prediction.map.shape)
        map_max = float(prediction.map[peak])
        evidence = prediction.evidence(int(peak[0]), int(peak[1]))
        known = np.isfinite(self._normal_map_max) and self._normal_map_max > 0
        row: dict[str, Any] = {
            "id": prediction.id,
            # Infinity is no number of JSON: a part that was not found has no score.
            "score": prediction.score if prediction.is_found else None,
            "map_max": map_max,
            "relative": map_max / self._normal_map_max if known else None,
            "row": int(peak[0]),
            "column": int(peak[1]),
            "nearest_image": None if evidence is None else evidence.image,
            **self._decided(prediction),
        }
        if prediction.found is not None:
            row["part"] = _place(prediction.found)
        if prediction.shown_view:
            row["view"] = prediction.shown_view
        if prediction.views:
            row["views"] = {name: self._of_view(one) for name, one in prediction.views.items()}
        if prediction.known_defect is not None:
            row["known_defect"] = prediction.known_defect.name
        if evidence is not None and evidence.variant:
            row["nearest_variant"] = evidence.variant
        if evidence is not None and evidence.query_variant:
            row["query_variant"] = evidence.query_variant
        file = self.folder / OVERLAYS / self._name(prediction.id)
        self._make(file.parent)
        size = (prediction.map.shape[0], prediction.map.shape[1])
        scale = self.scale if known or self._scale else map_max or 1.0
        parts = overlay_strips(image, prediction.map, scale, marks)
        write_png((strip for _, strip in parts), size, file)
        row["overlay"] = file.relative_to(self.folder).as_posix()
        if self._maps is not None:
            row["map"] = self._write_map(file, prediction.map)
        self._rows.append(row)

    def finish(self, about: dict[str, Any], left_out: Sequence[str] = ()) -> None:
        """Write ``scores.csv`` and ``scores.json``.

        Parameters
        ----------
        about : dict
            What the predictions were made with; JSON-compatible.
        left_out : sequence of str
            Why images were left out.
        """
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        replace_file(self.folder / TABLE, _encoded(table.getvalue()))
        known = None if np.isnan(self._normal_map_max) else self._normal_map_max
        document = {
            **about,
            "normal_map_max": known,
            **self._decisions,
            "images": self._rows,
            "left_out": list(left_out),
        }
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(self.folder / "scores.json", _encoded(text))

    def _decided(self, prediction: Prediction) -> dict[str, Any]:
        """Return the columns of a decision, and keep what all of them have in common."""
        calibration = prediction.calibration
        if calibration is None:
            return {"p_value": None, "verdict": None, "n_regions": None, "regions": None}
        self._decisions = {
            "false_alarm_rate": calibration.rate(prediction.false_alarm_rate),
            "threshold": prediction.threshold,
            "pixel_threshold": prediction.pixel_threshold,
            "guarantee": calibration.guarantee,
        }
        self.n_anomalous += prediction.is_anomalous
        return {
            "p_value": prediction.p_value,
            "verdict": prediction.verdict,
            "n_regions": len(prediction.regions),
            "regions": [
                {**asdict(region), "box": region.box._asdict()} for region in prediction.regions
            ],
        }

    def _of_view(self, view: Prediction) -> dict[str, Any]:
        """Return what is kept of a view of an image."""
        known = view.calibration is not None
        return {
            "score": view.score,
            "p_value": view.p_value if known else None,
            "verdict": view.verdict if known else None,
            **(
                {"views": {n: self._of_view(v) for n, v in view.views.items()}}
                if view.views
                else {}
            ),
        }

    def _write_map(self, overlay: Path, map_: NDArray[np.float32]) -> str:
        """Write a map under the name of its overlay; return its place in the folder."""
        name = overlay.relative_to(self.folder / OVERLAYS).with_suffix(f".{self._maps}")
        file = self.folder / MAPS / name
        self._make(file.parent)
        content = io.BytesIO()
        if self._maps == "npy":
            np.save(content, map_, allow_pickle=False)
        else:
            import tifffile

            tifffile.imwrite(content, map_, software=SOFTWARE)
        replace_file(file, content.getvalue())
        return file.relative_to(self.folder).as_posix()

    def _name(self, id_: str) -> str:
        """Return a file name for an id, inside the folder and not used before."""
        parts = [part for part in id_.split("/") if part not in ("", ".", "..")] or ["image"]
        name = "/".join(map(_shortened, parts))
        if self._names.intersection(_with_folders(name)[1:]):
            name = name.replace("/", "-")
        if not name.lower().endswith(".png") or name in self._names:
            name += ".png"
        while name in self._names or name in self._folders:
            name = name.removesuffix(".png") + "-.png"
        self._names.add(name)
        self._folders.update(_with_folders(name)[1:])
        return name

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{folder}: the folder cannot be made ({error.strerror})", path=folder
            ) from error


def check_apart(
    folder: str | os.PathLike[str], images: str | os.PathLike[str], ids: Iterable[str]
) -> None:
    """Raise a StoreError if overlays would be written over the images that are to be judged.

    Parameters
    ----------
    folder : path-like
        For the results.
    images : path-like
        The images: a folder, or a file.
    ids : iterable of str
        The paths of the images in their folder; a file needs none.

    Examples
    --------
    >>> check_apart("results", "images", ["0.png", "deep/0.png"])
    >>> check_apart("results", "results/overlays", ["0.png"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    knnspect.errors.StoreError: results: its folder overlays holds images that are to be judged, ...
    """
    overlays, root = (Path(folder) / OVERLAYS).resolve(), Path(images).resolve()
    inside = root.is_relative_to(overlays)
    if not inside and overlays.is_relative_to(root):
        start = overlays.relative_to(root).as_posix() + "/"
        inside = any(id_.startswith(start) for id_ in ids)
    if inside:
        raise StoreError(
            f"{folder}: its folder {OVERLAYS} holds images that are to be judged, and that "
            "overlays would be written over; choose another folder",
            path=Path(folder),
        )


def _place(part: FoundPart) -> dict[str, Any]:
    """Return where a part was found."""
    return {
        "found": part.found,
        "score": part.score,
        "p_value": part.p_value,
        "rotated_box": part.rotated_box._asdict(),
    }


def _with_folders(name: str) -> list[str]:
    """Return a relative path and the folders it is in."""
    path = PurePosixPath(name)
    return [name, *(folder.as_posix() for folder in path.parents[:-1])]


def _shortened(part: str) -> str:
    """Return a part of a path that leaves room for an ending in the 255 bytes of a name."""
    encoded = _encoded(part)
    if len(encoded) <= 240:
        return encoded.decode()
    return f"{encoded[:200].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:16]}"


def _encoded(text: str) -> bytes:
    """Return UTF-8; what stands for bytes that were not Unicode becomes escapes."""
    return text.encode("utf-8", "backslashreplace")
