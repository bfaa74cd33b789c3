"""A network that goes over large images tile by tile, as one network that gives whole pyramids."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.data.own_size import OwnPixels, geometry_of
from knnspect.errors import ParameterError
from knnspect.features.cells import averaged, unit_cells
from knnspect.features.constraints import checked_image_size
from knnspect.features.network import Images, Network, NetworkSettings
from knnspect.features.reach import reach_of
from knnspect.pyramid import FeaturePyramid
from knnspect.views.tiling import Tile, check_tiles, tiles_of

__all__ = ["TiledNetwork", "settings_of_tiles"]


def settings_of_tiles(settings: NetworkSettings) -> NetworkSettings:
    """Return what is asked of the network that sees the tiles.

    Averages and norms are taken of cells once they are stitched, and the tiles of an image may
    differ in size.
    """
    return replace(settings, resize="own", patch_size=1, unit=False, tile=None)


class TiledNetwork:
    """Runs a network over the tiles of each image, and stitches their cells.

    Pooled features are the mean of those of the tiles, each weighted by the pixels that are its
    own, or the maximum over them.

    Parameters
    ----------
    network : Network
        What sees the tiles, asked for by `settings_of_tiles`.
    settings : NetworkSettings
        What is asked of the whole.

    Raises
    ------
    ParameterError
        If tiles cannot have this size and this overlap.
    """

    def __init__(self, network: Network, settings: NetworkSettings) -> None:
        if settings.tile is None:
            raise ParameterError("tile: expected the side of tiles, got None")
        self.network, self.tile, self.overlap = network, int(settings.tile), int(settings.overlap)
        self._multiple = network.geometry.multiple
        check_tiles(self.tile, self.overlap, self._multiple)
        if settings.pooled == "cls":
            raise ParameterError(
                'pooled: "cls" is that of a whole image, tiles have one each; expected "mean" or '
                '"max"',
                parameter="pooled",
            )
        self.patch_size, self.unit = int(settings.patch_size), bool(settings.unit)
        self.pooled, self.source = settings.pooled, network.source
        image_size = checked_image_size(settings.image_size)
        multiple = self._multiple if settings.resize in ("own", "shorter") else 1
        self.geometry = geometry_of(
            image_size, settings.resize, network.geometry.interpolation, multiple
        )
        if settings.resize not in ("own", "shorter") and max(image_size) <= self.tile:
            raise ParameterError(
                f'tile: with resize="{settings.resize}" images become {image_size[0]} x '
                f"{image_size[1]} pixels, which is one tile; expected less than "
                f'{max(image_size)}, a larger image_size, or resize="own", got {self.tile}',
                parameter="tile",
            )

    @property
    def levels(self) -> list[int] | list[str]:
        """Which of the network's maps make the pyramid."""
        return self.network.levels

    @property
    def device(self) -> Any:
        """Where the network runs."""
        return self.network.device

    @property
    def channels(self) -> list[int]:
        """How many channels each of the levels has."""
        return self.network.channels

    @cached_property
    def reach(self) -> list[int] | None:
        """How many pixels beyond a cell of each level it depends on; None: on the whole input."""
        return reach_of(self.network, self._multiple)

    def warn(self) -> None:
        """Warn if no cell of a tile is what it is in the whole image.

        Warns
        -----
        UserWarning
            If each cell depends on all of its tile, or the receptive field is larger than a tile.
        """
        if self.reach is None:
            warnings.warn(
                "tile: each cell of this network depends on its whole input, as by attention or "
                "squeeze-and-excitation: with any overlap, cells are those of tiles as images of "
                "their own, not those of the whole image",
                UserWarning,
                stacklevel=5,
            )
        elif (field := 2 * max(self.reach) + self._multiple) > self.tile:
            warnings.warn(
                f"tile: expected at least {field} pixels, the receptive field of the levels, got "
                f"{self.tile}: of the coarsest level no cell is what it is in the whole image",
                UserWarning,
                stacklevel=5,
            )

    def settings(self) -> dict[str, Any]:
        """Return, JSON-compatible, all that features depend on beside the weights; and `source`."""
        return {
            **self.network.settings(),
            "image_size": list(self.geometry.image_size),
            "resize": self.geometry.resize,
            "patch_size": self.patch_size,
            "unit": self.unit,
            "tile": self.tile,
            "overlap": self.overlap,
        }

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Return the network's weights by name."""
        return self.network.tensors()

    def window(self, image: NDArray[np.float32] | OwnPixels, number: int) -> NDArray[np.float32]:
        """Return a tile of a prepared image, (3, height, width), counted round and round."""
        tiles = self._tiles(image)
        return _window(image, tiles[number % len(tiles)])

    def forward(
        self, images: Images, batch_size: int, pooled: bool = True
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Return the pyramids of images of one size and, if they are asked for, pooled features.

        One image after the other, and on a GPU up to `batch_size` tiles of it at a time.
        """
        parts = [self._of_image(image, batch_size, pooled) for image in images]
        pyramids = [pyramid for pyramid, _ in parts]
        pyramid = pyramids[0] if len(pyramids) == 1 else FeaturePyramid.concatenate(pyramids)
        return pyramid, np.stack([vector for _, vector in parts])

    def _tiles(self, image: NDArray[np.float32] | OwnPixels) -> list[Tile]:
        height, width = image.shape[1:]
        return tiles_of((height, width), self.tile, self.overlap, self._multiple)

    def _of_image(
        self, image: NDArray[np.float32] | OwnPixels, batch_size: int, pooled: bool
    ) -> tuple[FeaturePyramid, NDArray[np.float32]]:
        """Return the pyramid of an image, and its pooled features, shape (n_features,)."""
        tiles, (height, width) = self._tiles(image), image.shape[1:]
        is_on_cuda = getattr(self.device, "type", "cpu") == "cuda"
        at_once = batch_size if is_on_cuda else 1
        levels: list[Any] = []
        vectors: list[NDArray[np.float32]] = []
        for first in range(0, len(tiles), at_once):
            some = tiles[first : first + at_once]
            windows = [_window(image, tile) for tile in some]
            pyramid, found = self.network.forward(windows, batch_size, pooled)
            vectors += list(found)
            strides = _strides(windows[0].shape[1:], pyramid)
            if not levels:
                levels = [
                    _empty_like(array, (1, height // stride, width // stride))
                    for array, stride in zip(pyramid.arrays, strides, strict=True)
                ]
            for level, array, stride in zip(levels, pyramid.arrays, strides, strict=True):
                for place, tile in enumerate(some):
                    rows, columns = (span.cells(stride) for span in tile)
                    there = [
                        slice(cells.start - span.start // stride, cells.stop - span.start // stride)
                        for cells, span in zip((rows, columns), tile, strict=True)
                    ]
                    level[0, rows, columns] = array[place, there[0], there[1]]
        for place, level in enumerate(levels):  # each in place of what it is made of
            levels[place] = self._finished(level)
            del level
        return FeaturePyramid(levels), self._pooled(tiles, np.stack(vectors))

    def _finished(self, level: Any) -> Any:
        """Return a level, (1, height, width, channels), with averages and norms taken."""
        if not isinstance(level, np.ndarray):
            from knnspect.features.torch.network import finished

            return finished(level.permute(0, 3, 1, 2), self.patch_size, self.unit).permute(
                0, 2, 3, 1
            )
        map_ = level[0]
        with np.errstate(all="ignore"):  # what is not finite is found where it matters
            if self.patch_size > 1:
                map_ = averaged(map_, self.patch_size)
            if self.unit:
                map_ = unit_cells(map_)
        return map_[None]

    def _pooled(self, tiles: list[Tile], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.pooled == "max":
            return np.asarray(vectors.max(axis=0))
        weights = np.array([tile.share for tile in tiles], np.float64)
        # Summed tile by tile; a product may round by the number of threads.
        means = (vectors * (weights / weights.sum())[:, None]).sum(axis=0)
        return np.asarray(means, np.float32)


def _window(image: NDArray[np.float32] | OwnPixels, tile: Tile) -> NDArray[np.float32]:
    rows, columns = tile.rows.pixels, tile.columns.pixels
    if isinstance(image, OwnPixels):
        return image.window(rows, columns)
    return np.ascontiguousarray(image[:, rows, columns])


def _strides(size: tuple[int, ...], pyramid: FeaturePyramid) -> list[int]:
    """Return the stride of each level of a tile."""
    strides = []
    for height, width, _ in pyramid.shapes:
        stride = size[0] // height
        if (height * stride, width * stride) != tuple(size):
            raise ParameterError(
                f"levels: tiles need maps with a cell for each square of pixels, a tile of "
                f"{size[0]} x {size[1]} pixels has one of {height} x {width} cells",
                parameter="levels",
            )
        strides.append(stride)
    return strides


def _empty_like(array: Any, shape: tuple[int, int, int]) -> Any:
    shape_of_all = (*shape, array.shape[3])
    if isinstance(array, np.ndarray):
        return np.empty(shape_of_all, array.dtype)
    return array.new_empty(shape_of_all)
