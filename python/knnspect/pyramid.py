"""Feature pyramids: the feature maps of images at several resolutions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from knnspect import _core
from knnspect.errors import DTypeError, ShapeError

__all__ = ["FeaturePyramid", "describe_shapes", "is_of_kind"]

#: Values that are concatenated at a time, so that large images take little memory: 128 MiB.
AT_ONCE = 2**25


class FeaturePyramid:
    """The feature maps of a batch of images, finest level first.

    Parameters
    ----------
    levels : sequence of array_like or Tensor
        ``levels[l]`` has shape ``(n_images, height_l, width_l, channels_l)``, float32 or float16.
        The height and width of each level divide those of the finer one. Arrays that are not
        C-contiguous and aligned are copied; the others are used as they are. Tensors of PyTorch
        stay tensors, on the device where they are, until `levels` is asked for.

    Attributes
    ----------
    levels : tuple of ndarray
        The feature maps, C-contiguous. Those of tensors on a device are copied from there once.
    arrays : tuple of ndarray or Tensor
        The feature maps as they came, contiguous.
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
        self.arrays = tuple(_check_level(index, level) for index, level in enumerate(levels))
        self._levels: tuple[NDArray[Any], ...] | None = None
        if not self.arrays:
            raise ShapeError("levels: a feature pyramid needs at least one level, got none")
        for index, (finer, level) in enumerate(pairwise(self.arrays), start=1):
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
    def levels(self) -> tuple[NDArray[Any], ...]:
        """The feature maps as arrays of NumPy."""
        if self._levels is None:
            self._levels = tuple(
                level.cpu().numpy() if _is_tensor(level) else level for level in self.arrays
            )
        return self._levels

    @property
    def is_on_device(self) -> bool:
        """Whether a level is a tensor on another device than the CPU."""
        return any(_is_tensor(level) and level.device.type != "cpu" for level in self.arrays)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self.arrays[0].shape[0])

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(height, width, channels)`` of each level."""
        return [(h, w, c) for _, h, w, c in (level.shape for level in self.arrays)]

    @property
    def nbytes(self) -> int:
        """Bytes of all levels."""
        return sum(level.nbytes for level in self.arrays)

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, images: int | slice | Sequence[int]) -> FeaturePyramid:
        """Select some of the images; an integer keeps the axis, as ``[i:i + 1]`` does."""
        if isinstance(images, (int, np.integer)):
            if not -self.n_images <= images < self.n_images:
                raise IndexError(f"image {images} of a pyramid of {self.n_images} images")
            images = [int(images) % self.n_images]
        if isinstance(images, slice) and images.step is not None and images.step < 0:
            images = list(range(self.n_images)[images])  # tensors know no negative steps
        part = FeaturePyramid([level[images] for level in self.arrays])
        if self._levels is not None and self.is_on_device:  # not to be copied again
            part._levels = tuple(np.ascontiguousarray(level[images]) for level in self._levels)
        return part

    def __reduce__(self) -> tuple[Callable[..., FeaturePyramid], tuple[object, ...]]:
        return FeaturePyramid, (list(self.levels),)

    def __repr__(self) -> str:
        return f"FeaturePyramid(n_images={self.n_images}, levels={describe_shapes(self.shapes)})"

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

    def concatenated_in_strips(
        self, upsample: Literal["bilinear", "block"] = "bilinear", most: int = AT_ONCE
    ) -> Iterator[NDArray[np.float32]]:
        """Yield what `concatenated` returns, to the bit, some rows of all images at a time.

        Parameters
        ----------
        upsample : {"bilinear", "block"}, default "bilinear"
            As for `concatenated`.
        most : int, default 2**25
            How many values a part has at most, but for one that has a row of the coarsest level.

        Yields
        ------
        ndarray of float32, shape (n_images, n_rows, width, n_features)
            The next rows.

        Examples
        --------
        >>> import numpy as np
        >>> levels = [np.zeros((1, 8, 2, 1), "f4"), np.zeros((1, 4, 1, 2), "f4")]
        >>> [part.shape for part in FeaturePyramid(levels).concatenated_in_strips(most=24)]
        [(1, 4, 2, 3), (1, 4, 2, 3)]
        """
        (height, width, _), (n_rows, *_) = self.shapes[0], self.shapes[-1]
        ratio = height // n_rows
        of_row = self.n_images * ratio * width * sum(channels for *_, channels in self.shapes)
        step = max(1, most // of_row)
        if step >= n_rows:
            yield self.concatenated(upsample)
            return
        for top in range(0, n_rows, step):
            bottom = min(top + step, n_rows)
            # With the rows beside it, into which bilinear upsampling reaches.
            first, last = max(0, top - 1), min(bottom + 1, n_rows)
            part = FeaturePyramid(
                [
                    level[:, first * len(level[0]) // n_rows : last * len(level[0]) // n_rows]
                    for level in self.levels
                ]
            )
            yield part.concatenated(upsample)[:, (top - first) * ratio : (bottom - first) * ratio]

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
        if all(_is_tensor(level) for part in parts for level in part.arrays):
            torch = sys.modules["torch"]
            return cls([torch.cat(level) for level in zip(*(p.arrays for p in parts), strict=True)])
        levels = zip(*(part.levels for part in parts), strict=True)
        return cls([np.concatenate(level) for level in levels])


def describe_shapes(shapes: Sequence[tuple[int, int, int]]) -> str:
    """Return the shapes of levels in words.

    >>> describe_shapes([(8, 8, 3), (4, 4, 16)])
    '8x8x3 + 4x4x16'
    """
    return " + ".join(f"{height}x{width}x{channels}" for height, width, channels in shapes)


def is_of_kind(
    shapes: Sequence[tuple[int, int, int]], others: Sequence[tuple[int, int, int]]
) -> bool:
    """Return whether pyramids have levels of the same channels and relative sizes, on any grids.

    >>> is_of_kind([(8, 8, 3), (4, 4, 16)], [(8, 12, 3), (4, 6, 16)])
    True
    >>> is_of_kind([(8, 8, 3), (4, 4, 16)], [(8, 8, 3), (4, 2, 16)])
    False
    """
    one, other = (
        [(these[0][0] // h, these[0][1] // w, channels) for h, w, channels in these]
        for these in (shapes, others)
    )
    return one == other


def _is_tensor(level: object) -> bool:
    """Return whether a level is a tensor of PyTorch, which is not imported for that."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(level, torch.Tensor)


def _check_level(index: int, level: Any) -> Any:
    """Return a level as it is kept, a tensor or an array, or raise an error that names it."""
    is_tensor = _is_tensor(level)
    array: Any = level.detach() if is_tensor else np.asarray(level)
    dtypes = {"torch.float32", "torch.float16"} if is_tensor else (np.float32, np.float16)
    if (str(array.dtype) if is_tensor else array.dtype) not in dtypes:
        raise DTypeError(f"levels[{index}]: expected float32 or float16, got {array.dtype}")
    if array.ndim != 4:
        raise ShapeError(
            f"levels[{index}]: expected (n_images, height, width, channels), "
            f"got shape {tuple(array.shape)}"
        )
    if 0 in array.shape[1:]:
        raise ShapeError(f"levels[{index}] is empty: its shape is {tuple(array.shape)}")
    if is_tensor:
        return array.contiguous()
    # Aligned too, which a memory map at an odd offset is not.
    return np.require(array, requirements=["C", "A"])
