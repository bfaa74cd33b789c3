"""Hyperspectral scenes: images of any number of bands, read as they are, at their own size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnspect.data.decoded import ImageArray
from knnspect.data.folders import list_images
from knnspect.data.formats import FORMAT_WORDS, format_of
from knnspect.data.geometry import MAX_INPUT, Geometry
from knnspect.data.reader import ImageReader
from knnspect.data.tiff import decode_bands
from knnspect.errors import DTypeError, ImageError, KnnspectError, ShapeError

__all__ = ["SceneGeometry", "SceneReader", "scenes_of"]

_SUFFIX, _MAGIC = ".npy", b"\x93NUMPY"
_EXPECTED = "a scene of shape (height, width, n_bands)"
#: Which bands are shown as red, green and blue, as shares of the way to the last one.
_SHOWN = (0.75, 0.5, 0.25)


def scenes_of(images: object) -> object:
    """Return scenes in a form that `open_images` takes.

    Parameters
    ----------
    images : object
        An array of one scene, (height, width, n_bands), or of several of one size; a folder, in
        which ``.npy`` files are looked for, too; else as `open_images` takes them.

    Returns
    -------
    object
        A list of arrays; a dict of files by their ids; or what was given.

    Examples
    --------
    >>> len(scenes_of(np.zeros((5, 6, 30)))), len(scenes_of(np.zeros((2, 5, 6, 30))))
    (1, 2)
    """
    if isinstance(images, np.ndarray):
        if images.ndim not in (3, 4):
            raise ShapeError(
                f"images: expected {_EXPECTED}, or several along a first axis, got {images.shape}"
            )
        return [images] if images.ndim == 3 else list(images)
    if isinstance(images, str | os.PathLike) and os.fspath(images) and Path(images).is_dir():
        root = Path(images)
        arrays = [file for file in root.rglob("*") if _is_array(file.relative_to(root))]
        if arrays:
            files = sorted([*arrays, *list_images(root)])
            return {_id_of(file.relative_to(root)): file for file in files}
    return images


def _is_array(path: Path) -> bool:
    return path.suffix.lower() == _SUFFIX and not any(part.startswith(".") for part in path.parts)


def _id_of(path: Path) -> str:
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


class SceneReader(ImageReader):
    """Reads scenes: arrays, ``.npy`` files, TIFF files with all their bands, and other images.

    What it returns has shape (height, width, n_bands) and is float32. Whole numbers of 8 and 16
    bits without a sign are divided by 255 and 65535, as those of images are; all other values are
    as they come, also below 0.

    Parameters
    ----------
    max_pixels : int, default 200_000_000
        Pixels that an image of three bands may have; of more bands as many fewer.

    Examples
    --------
    >>> SceneReader().from_array(np.full((2, 3, 30), -7.5), "a").shape
    (2, 3, 30)
    """

    expected: ClassVar[str] = f"an array (.npy) or {FORMAT_WORDS}"

    def from_array(self, array: NDArray[Any], where: str) -> ImageArray:
        """Return an array as a scene."""
        if not isinstance(array, np.ndarray):
            raise DTypeError(f"{where}: expected a NumPy array, got {type(array).__name__}")
        return self._scene(array, where, ShapeError, DTypeError)

    def from_pillow(self, image: Image.Image, where: str) -> ImageArray:
        """Return a Pillow image as a scene of three bands."""
        return self._scene(super().from_pillow(image, where), where, ImageError, ImageError)

    def picture(self, image: ImageArray) -> ImageArray:
        """Return three bands for a person to look at, stretched between their 2 % and 98 %."""
        n_bands = image.shape[2]
        if n_bands == 3 and image.min() >= 0 and image.max() <= 1:
            return image
        shown = image[..., [round(share * (n_bands - 1)) for share in _SHOWN]]
        low, high = np.percentile(shown, (2, 98), axis=(0, 1))
        span = np.where(high > low, high - low, 1)
        stretched: ImageArray = ((shown - low) / span).clip(0, 1).astype(np.float32)
        return stretched

    def _read(self, stream: IO[bytes], file_size: int, where: str) -> ImageArray:
        head = stream.read(16)
        stream.seek(0)
        if head.startswith(_MAGIC):
            array = self._array_in(stream, file_size, where)
        elif (format_ := format_of(head)) is not None and format_.name == "TIFF":
            array = decode_bands(stream, file_size, where, 3 * self.max_pixels)
        else:
            array = super()._read(stream, file_size, where)
        return self._scene(array, where, ImageError, ImageError)

    def _array_in(self, stream: IO[bytes], file_size: int, where: str) -> NDArray[Any]:
        """Return the array of a .npy file; nothing in it is unpickled."""
        version = np.lib.format.read_magic(stream)
        # 3.0 is for structures alone, whose fields have names that are not Latin-1.
        if version == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ImageError(f"{where}: expected a .npy file of version 1 or 2, got {version}")
        self._check(shape, dtype, where, ImageError, ImageError)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if stream.tell() + n_bytes != file_size:
            raise ImageError(
                f"{where}: expected {n_bytes} bytes of values, got a damaged file with "
                f"{file_size - stream.tell()}"
            )
        values = np.frombuffer(stream.read(n_bytes), dtype)
        return values.reshape(shape, order="F" if is_fortran else "C")

    def _scene(
        self,
        array: NDArray[Any],
        where: str,
        wrong_shape: type[KnnspectError],
        wrong_type: type[KnnspectError],
    ) -> ImageArray:
        self._check(array.shape, array.dtype, where, wrong_shape, wrong_type)
        full = {"u1": 255, "u2": 65535}.get(array.dtype.str[1:], 1)
        with np.errstate(over="ignore"):  # what float32 does not hold is refused with infinity
            scene = np.atleast_3d(array).astype(np.float32)
        if full != 1:
            scene /= full
        finite = np.isfinite(scene)
        if not finite.all():
            row, column, band = (int(at[0]) for at in np.nonzero(~finite))
            raise ImageError(
                f"{where}: expected finite values, got NaN or infinity in "
                f"{int(finite.size - finite.sum())} of {finite.size}, the first at row {row}, "
                f"column {column}, band {band}"
            )
        return scene

    def _check(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        where: str,
        wrong_shape: type[KnnspectError],
        wrong_type: type[KnnspectError],
    ) -> None:
        """Raise an error unless a scene can have this shape and element type."""
        if len(shape) not in (2, 3) or 0 in shape:
            raise wrong_shape(f"{where}: expected {_EXPECTED}, got {shape}")
        if dtype.kind not in "buif" or dtype.itemsize > 8:
            raise wrong_type(f"{where}: expected whole numbers or floats, got {dtype}")
        most = 3 * self.max_pixels
        if (n_values := int(np.prod(shape, dtype=float))) > most:
            raise ImageError(
                f"{where}: expected at most {most:,} values, got {shape} ({n_values:,}); if you "
                f"trust it, allow more by max_pixels (--max-pixels), a third of them"
            )


@dataclass(frozen=True)
class SceneGeometry(Geometry):
    """Leaves scenes as large as they are, with all of their bands.

    Examples
    --------
    >>> geometry = SceneGeometry()
    >>> geometry.input_size((40, 50)), geometry.prepare(np.zeros((4, 5, 30), np.float32)).shape
    ((40, 50), (30, 4, 5))
    """

    #: The size for which the blur of maps is given, which is in pixels of the scene thereby.
    image_size: tuple[int, int] = (224, 224)

    one_grid: ClassVar[str] = "scenes of one fit have one size and the same bands"

    @property
    def largest_input(self) -> tuple[int, int]:
        """Height and width that no scene exceeds."""
        return MAX_INPUT, MAX_INPUT

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the scene."""
        return int(size[0]), int(size[1])

    def prepare(self, image: ImageArray) -> NDArray[np.float32]:
        """Return a scene with its bands first, shape (n_bands, height, width)."""
        return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)

    def restore(self, map: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:  # noqa: A002
        """Return the map of a scene as it is."""
        if map.shape != self.input_size(size):
            raise ShapeError(f"restore: expected a map of shape {size}, got {map.shape}")
        return np.ascontiguousarray(map, np.float32)
