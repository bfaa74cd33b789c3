"""What images are opened for: to be learnt from, or to be judged."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from knnspect.data.sources import ImageSource, open_images
from knnspect.errors import DatasetWarning, ImageError

__all__ = ["open_to_judge", "open_to_learn"]

_TRUTH, _PARTS = "ground_truth", {"train", "test", "ground_truth"}
_GOOD = {"good", "ok", "normal"}


def open_to_learn(images: object) -> ImageSource:
    """Return a source of normal images; as `open_images`, but for the folder of a dataset.

    Parameters
    ----------
    images : object
        As `open_images` takes them. Only folders are looked at.

    Returns
    -------
    ImageSource
        The images.

    Raises
    ------
    ImageError
        A folder has, or has in it, two of the folders ``train``, ``test`` and ``ground_truth`` side
        by side, or is a dataset's ``ground_truth``: defective images and masks would be learnt.
        Also as `open_images`.

    Warns
    -----
    DatasetWarning
        A folder called ``good``, ``ok`` or ``normal`` has others beside it: all are learnt from.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/good", "test/cut", "ground_truth/cut"):
    ...         Path(folder, name).mkdir(parents=True)
    ...         Path(folder, name, "0.png").touch()
    ...     print(open_to_learn(f"{folder}/train/good").n_images)
    ...     open_to_learn(folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    knnspect.errors.ImageError: ...: expected normal images, got a dataset (ground_truth, test, ...
    """
    source = open_images(images)
    root = _folder(images)
    if root is None:
        return source
    _refuse_truth(root, "learnt from")
    below = _folders_below(source)
    for place, names in below.items():
        parts = sorted(name for name in names if name.casefold() in _PARTS)
        if len({name.casefold() for name in parts}) > 1:
            raise ImageError(
                f"{root / place}: expected normal images, got a dataset ({', '.join(parts)}): "
                "defective images or masks would be learnt; give the folder of its normal images, "
                f"such as {root / _normal_below(place, below)}"
            )
    for place, names in below.items():
        good = sorted(name for name in names if name.casefold() in _GOOD)
        others = sorted(names.difference(good))
        if good and others:
            more = ", …" if len(others) > 4 else ""
            warnings.warn(
                f"{root / place}: images in {', '.join(others[:4])}{more} are taken for normal, as "
                f"those in {good[0]} are",
                DatasetWarning,
                stacklevel=2,
            )
    return source


def open_to_judge(images: object) -> ImageSource:
    """Return a source of images to be judged; as `open_images`, but for masks.

    Parameters
    ----------
    images : object
        As `open_images` takes them. Only folders are looked at.

    Returns
    -------
    ImageSource
        The images.

    Raises
    ------
    ImageError
        A folder has, or has in it, the folder ``ground_truth`` beside ``train`` or ``test``, or is
        itself such a ``ground_truth``: masks would be judged. Also as `open_images`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("test/cut", "ground_truth/cut"):
    ...         Path(folder, name).mkdir(parents=True)
    ...         Path(folder, name, "0.png").touch()
    ...     print(open_to_judge(f"{folder}/test").n_images)
    ...     open_to_judge(folder)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    knnspect.errors.ImageError: ...: expected images to judge, got a dataset with its masks in ...
    """
    source = open_images(images)
    root = _folder(images)
    if root is None:
        return source
    _refuse_truth(root, "judged")
    for place, names in _folders_below(source).items():
        parts = {name.casefold(): name for name in names if name.casefold() in _PARTS}
        if _TRUTH in parts and len(parts) > 1:
            rest = parts.get("test", parts.get("train"))
            raise ImageError(
                f"{root / place}: expected images to judge, got a dataset with its masks in "
                f"{parts[_TRUTH]}, which would be judged, too; give the folder of its images, such "
                f"as {root / place / str(rest)}"
            )
    return source


def _folder(images: object) -> Path | None:
    """Return the folder, where images come as one."""
    if isinstance(images, str | os.PathLike) and os.path.isdir(images):  # noqa: PTH112 - any path
        return Path(images)
    return None


def _refuse_truth(root: Path, what: str) -> None:
    real = root.resolve()
    if real.name.casefold() != _TRUTH:
        return
    beside = {entry.name.casefold() for entry in real.parent.iterdir() if entry.is_dir()}
    if beside & _PARTS - {_TRUTH}:
        raise ImageError(
            f"{root}: expected images, got the masks of a dataset, not to be {what}", path=root
        )


def _normal_below(place: str, below: dict[str, set[str]]) -> str:
    """Return where normal images of a dataset are likely to be."""
    names = {name.casefold(): name for name in below[place]}
    train = f"{place}/{names.get('train', 'train')}".removeprefix("/")
    good = sorted(name for name in below.get(train, ()) if name.casefold() in _GOOD)
    return f"{train}/{good[0]}" if good else train


def _folders_below(source: ImageSource) -> dict[str, set[str]]:
    """Return the folders that hold images, by the folder that holds them."""
    found: dict[str, set[str]] = {}
    seen: set[str] = set()
    for item in source:
        above, _, _ = item.id.rpartition("/")
        # Up to a folder that was met before; most images lie in that of the last one.
        while above and above not in seen:
            seen.add(above)
            parent, _, name = above.rpartition("/")
            found.setdefault(parent, set()).add(name)
            above = parent
    return found
