"""Several regions of a product, each with a name; what is to be ignored is left out of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from knnspect.constraints import Bad, Constraint
from knnspect.data.folders import list_images
from knnspect.errors import DTypeError, KnnspectError, ParameterError, ShapeError
from knnspect.files import parse_json
from knnspect.views.placement import Box
from knnspect.views.region import Region

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IGNORED", "IsRegions", "NamedRegions"]

#: The name of what is left out of all regions.
IGNORED = "ignore"
_EXPECTED = "a dict of masks by names, a folder of masks, or a JSON file"


class NamedRegions(Mapping[str, Region]):
    """Regions of one product by their names, all of one size. They may overlap.

    Parameters
    ----------
    masks : mapping of str to ndarray, path or Region
        What counts in each region, as `Region.of` takes it. What is called ``"ignore"`` is no
        region: it is left out of all.

    Raises
    ------
    ParameterError
        If there is no region, a name is empty or has a ``/``, or nothing is left of a region.
    ShapeError, DTypeError, ImageError
        If masks are of different sizes, or are none.

    Examples
    --------
    >>> left, dust = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
    >>> left[:, :4] = dust[0] = True
    >>> regions = NamedRegions({"left": left, "right": ~left, "ignore": dust})
    >>> list(regions), regions.size, regions["left"].share, regions.box("right")
    (['left', 'right'], (4, 8), 0.375, Box(top=1, left=4, bottom=4, right=8))
    """

    def __init__(self, masks: Mapping[str, object]) -> None:
        given = {}
        for name, mask in masks.items():
            if not isinstance(name, str) or not name or "/" in name:
                raise ParameterError(f"expected names of regions without '/', got {name!r}")
            try:
                given[name] = Region.of(mask)
            except KnnspectError as error:
                raise type(error)(f"region {name}: {error}") from None
        ignored = given.pop(IGNORED, None)
        if not given:
            raise ParameterError("expected at least one region, got none")
        self.size = next(iter(given.values())).size
        for name, region in [*given.items(), *([(IGNORED, ignored)] if ignored else [])]:
            if region.size != self.size:
                raise ShapeError(
                    f"region {name}: expected {self.size[0]} x {self.size[1]} pixels, as the "
                    f"first has, got {region.size[0]} x {region.size[1]}"
                )
        self._regions = {n: _without(n, region, ignored) for n, region in given.items()}

    @classmethod
    def of(cls, value: object) -> Self:
        """Return the regions of a mapping, of a folder of masks, or of a JSON file.

        In a folder each image is the mask of a region that is called as its file. A JSON file has
        the size of the images, and for each region a box (top, left, bottom, right) in pixels or
        the file of a mask, relative to it::

            {"size": [300, 400], "regions": {"label": [20, 30, 120, 380], "cap": "cap.png"}}

        Raises
        ------
        DTypeError, ParameterError, ShapeError, ImageError, StoreError
            If it is nothing of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls(value)
        if not isinstance(value, (str, os.PathLike)):
            raise DTypeError(f"expected {_EXPECTED}, got {type(value).__name__}")
        path = Path(value)
        if path.is_dir():
            masks = {file.stem: file for file in list_images(path)}
            if not masks:
                raise ParameterError(f"{path}: expected a folder of masks, got no image in it")
            return cls(masks)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ParameterError(f"{path}: expected {_EXPECTED}: {error}", path=path) from None
        try:
            return cls(_of_file(parse_json(text, path, "its regions"), path.parent))
        except (KeyError, TypeError) as error:
            raise ParameterError(
                f'{path}: expected "size" and "regions", each of these a box or a file: {error!r}',
                path=path,
            ) from None

    def box(self, name: str) -> Box:
        """Return the smallest box that holds a region."""
        pixels = self[name].pixels
        rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
        return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)

    def to_json(self) -> dict[str, Any]:
        """Return them, JSON-compatible."""
        return {name: region.to_json() for name, region in self.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what `to_json` was made of; raise a TypeError or ValueError for anything else."""
        return cls({name: Region.from_json(each) for name, each in value.items()})

    def __getitem__(self, name: str) -> Region:
        return self._regions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name}: {region.share:.3g}" for name, region in self.items())
        return f"NamedRegions(height={self.size[0]}, width={self.size[1]}, {shares})"


class IsRegions(Constraint):
    """What `NamedRegions.of` takes. Files are read, and arrays copied, when the parameter is set.

    >>> len(IsRegions().kept({"all": np.ones((2, 2), bool)}))
    1
    """

    metavar = "FOLDER|FILE"

    def check(self, name: str, value: Any) -> None:
        """Check that it is some."""
        try:
            NamedRegions.of(value)
        except KnnspectError as error:
            raise type(error)(f"{name}: {error}") from None

    def kept(self, value: Any) -> Any:
        """Return the regions of a file or of masks."""
        try:
            return NamedRegions.of(value)
        except KnnspectError:
            return value

    def parse(self, name: str, text: str) -> Any:
        """Return the regions of a file or a folder."""
        self.check(name, text)
        return NamedRegions.of(text)

    def saved(self, value: NamedRegions) -> Any:
        """Return the pixels of the regions."""
        return NamedRegions.of(value).to_json()

    def restored(self, name: str, saved: Any) -> NamedRegions:  # noqa: ARG002
        """Return the regions; a file is never read."""
        return NamedRegions.from_json(saved)

    def bad_values(self) -> Iterator[Bad]:
        """Yield what are none."""
        yield None, DTypeError
        yield 3, DTypeError
        yield {}, ParameterError
        yield "no such file.json", ParameterError


def _without(name: str, region: Region, ignored: Region | None) -> Region:
    if ignored is None:
        return region
    pixels = region.pixels & ~ignored.pixels
    if not pixels.any():
        raise ParameterError(f"region {name}: nothing is left of it: all of it is to be ignored")
    return Region(pixels)


def _of_file(content: Any, folder: Path) -> dict[str, object]:
    """Return the masks that the JSON of a file describes; raise a KeyError or TypeError if none."""
    height, width = (int(n) for n in content["size"])
    masks: dict[str, object] = {}
    for name, value in content["regions"].items():
        if isinstance(value, str):
            masks[name] = folder / value
            continue
        top, left, bottom, right = (int(edge) for edge in value)
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ParameterError(
                f"region {name}: expected a box within {height} x {width} pixels, top above bottom "
                f"and left of right, got {value}"
            )
        pixels = np.zeros((height, width), bool)
        pixels[top:bottom, left:right] = True
        masks[name] = pixels
    return masks
