"""What is known about the test images of a dataset, checked before the work."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnspect.data.decoding import MAX_PIXELS
from knnspect.data.masks import WORDS, Kind, load_mask
from knnspect.data.mvtec import MVTecDataset, TestImage
from knnspect.data.reader import ImageReader
from knnspect.errors import DatasetWarning, ShapeError

__all__ = ["FEWEST_NORMAL_PIXELS", "Labels", "Need"]

#: What a figure needs: normal and defective images, or pixels, or also many pixels of images that
#: are normal.
Need: TypeAlias = Literal["images", "pixels", "normal images' pixels"]

#: A false-positive rate of 1e-5, from which AUPIMO is integrated, is one pixel of so many.
FEWEST_NORMAL_PIXELS = 100_000

_FIGURES: dict[str, Need] = {
    "image_auroc": "images",
    "map_max_auroc": "images",
    "pixel_auroc": "pixels",
    "aupro": "pixels",
}


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
    figures : mapping of str to str, optional
        The figures that are to be computed, and what each of them needs: "images", normal and
        defective ones; "pixels", normal and defective ones; or "normal images' pixels", which
        are pixels, and at least 100,000 of images that are normal. By default "image_auroc",
        "map_max_auroc", "pixel_auroc" and "aupro".
    reader : ImageReader, optional
        Reads the images, of which masks have the sizes, where these are no ordinary images.

    Attributes
    ----------
    is_defective : list of bool
        One for each test image.
    kinds : list of str
        The kind of defect of each test image: the name of its folder.
    in_pixels : list of int
        The numbers of the test images that count in the figures of pixels.
    undefined : dict of str to str
        Why figures are not defined, by their names.
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

    def __init__(
        self,
        dataset: MVTecDataset,
        max_pixels: int = MAX_PIXELS,
        figures: Mapping[str, Need] | None = None,
        reader: ImageReader | None = None,
    ) -> None:
        of_masks = ImageReader(max_pixels=max_pixels)
        reader = of_masks if reader is None else reader
        self.is_defective = [image.is_defective for image in dataset.test]
        self.kinds = [image.defect for image in dataset.test]
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
                mask = load_mask(image.mask, (height, width), of_masks)
                kinds.setdefault(mask.kind, []).append(image.mask)
                if mask.pixels.any():
                    packed = _Packed(np.packbits(mask.pixels), (height, width))
                    is_full = is_full and bool(mask.pixels.all())
                else:
                    black.append(image.mask)
            self._masks.append(packed)
        self.in_pixels = [
            i
            for i, (is_defective, mask) in enumerate(
                zip(self.is_defective, self._masks, strict=True)
            )
            if mask is not None or not is_defective
        ]
        figures = _FIGURES if figures is None else figures
        self._judge(dataset, figures, black, is_full and all(self.is_defective))
        if "normal images' pixels" in figures.values():
            self._judge_normal_images(dataset, figures, reader)
        self._say_undefined()
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
        if len(maps) != len(self):
            raise ShapeError(f"maps: expected one of each of {len(self)} images, got {len(maps)}")
        theirs = [maps[i] for i in self.in_pixels]
        packed = [self._masks[i] for i in self.in_pixels]
        masks = [
            np.zeros(map_.shape, np.bool_) if mask is None else mask.unpacked()
            for mask, map_ in zip(packed, theirs, strict=True)
        ]
        return masks, theirs

    def _judge(
        self, dataset: MVTecDataset, figures: Mapping[str, Need], black: list[Path], is_full: bool
    ) -> None:
        """Find what is not defined, and say which images are left out."""
        of_images = [name for name, need in figures.items() if need == "images"]
        of_pixels = [name for name, need in figures.items() if need != "images"]
        n_defective = sum(self.is_defective)
        if n_defective in (0, len(self)):
            kind = "defective" if n_defective == 0 else "normal"
            self._undefine(of_images, f"no test image is {kind}")
        unmarked = [i for i in dataset.test if i.is_defective and i.mask is None]
        reasons = []
        if unmarked:
            reasons.append(self._without_mask(dataset, unmarked, n_defective))
        if black:
            reasons.append(f"{len(black)} of {n_defective} masks mark no pixel, such as {black[0]}")
        if n_defective == 0:
            self._undefine(of_pixels, "no test image is defective")
        elif all(mask is None for mask in self._masks):
            self._undefine(of_pixels, "; ".join(reasons))
        else:
            if is_full:
                self._undefine(of_pixels, "the masks mark every pixel of every image")
            for reason in reasons:
                self._note(f"{reason}: figures of pixels leave these images out")
            lost = sorted(set(self.kinds) - {self.kinds[i] for i in self.in_pixels})
            if lost:
                self._note(
                    f"{self._root}: figures of pixels are not defined for {', '.join(lost)}: no "
                    "image there has a mask that marks a pixel"
                )

    def _judge_normal_images(
        self, dataset: MVTecDataset, figures: Mapping[str, Need], reader: ImageReader
    ) -> None:
        """Find out whether the normal images have enough pixels; most often one of them has."""
        names = [name for name, need in figures.items() if need == "normal images' pixels"]
        names = [name for name in names if name not in self.undefined]
        if not names:
            return
        n_pixels = 0
        for image in dataset.test:
            if not image.is_defective:
                height, width, _ = reader.from_file(image.path).shape
                n_pixels += height * width
                if n_pixels >= FEWEST_NORMAL_PIXELS:
                    return
        self._undefine(
            names,
            "no test image is normal"
            if n_pixels == 0
            else f"the normal test images have {n_pixels:,} pixels together, expected at least "
            f"{FEWEST_NORMAL_PIXELS:,}",
        )

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

    def _undefine(self, names: Sequence[str], reason: str) -> None:
        self.undefined |= dict.fromkeys(names, reason)

    def _say_undefined(self) -> None:
        for reason in dict.fromkeys(self.undefined.values()):
            *names, last = (name for name, why in self.undefined.items() if why == reason)
            words = f"{', '.join(names)} and {last} are" if names else f"{last} is"
            self._note(f"{self._root}: {words} not defined: {reason}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, DatasetWarning, stacklevel=4)
