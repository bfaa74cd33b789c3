"""Data sets in the layout of MVTec AD."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from knnspect.data.folders import list_images
from knnspect.data.images import IMAGE_SUFFIXES
from knnspect.errors import ImageError, ParameterError

__all__ = ["MVTecDataset", "TestImage"]

_LAYOUT = "train/good, test/<defect> and ground_truth/<defect>"

#: What a mask may be called, after its image's stem, in the order in which they are looked for.
_MASK_ENDINGS = ("_mask", "_gt", "")


@dataclass(frozen=True)
class TestImage:
    """One image to be scored, and what is known about it.

    Attributes
    ----------
    path : pathlib.Path
        The image file.
    defect : str
        The name of its folder under ``test``.
    is_defective : bool
        Whether it shows a defect.
    mask : pathlib.Path or None
        The file that marks the defective pixels, or the folder of several such files, as
        `read_mask` takes them. None where `is_defective` is False, and where there is no mask.
    """

    __test__ = False  # pytest would take the name for a test class

    path: Path
    defect: str
    is_defective: bool
    mask: Path | None


class MVTecDataset:
    """The files of one category in the layout of MVTec AD.

    ``train/good`` holds normal images, ``test/good`` and ``test/<defect>`` those to be scored, and
    ``ground_truth/<defect>`` the masks of defective ones. The mask of an image is the file
    ``<stem>_mask``, ``<stem>_gt`` or ``<stem>`` with the ending of any image format, or the folder
    ``<stem>`` with several masks, whose union counts, as in MVTec LOCO AD. Masks may be missing.
    Names may be in upper or lower case. Only names are read here, no pixels.

    Parameters
    ----------
    root : str or os.PathLike
        The category's folder, the one that holds ``train`` and ``test``.
    good : str or sequence of str, default "good"
        What folders of normal images are called, in ``train`` and in ``test``.

    Attributes
    ----------
    root : pathlib.Path
        The folder.
    train : list of pathlib.Path
        The normal images, sorted.
    test : list of TestImage
        The images to be scored, sorted by defect, then by name.
    unmatched : list of pathlib.Path
        What lies among the masks and belongs to no image, where images are left without a mask:
        masks that are called otherwise, perhaps.

    Raises
    ------
    ImageError
        A folder is missing or holds no images, an image has two masks, or it cannot be told
        which folder of ``test`` holds normal images: there is none of a name in `good`, but one
        without any mask.
    ParameterError
        `good` is empty.

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

    def __init__(self, root: str | os.PathLike[str], good: str | Sequence[str] = "good") -> None:
        self.root = Path(root)
        self.good: tuple[str, ...] = (good,) if isinstance(good, str) else tuple(good)
        if not self.good or not all(self.good):
            raise ParameterError(f"good: expected the name of a folder, got {good!r}")
        if not self.root.is_dir():
            came = "a file" if self.root.exists() else "nothing there"
            raise ImageError(
                f"{self.root}: expected a folder with {_LAYOUT}, got {came}", path=self.root
            )
        self.unmatched: list[Path] = []
        self.train: list[Path] = self._images(self._good_folder(self._folder("train")))
        self.test: list[TestImage] = self._test_images()

    def __repr__(self) -> str:
        counts = f"{len(self.train)} train, {len(self.test)} test images"
        return f"MVTecDataset({str(self.root)!r}: {counts})"

    def _good_folder(self, train: Path) -> Path:
        folders = _folders(train)
        for name in self.good:
            found = _named(folders, name)
            if found is not None:
                return found
        raise ImageError(
            f"{train / self.good[0]}: no such folder; expected {_LAYOUT} in {self.root}, got "
            f"{_listed(entry.name + '/' for entry in folders)} in {train}{_advice(folders)}"
        )

    def _test_images(self) -> list[TestImage]:
        test = self._folder("test")
        folders = _folders(test)
        if not folders:
            raise ImageError(f"{test}: expected folders test/<defect>, got none in it")
        truth = _named(_folders(self.root), "ground_truth")
        masks = [] if truth is None else _folders(truth)
        images: list[TestImage] = []
        good = {name.casefold() for name in self.good}
        unmarked: list[Path] = []
        for folder in folders:
            paths = self._images(folder)
            if folder.name.casefold() in good:
                images += [TestImage(path, folder.name, False, None) for path in paths]
                continue
            found, unmatched = _masks_of(paths, folder, _named(masks, folder.name))
            self.unmatched += unmatched
            images += [
                TestImage(path, folder.name, True, mask)
                for path, mask in zip(paths, found, strict=True)
            ]
            if not any(found):
                unmarked.append(folder)
        if unmarked and all(image.is_defective for image in images):
            raise ImageError(
                f"{test}: expected a folder of normal images called {' or '.join(self.good)}, got "
                f"{_listed(folder.name for folder in folders)}; {unmarked[0].name} has no masks: "
                f"if its images are normal, name it{_advice(unmarked, self.good)}"
            )
        return images

    def _images(self, folder: Path) -> list[Path]:
        paths = list_images(folder)
        if not paths:
            raise ImageError(f"{folder}: expected images, got none in this folder", path=folder)
        return paths

    def _folder(self, name: str) -> Path:
        found = _named(_folders(self.root), name)
        if found is None:
            there = sorted(e.name + "/" * e.is_dir() for e in self.root.iterdir())
            raise ImageError(
                f"{self.root / name}: no such folder; expected {_LAYOUT} in {self.root}, "
                f"got {_listed(there)}"
            )
        return found


def _folders(parent: Path) -> list[Path]:
    """Return the folders in a folder, sorted; hidden ones are left out."""
    try:
        return sorted(e for e in parent.iterdir() if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise ImageError(f"{parent}: expected a readable folder, got: {error.strerror}") from error


def _named(folders: Iterable[Path], name: str) -> Path | None:
    """Return the folder of a name, else one that is written in another case."""
    alike = [folder for folder in folders if folder.name.casefold() == name.casefold()]
    return next((folder for folder in alike if folder.name == name), alike[0] if alike else None)


def _listed(names: Iterable[str]) -> str:
    there = list(names)
    return ", ".join(there[:8]) + (", …" if len(there) > 8 else "") or "no folder"


def _advice(folders: Sequence[Path], good: Sequence[str] = ()) -> str:
    """Return how to name another folder of normal images."""
    if not folders:
        return ""
    names = [*good, folders[0].name]
    word = repr(names[0]) if len(names) == 1 else repr(names)
    return f" (good={word}, or --good {','.join(names)})"


def _masks_of(
    images: Sequence[Path], folder: Path, masks: Path | None
) -> tuple[list[Path | None], list[Path]]:
    """Return the mask of each image of a folder, if there is one, and masks of no image.

    The latter only where an image has none.
    """
    if masks is None:
        return [None] * len(images), []
    listings: dict[Path, dict[str, list[Path]]] = {}
    found: list[Path | None] = []
    for image in images:
        below = masks / image.relative_to(folder).parent
        if below not in listings:
            listings[below] = _masks_in(below)
        found.append(_mask_of(image, listings[below]))
    if all(found):
        return found, []
    there = {
        entry for listing in listings.values() for alike in listing.values() for entry in alike
    }
    # Folders below may be those of other images.
    return found, sorted(entry for entry in there - set(found) if entry.is_file())


def _masks_in(folder: Path) -> dict[str, list[Path]]:
    """Return the files and folders that may be masks, by their stem in lower case."""
    there: dict[str, list[Path]] = {}
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            is_folder = entry.is_dir()
            if is_folder or entry.suffix.lower() in IMAGE_SUFFIXES:
                stem = entry.name if is_folder else entry.stem
                there.setdefault(stem.casefold(), []).append(entry)
    return there


def _mask_of(image: Path, there: dict[str, list[Path]]) -> Path | None:
    for ending in _MASK_ENDINGS:
        stem = image.stem + ending
        alike = there.get(stem.casefold(), [])
        # Names that differ in their case alone are two images, where the file system has both.
        exact = [entry for entry in alike if entry.name.startswith(stem)] or alike
        files = [entry for entry in exact if entry.is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise ImageError(f"{image}: expected one mask, got {names} in {files[0].parent}")
        if exact:
            return (files or exact)[0]
    return None
