"""What is known about the test images of a dataset, checked before the work."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoding import MAX_PIXELS
from knnspect.data.masks import WORDS, Kind, load_mask
from knnspect.data.mvtec import MVTecDataset, TestImage
from knnspect.data.reader import ImageReader
from knnspect.errors import DatasetWarning

__all__ = ["Labels"]

_OF_IMAGES = ("image_auroc", "map_max_auroc")
_OF_PIXELS = ("pixel_auroc", "aupro")


@dataclass(frozen=True)
class _Packed:
    """A mask, eight pixels in a byte: maps take 32 times as much."""

    bits: NDArray[np.uint8]
    shape: tuple[int, int]

    def unpacked(self) -> NDArray[np.bool_]:
        height, width = self.shape
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).view(np.bool_)


class Labels:
    """Which test images are defective, and where.

    All masks are read, and compared with the sizes of their images. What is missing, or may be
    meant otherwise, is said in one warning of each kind.

    A defective image counts in the figures of pixels if its mask marks some of them. One without a
    mask, or with a black one, is left out there, as where it is defective is not known; it
    counts in the figures of images. Normal images are normal everywhere.

    Parameters
    ----------
    dataset : MVTecDataset
        Images and masks.
    max_pixels : int, default 200_000_000
        Pixels that they may have.

    Attributes
    ----------
    is_defective : list of bool
        One for each test image.
    undefined : dict of str to str
        Why figures are not defined, by their names: "image_auroc" and "map_max_auroc" need
        normal and defective images, "pixel_auroc" and "aupro" normal and defective pixels.
    notes : list of str
        What the warnings said.

    Raises
    ------
    ImageError
        If a mask, or the image of a mask, cannot be read, or their sizes differ.

    Warns
    -----
    DatasetWarning
        Figures are not defined; images have no mask, or one without a defective pixel; masks
        have more than two values.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/good/0", "test/good/0", "test/cut/0", "ground_truth/cut/0_mask"):
    ...         file = Path(folder, name + ".png")
    ...         file.parent.mkdir(parents=True)
    ...         Image.new("L", (8, 8), 255).save(file)
    ...     labels = Labels(MVTecDataset(folder))
    >>> labels.is_defective, labels.undefined
    ([True, False], {})
    """

    def __init__(self, dataset: MVTecDataset, max_pixels: int = MAX_PIXELS) -> None:
        reader = ImageReader(max_pixels=max_pixels)
        self.is_defective = [image.is_defective for image in dataset.test]
        self.undefined: dict[str, str] = {}
        self.notes: list[str] = []
        self._masks: list[_Packed | None] = []
        self._root = dataset.root
        kinds: dict[Kind, list[Path]] = {}
        black: list[Path] = []
        is_full = True
        for image in dataset.test:
            packed = None
            if image.mask is not None:
                height, width, _ = reader.from_file(image.path).shape
                mask = load_mask(image.mask, (height, width), reader)
                kinds.setdefault(mask.kind, []).append(image.mask)
                if mask.pixels.any():
                    packed = _Packed(np.packbits(mask.pixels), (height, width))
                    is_full = is_full and bool(mask.pixels.all())
                else:
                    black.append(image.mask)
            self._masks.append(packed)
        self._judge(dataset, black, is_full and all(self.is_defective))
        n_masks = sum(map(len, kinds.values()))
        for kind, words in WORDS.items():
            if kind in kinds:
                first, *others = kinds[kind]
                so = f" (so are {len(others)} others of {n_masks})" if others else ""
                self._note(f"{first}: {words}{so}")

    def __len__(self) -> int:
        return len(self.is_defective)

    def pixels(
        self, maps: Sequence[NDArray[np.float32]]
    ) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.float32]]]:
        """Return the masks and the maps of the images that count in figures of pixels.

        Parameters
        ----------
        maps : sequence of ndarray of float32, shape (height, width)
            One for each test image, of its size.

        Returns
        -------
        masks : list of ndarray of bool, shape (height, width)
            Of these images, in order.
        maps : list of ndarray of float32, shape (height, width)
            As given.
        """
        masks, theirs = [], []
        for is_defective, packed, map_ in zip(self.is_defective, self._masks, maps, strict=True):
            if packed is not None:
                masks.append(packed.unpacked())
            elif not is_defective:
                masks.append(np.zeros(map_.shape, np.bool_))
            else:
                continue
            theirs.append(map_)
        return masks, theirs

    def _judge(self, dataset: MVTecDataset, black: list[Path], is_full: bool) -> None:
        """Find what is not defined, and say so."""
        n_defective = sum(self.is_defective)
        if n_defective in (0, len(self)):
            kind = "defective" if n_defective == 0 else "normal"
            self._undefine(_OF_IMAGES, f"no test image is {kind}")
        unmarked = [i for i in dataset.test if i.is_defective and i.mask is None]
        reasons = []
        if unmarked:
            reasons.append(self._without_mask(dataset, unmarked, n_defective))
        if black:
            reasons.append(f"{len(black)} of {n_defective} masks mark no pixel, such as {black[0]}")
        if n_defective == 0:
            self._undefine(_OF_PIXELS, "no test image is defective")
        elif all(mask is None for mask in self._masks):
            self._undefine(_OF_PIXELS, "; ".join(reasons))
        else:
            if is_full:
                self._undefine(_OF_PIXELS, "the masks mark every pixel of every image")
            for reason in reasons:
                self._note(f"{reason}: figures of pixels leave these images out")

    def _without_mask(
        self, dataset: MVTecDataset, images: list[TestImage], n_defective: int
    ) -> str:
        first = images[0]
        stem, folder = first.path.stem, dataset.root / "ground_truth" / first.defect
        words = (
            f"{len(images)} of {n_defective} defective images have no mask, such as {first.path} "
            f"(expected {stem}_mask, {stem}_gt or {stem} in {folder})"
        )
        if dataset.unmatched:
            words += (
                f"; {len(dataset.unmatched)} masks belong to no image, such as "
                f"{dataset.unmatched[0]}"
            )
        return words

    def _undefine(self, names: tuple[str, ...], reason: str) -> None:
        self.undefined |= dict.fromkeys(names, reason)
        self._note(f"{self._root}: {' and '.join(names)} are not defined: {reason}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, DatasetWarning, stacklevel=4)
