"""Real images to try things on: electroluminescence images of solar cells."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from knnspect.errors import ImageError, KnnspectError, ParameterError

__all__ = ["ElpvSplit", "elpv_split"]


class ElpvSplit(NamedTuple):
    """Files of the ELPV data set; no file is in two of the lists.

    Attributes
    ----------
    train : list of pathlib.Path
        Functional cells to learn from.
    functional : list of pathlib.Path
        Functional cells to be scored.
    defective : list of pathlib.Path
        Defective cells to be scored.
    """

    train: list[Path]
    functional: list[Path]
    defective: list[Path]


def elpv_split(
    n_train: int = 200, n_functional: int = 60, n_defective: int = 60, seed: int = 0
) -> ElpvSplit:
    """Return a random split of the monocrystalline cells of the ELPV data set.

    Functional are those that the experts gave the defect probability 0, defective those with 1;
    the cells in between are left out. Nothing is downloaded and no image is opened: the files are
    those of the installed package ``elpv-dataset``, grey, 300 x 300 pixels.

    Parameters
    ----------
    n_train, n_functional, n_defective : int
        How many of each.
    seed : int
        Another seed draws other images.

    Returns
    -------
    ElpvSplit
        Three sorted lists of files.

    Raises
    ------
    KnnspectError
        The package is not installed.
    ParameterError
        A number is negative, or more images are asked for than there are.
    ImageError
        The package's list of images is missing or cannot be understood.

    Source
    ------
    Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated
    electroluminescence images", Machine Vision and Applications 32, 2021.

    Examples
    --------
    >>> split = elpv_split(n_train=3, n_functional=2, n_defective=1)
    >>> [len(files) for files in split], split.train[0].suffix
    ([3, 2, 1], '.png')
    """
    for name, n in (
        ("n_train", n_train),
        ("n_functional", n_functional),
        ("n_defective", n_defective),
    ):
        if n < 0:
            raise ParameterError(f"{name}: expected at least 0, got {n}")
    functional, defective = _labelled()
    _check_enough("n_train + n_functional", n_train + n_functional, "functional", functional)
    _check_enough("n_defective", n_defective, "defective", defective)
    rng = np.random.default_rng(seed)
    drawn = [functional[i] for i in rng.permutation(len(functional))]
    drawn_defective = [defective[i] for i in rng.permutation(len(defective))]
    return ElpvSplit(
        train=sorted(drawn[:n_train]),
        functional=sorted(drawn[n_train : n_train + n_functional]),
        defective=sorted(drawn_defective[:n_defective]),
    )


def _labelled() -> tuple[list[Path], list[Path]]:
    """Return the functional and the defective monocrystalline cells, in the package's order."""
    # Found, not imported: importing the package would bring in what it needs to load images.
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise KnnspectError(
            "elpv_split: expected the package elpv-dataset, which is not installed: "
            'pip install "knnspect[demo]"'
        )
    data = Path(spec.submodule_search_locations[0]) / "data"
    labels = data / "labels.csv"
    functional: list[Path] = []
    defective: list[Path] = []
    try:
        for line in labels.read_text(encoding="utf-8").splitlines():
            path, probability, kind = line.split()
            if kind != "mono":
                continue
            if float(probability) == 0:
                functional.append(data / path)
            elif float(probability) == 1:
                defective.append(data / path)
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{labels}: expected lines of path, probability and type, got: {error}"
        ) from error
    return functional, defective


def _check_enough(name: str, n: int, kind: str, there: list[Path]) -> None:
    if n > len(there):
        raise ParameterError(f"{name}: expected at most the {len(there)} {kind} cells, got {n}")
