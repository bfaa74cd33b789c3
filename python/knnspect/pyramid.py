"""Feature pyramids: the feature maps of images at several resolutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knnspect import _core
from knnspect.errors import DTypeError, ShapeError

__all__ = ["FeaturePyramid"]


class FeaturePyramid:
    """The feature maps of a batch of images, finest level first.

    Parameters
    ----------
    levels : sequence of array_like
        ``levels[l]`` has shape ``(n_images, height_l, width_l, channels_l)``, float32 or float16.
        The height and width of each level divide those of the finer one. Arrays that are not
        C-contiguous and aligned are copied; the others are used as they are.

    Attributes
    ----------
    levels : tuple of ndarray
        The feature maps, C-contiguous.
    n_images : int
        Number of images.
    shapes : list of (int, int, int)
        ``(height, width, channels)`` of each level.

    Raises
    ------
    ShapeError
        If there is no level, a level has not four axes or is empty, the levels disagree about the
        number of images, or they do not nest.
    DTypeError
        If a level is neither float32 nor float16.

    Examples
    --------
    >>> import numpy as np
    >>> pyramid = FeaturePyramid([np.zeros((5, 8, 8, 3), "f4"), np.zeros((5, 4, 4, 16), "f4")])
    >>> pyramid.n_images, pyramid.shapes
    (5, [(8, 8, 3), (4, 4, 16)])
    >>> pyramid[1:3]
    FeaturePyramid(n_images=2, levels=8x8x3 + 4x4x16)
    """

    def __init__(self, levels: Sequence[ArrayLike]) -> None:
        self.levels = tuple(_check_level(index, level) for index, level in enumerate(levels))
        if not self.levels:
            raise ShapeError("levels: a feature pyramid needs at least one level, got none")
        for index, (finer, level) in enumerate(pairwise(self.levels), start=1):
            if level.shape[0] != finer.shape[0]:
                raise ShapeError(
                    f"levels[{index}] has {level.shape[0]} images, the finer levels have "
                    f"{finer.shape[0]}"
                )
            if finer.shape[1] % level.shape[1] or finer.shape[2] % level.shape[2]:
                raise ShapeError(
                    f"levels[{index}] is {level.shape[1]} x {level.shape[2]}: its height and width "
                    f"must divide those of the finer level, {finer.shape[1]} x {finer.shape[2]}"
                )

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self.levels[0].shape[0])

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(height, width, channels)`` of each level."""
        return [(h, w, c) for _, h, w, c in (level.shape for level in self.levels)]

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(level.nbytes for level in self.levels)

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, images: int | slice | Sequence[int]) -> FeaturePyramid:
        """Select some of the images; an integer keeps the axis, as ``[i:i + 1]`` does."""
        if isinstance(images, (int, np.integer)):
            if not -self.n_images <= images < self.n_images:
                raise IndexError(f"image {images} of a pyramid of {self.n_images} images")
            images = [int(images) % self.n_images]
        return FeaturePyramid([level[images] for level in self.levels])

    def __repr__(self) -> str:
        levels = " + ".join(f"{h}x{w}x{c}" for h, w, c in self.shapes)
        return f"FeaturePyramid(n_images={self.n_images}, levels={levels})"

    def concatenated(
        self, upsample: Literal["bilinear", "block"] = "bilinear"
    ) -> NDArray[np.float32]:
        """Return the features of every cell in one row: all levels upsampled, one after the other.

        Parameters
        ----------
        upsample : {"bilinear", "block"}, default "bilinear"
            How coarse levels are brought to the resolution of the finest one; see `Gallery`.

        Returns
        -------
        ndarray of float32, shape (n_images, height, width, n_features)
            Interpolated in float64 and rounded once; a copy. Height and width are those of the
            finest level, `n_features` is the sum of all channels.

        Raises
        ------
        ParameterError
            If `upsample` is another word.
        MemoryError
            If there is not enough memory.

        Examples
        --------
        >>> import numpy as np
        >>> fine = np.zeros((1, 2, 2, 1), "f4")
        >>> coarse = np.array([[[[3.0]]]], "f4")
        >>> FeaturePyramid([fine, coarse]).concatenated("block")[0, 1]
        array([[0., 3.],
               [0., 3.]], dtype=float32)
        """
        return _core.concatenate(list(self.levels), upsample)

    @classmethod
    def concatenate(cls, pyramids: Iterable[FeaturePyramid]) -> FeaturePyramid:
        """Join the images of several pyramids of the same shapes.

        Parameters
        ----------
        pyramids : iterable of FeaturePyramid
            At least one.

        Returns
        -------
        FeaturePyramid
            All images, in order.

        Raises
        ------
        ShapeError
            If there is no pyramid, or their shapes differ.

        Examples
        --------
        >>> import numpy as np
        >>> one = FeaturePyramid([np.zeros((1, 2, 2, 3), "f4")])
        >>> FeaturePyramid.concatenate([one, one]).n_images
        2
        """
        parts = list(pyramids)
        if not parts:
            raise ShapeError("pyramids: expected at least one, got none")
        for part in parts:
            if part.shapes != parts[0].shapes:
                raise ShapeError(
                    f"cannot join a pyramid of {part.shapes} to one of {parts[0].shapes}"
                )
        levels = zip(*(part.levels for part in parts), strict=True)
        return cls([np.concatenate(level) for level in levels])


def _check_level(index: int, level: ArrayLike) -> NDArray[Any]:
    array = np.asarray(level)
    if array.dtype not in (np.float32, np.float16):
        raise DTypeError(f"levels[{index}]: expected float32 or float16, got {array.dtype}")
    if array.ndim != 4:
        raise ShapeError(
            f"levels[{index}]: expected (n_images, height, width, channels), "
            f"got shape {array.shape}"
        )
    if 0 in array.shape[1:]:
        raise ShapeError(f"levels[{index}] is empty: its shape is {array.shape}")
    # Aligned too, which a memory map at an odd offset is not.
    return np.require(array, requirements=["C", "A"])
