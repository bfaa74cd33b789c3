"""Data sets in the layout of MVTec AD."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnspect.data.images import read_image
from knnspect.data.sources import list_images
from knnspect.errors import ImageError

__all__ = ["MVTecDataset", "TestImage", "read_mask"]

_LAYOUT = "train/good, test/<defect> and ground_truth/<defect>"


@dataclass(frozen=True)
class TestImage:
    """One image to be scored, and what is known about it.

    Attributes
    ----------
    path : pathlib.Path
        The image file.
    defect : str
        The name of its folder under ``test``; ``"good"`` where there is none.
    is_defective : bool
        Whether it shows a defect.
    mask : pathlib.Path or None
        The file that marks the defective pixels; None where `is_defective` is False.
    """

    __test__ = False  # pytest would take the name for a test class

    path: Path
    defect: str
    is_defective: bool
    mask: Path | None


class MVTecDataset:
    """The files of one category in the layout of MVTec AD.

    ``train/good`` holds normal images, ``test/good`` and ``test/<defect>`` those to be scored, and
    ``ground_truth/<defect>`` a mask for every defective one, called ``<stem>_mask.png`` or
    ``<stem>.png``. Only names are read here, no pixels.

    Parameters
    ----------
    root : str or os.PathLike
        The category's folder, the one that holds ``train`` and ``test``.

    Attributes
    ----------
    root : pathlib.Path
        The folder.
    train : list of pathlib.Path
        The normal images, sorted.
    test : list of TestImage
        The images to be scored, sorted by defect, then by name.

    Raises
    ------
    ImageError
        A folder is missing or holds no images, or a defective image has no mask.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/good/0", "test/good/0", "test/cut/0", "ground_truth/cut/0_mask"):
    ...         file = Path(folder, name + ".png")
    ...         file.parent.mkdir(parents=True)
    ...         Image.new("L", (8, 8)).save(file)
    ...     dataset = MVTecDataset(folder)
    >>> len(dataset.train), [(image.defect, image.is_defective) for image in dataset.test]
    (1, [('cut', True), ('good', False)])
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.train: list[Path] = self._images(self.root / "train" / "good")
        self.test: list[TestImage] = self._test_images()

    def __repr__(self) -> str:
        counts = f"{len(self.train)} train, {len(self.test)} test images"
        return f"MVTecDataset({str(self.root)!r}: {counts})"

    def _test_images(self) -> list[TestImage]:
        test = self._folder(self.root / "test")
        defects = sorted(
            entry.name for entry in test.iterdir() if entry.is_dir() and entry.name[0] != "."
        )
        if not defects:
            raise ImageError(f"{test}: expected folders test/<defect>, got none in it")
        return [image for defect in defects for image in self._images_of(defect)]

    def _images_of(self, defect: str) -> list[TestImage]:
        folder = self.root / "test" / defect
        paths = self._images(folder)
        if defect == "good":
            return [TestImage(path, defect, is_defective=False, mask=None) for path in paths]
        masks = self._folder(self.root / "ground_truth" / defect)
        return [
            TestImage(path, defect, is_defective=True, mask=_mask_of(path, folder, masks))
            for path in paths
        ]

    def _images(self, folder: Path) -> list[Path]:
        paths = list_images(self._folder(folder))
        if not paths:
            raise ImageError(f"{folder}: expected images, got none in this folder")
        return paths

    def _folder(self, folder: Path) -> Path:
        if not self.root.is_dir():
            came = "a file" if self.root.exists() else "nothing there"
            raise ImageError(f"{self.root}: expected a folder with {_LAYOUT}, got {came}")
        if not folder.is_dir():
            there = sorted(e.name + "/" * e.is_dir() for e in self.root.iterdir())
            listed = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
            raise ImageError(
                f"{folder}: no such folder; expected {_LAYOUT} in {self.root}, "
                f"got {listed or 'an empty folder'}"
            )
        return folder


def read_mask(
    path: str | os.PathLike[str], size: tuple[int, int] | None = None
) -> NDArray[np.bool_]:
    """Return which pixels a mask marks as defective: all that are not black.

    Parameters
    ----------
    path : str or os.PathLike
        The mask's file, in any format that `read_image` reads.
    size : tuple of int, optional
        (height, width) that the mask must have: that of its image.

    Returns
    -------
    numpy.ndarray
        Shape (height, width), bool.

    Raises
    ------
    ImageError
        The file cannot be read, or has another size than `size`.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "0_mask.png")
    ...     Image.fromarray(np.array([[0, 255, 0]], np.uint8)).save(file)
    ...     read_mask(file, size=(1, 3)).tolist()
    [[False, True, False]]
    """
    mask = np.asarray(read_image(path).any(axis=2))
    if size is not None and mask.shape != tuple(size):
        raise ImageError(
            f"{Path(path)}: expected a mask of its image's size {tuple(size)} (height, width), "
            f"got {mask.shape}"
        )
    return mask


def _mask_of(image: Path, images: Path, masks: Path) -> Path:
    below = masks / image.relative_to(images).parent
    names = (f"{image.stem}_mask.png", f"{image.stem}.png")
    for name in names:
        if (below / name).is_file():
            return below / name
    raise ImageError(f"{image}: expected its mask {' or '.join(names)} in {below}, got neither")
