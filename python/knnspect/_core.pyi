"""The Rust core: galleries, exact searches and files, over NumPy arrays.

The modules of `knnspect` check arguments and document them for users; this is what they stand on.
Errors are those of `knnspect.errors`, with their fields set. Long calls release the GIL and end on
Ctrl-C.
"""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Chooser",
    "FolderLock",
    "Gallery",
    "Neighbors",
    "Picks",
    "Rescored",
    "Search",
    "SearchStats",
    "ShardRows",
    "Store",
    "__version__",
    "concatenate",
    "instruction_sets",
    "merge_found",
    "pick_rows",
    "read_file",
    "replace_file",
    "save_tensors",
    "window_bounds",
]
__version__: str
"""The version of the package."""

def instruction_sets() -> list[str]:
    """Return the names of the instruction sets that kernels can use here, slowest first."""

def read_file(path: str | PathLike[str], limit: int, follow_links: bool) -> bytes:
    """Return the bytes of a regular file that has at most `limit` of them."""

def replace_file(path: str | PathLike[str], contents: bytes, follow_links: bool) -> None:
    """Write a file atomically: a crash leaves the old file or the new one."""

def save_tensors(
    path: str | PathLike[str],
    kind: str,
    metadata: dict[str, str],
    tensors: dict[str, NDArray[Any]],
    follow_links: bool = True,
) -> None:
    """Write arrays and metadata to a file of a kind, with a checksum, atomically."""

def concatenate(levels: list[NDArray[Any]], upsample: str) -> NDArray[np.float32]:
    """Return upsampled, concatenated features, ``(n_images, height, width, n_features)``.

    They are blended in float64 and rounded once.
    """

def window_bounds(
    shapes: list[tuple[int, int, int]], radii: list[int | None]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
    """Return what `Search.window` is for levels of these shapes, and these radii."""

def merge_found(
    parts: list[tuple[NDArray[np.float64], NDArray[np.uint32], NDArray[np.uint32]]], k: int
) -> Rescored:
    """Return the `k` nearest of what was found in several parts of a gallery.

    Each part has squared distances, ranks and cells, ``(n_cells, its k)``, nearest first.
    """

def pick_rows(
    gallery: Gallery,
    count: int,
    first: tuple[int, int],
    kept: NDArray[np.bool_] | None,
    projection: NDArray[np.float32] | None,
    threads: int | None,
    instruction_set: str | None,
    progress: Callable[[int], object] | None,
) -> Picks:
    """Pick `count` rows of a gallery, of those that are `kept`, by greedy k-centre selection.

    `first` is the rank of an image and a cell; `progress` is called with the number of rows picked.
    """

@final
class ShardRows:
    """What is known of the rows of a shard, of which some are picked by a `Chooser`.

    Rows have their numbers in the whole: ``rank * n_cells + cell``.
    """

    def __new__(
        cls,
        gallery: Gallery,
        ranks: NDArray[np.uint32],
        kept: NDArray[np.bool_] | None,
        projection: NDArray[np.float32] | None,
        threads: int | None,
    ) -> ShardRows:
        """Return those of all images of a gallery, which have some ranks in the whole."""
    def values(self, numbers: NDArray[np.uint64], projected: bool) -> NDArray[np.float32]:
        """Return some rows, as they are compared, or not projected."""
    def sample_of_values(self, most: int) -> NDArray[np.float32]:
        """Return at most so many rows, evenly spaced, as they are compared."""
    def begin(self, picks: NDArray[np.float32]) -> None:
        """Begin anew, after some picks."""
    def advance(
        self,
        picks: NDArray[np.float32],
        numbers: NDArray[np.uint64],
        sq: NDArray[np.float64],
        seen: NDArray[np.uint32],
    ) -> None:
        """Learn of the picks of a round, and how far rows are by now."""
    def sample(self, step: int) -> NDArray[np.float64]:
        """Return the squared distances of every so many rows, as far as they are known."""
    def front(
        self, reach: float, most: int
    ) -> tuple[
        int,
        tuple[float, int],
        NDArray[np.uint64],
        NDArray[np.float64],
        NDArray[np.float32],
    ]:
        """Bring rows up to date, down to a boundary; return those that still come before it.

        Those that lie at least as far as the reach, or, where they are more than twice as many as
        asked for, the first of them. Returned are how many, the boundary (squared distance and
        number), and the numbers, squared distances and values of those that may be picked.
        """

@final
class Chooser:
    """What picks among the rows that shards send."""

    def __new__(
        cls,
        n_shards: int,
        n_rows: int,
        count: int,
        first: int,
        values: NDArray[np.float32],
        sample: NDArray[np.float32],
        round: int | None,  # noqa: A002
    ) -> Chooser:
        """Begin after the first pick, by its number and values."""
    @property
    def step(self) -> int:
        """Of every so many rows a shard says how far it is."""
    @property
    def most(self) -> int:
        """How many rows a shard brings up to date, about."""
    @property
    def sq_radius(self) -> float | None:
        """Squared distance of the farthest row from its nearest pick, once all are picked."""
    @property
    def rows(self) -> NDArray[np.uint64]:
        """The numbers of the rows that were picked, in this order."""
    def values_after(self, n_picks: int) -> NDArray[np.float32]:
        """Return the values of the picks after some."""
    def reach(self, sample: NDArray[np.float64]) -> float:
        """Return how far the rows of the next round lie at least, by the samples of all shards."""
    def choose(
        self,
        fronts: list[
            tuple[
                int,
                tuple[float, int],
                NDArray[np.uint64],
                NDArray[np.float64],
                NDArray[np.float32],
            ]
        ],
    ) -> list[tuple[NDArray[np.float64], NDArray[np.uint32]]]:
        """Pick; return of each front how far its rows are by now, and how many picks they saw."""

@final
class SearchStats:
    """What a search or a selection did."""

    @property
    def pairs(self) -> int:
        """All pairs."""
    @property
    def stages(self) -> list[tuple[str, int]]:
        """The stages in their order, and the pairs that each compared."""

@final
class Neighbors:
    """What a search found: arrays whose last axis is the `k` nearest, nearest first."""

    @property
    def sq_distances(self) -> NDArray[np.float32]:
        """Squared L2 distances: float64's, rounded once."""
    @property
    def ranks(self) -> NDArray[np.uint32]:
        """Place of each neighbour's image among `Search.ids`."""
    @property
    def cells(self) -> NDArray[np.uint32]:
        """Cell of that image at the finest level, ``row * width + column``."""
    @property
    def stats(self) -> SearchStats:
        """What the search did."""

@final
class Rescored:
    """The nearest candidates of some cells: arrays ``(n_cells, k)``, nearest first.

    Where there are fewer than `k`, infinite distances fill up.
    """

    @property
    def sq_distances(self) -> NDArray[np.float64]:
        """Squared L2 distances."""
    @property
    def ranks(self) -> NDArray[np.uint32]:
        """Place of each candidate's image among `Search.ids`."""
    @property
    def cells(self) -> NDArray[np.uint32]:
        """Cell of that image at the finest level, ``row * width + column``."""

@final
class Picks:
    """The rows of a coreset, in the order in which they were picked."""

    @property
    def ranks(self) -> NDArray[np.uint32]:
        """Place of each row's image among `ids`, ``(n_picks,)``."""
    @property
    def cells(self) -> NDArray[np.uint32]:
        """Its cell at the finest level, ``(n_picks,)``."""
    @property
    def rows(self) -> NDArray[np.float32]:
        """Its features, not projected, ``(n_picks, n_features)``."""
    @property
    def sq_radius(self) -> float:
        """Squared distance of the farthest row from its nearest pick."""
    @property
    def ids(self) -> list[str]:
        """The sorted ids of the gallery."""
    @property
    def stats(self) -> SearchStats:
        """What the selection did."""

@final
class Gallery:
    """The pyramids of normal images, by id, in memory, in a file or in a folder.

    Several threads may use one. A search sees the images as they were when it began.
    """

    def __new__(cls, upsample: str, dtype: str) -> Gallery:
        """Make an empty gallery in memory."""
    @staticmethod
    def from_store(store: Store) -> Gallery:
        """Return the gallery in an open file; its features stay there."""
    @staticmethod
    def create(path: str | PathLike[str], upsample: str, dtype: str) -> Gallery:
        """Make an empty gallery in a new folder, and open it for writing."""
    @staticmethod
    def open(path: str | PathLike[str], write: bool) -> Gallery:
        """Open the gallery in a folder."""
    @staticmethod
    def open_at(path: str | PathLike[str], write: bool, state: str) -> Gallery:
        """Open the gallery in a folder as it was in a state, also if it was compacted once since.

        To write, a change that was made after it is taken back.
        """
    @property
    def journal_state(self) -> str | None:
        """32 digits that tell the state of the folder from every other; None in memory."""
    def share(self, other: Gallery, ids: list[str] | None, replace: bool) -> None:
        """Take all or some images of another gallery into this one, which is in memory.

        They are shared. With `replace`, they take the places of images with the same ids.
        """
    def take(self, other: Gallery, ids: list[str]) -> None:
        """Copy images of another gallery, byte for byte as it keeps them: all in one change."""
    @property
    def path(self) -> Path | None:
        """The folder; None in memory and in a file."""
    @property
    def is_writable(self) -> bool:
        """Whether images may be added and removed."""
    @property
    def n_removed(self) -> int:
        """Number of removed images whose features are still in the folder."""
    def close(self) -> None:
        """End writing, so that another process may write; the gallery can still be searched."""
    @property
    def upsample(self) -> str:
        """How coarse levels are upsampled, ``"bilinear"`` or ``"block"``."""
    @property
    def dtype(self) -> str:
        """How features are stored, ``"float32"``, ``"float16"`` or ``"int8"``."""
    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Height, width and channels of each level, finest first; empty before the first image."""
    @property
    def ids(self) -> list[str]:
        """The sorted ids; an image's place among them is its rank."""
    @property
    def nbytes(self) -> int:
        """Bytes of the stored features."""
    def __len__(self) -> int:
        """Return the number of images."""
    def contains(self, id: str) -> bool:  # noqa: A002
        """Return whether there is an image with this id."""
    def free_ids(self, n: int) -> list[str]:
        """Return the first `n` running numbers that are no ids yet."""
    def add(self, levels: list[NDArray[Any]], ids: list[str]) -> None:
        """Add images with new ids: all of them, or none if there is an error."""
    def replace(self, levels: list[NDArray[Any]], ids: list[str]) -> None:
        """Put images in the place of those with these ids: all of them, or none."""
    def remove(self, ids: list[str]) -> None:
        """Remove images: all of them, or none if one is unknown."""
    def compact(self) -> None:
        """Give back the room that removed images take in the folder."""
    def verify(self) -> None:
        """Read every image of the folder and compare its checksum."""
    def copy(self) -> Gallery:
        """Return another gallery of the same images, which are shared."""
    def level(self, index: int) -> Gallery:
        """Return a gallery of one level alone, of the same images, which are shared."""
    def image(self, id: str, /) -> list[NDArray[Any]]:  # noqa: A002
        """Return copies of the levels of one image, ``(height, width, channels)`` each."""
    def save(
        self,
        path: str | PathLike[str],
        kind: str,
        metadata: dict[str, str],
        tensors: dict[str, NDArray[Any]],
        follow_links: bool = True,
    ) -> None:
        """Write the gallery, with more metadata and tensors, to a file of a kind, atomically."""

@final
class FolderLock:
    """The right to change what is in a folder, until it is closed or gone."""

    def __new__(cls, path: str | PathLike[str]) -> FolderLock:
        """Take it, or raise a StoreError that names the process that has it."""
    def close(self) -> None:
        """Give it back."""

@final
class Search:
    """A search whose arguments were checked, of the images as they were when it began.

    The features of the query come with each call, as they may lie elsewhere meanwhile.
    """

    def __new__(
        cls,
        gallery: Gallery,
        levels: list[NDArray[Any]],
        k: int,
        images: list[list[str]] | None,
        threads: int | None,
        radii: list[int | None] | None = None,
        verify: bool = True,
    ) -> Search:
        """Begin a search for some pyramids, which must be finite.

        `images` has one list of ids, or one for each query image; `radii` the radius of a position
        window on each level. Without `verify`, images are verified when they are first read.
        """
    @staticmethod
    def of(
        gallery: Gallery,
        shapes: list[tuple[int, int, int]],
        n_images: int,
        k: int,
        images: list[list[str]] | None,
        threads: int | None,
        radii: list[int | None] | None = None,
        verify: bool = True,
    ) -> Search:
        """Begin a search for pyramids of these shapes; the caller checks that they are finite."""
    @property
    def ids(self) -> list[str]:
        """The sorted ids of all images searched: what ranks point into."""
    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Height, width and channels of each level of the gallery."""
    @property
    def upsample(self) -> str:
        """How coarse levels are upsampled."""
    @property
    def window(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]] | None:
        """For each row and each column of the finest level, those that are compared with it.

        The first, and one after the last; None where all are compared.
        """
    def ranks(self, image: int) -> NDArray[np.uint32]:
        """Return the ranks of the images that a query image is compared with."""
    def serials(self, image: int) -> NDArray[np.uint64]:
        """Return a number for each of these images that no other image has or had."""
    def levels(self, image: int, ranks: list[int]) -> list[NDArray[np.float32]]:
        """Return levels of some of these images, ``(n_images, height, width, channels)`` each."""
    def rows(self, image: int, ranks: list[int]) -> NDArray[np.float32]:
        """Return their upsampled, concatenated features, ``(n_images, n_cells, n_features)``."""
    def rescore(
        self,
        levels: list[NDArray[Any]],
        image: int,
        query_cells: NDArray[np.uint32],
        starts: NDArray[np.uint64],
        ranks: NDArray[np.uint32],
        cells: NDArray[np.uint32],
    ) -> Rescored:
        """Find the `k` nearest candidates of some cells of one query image.

        The candidates of cell `i` are those from ``starts[i]`` to ``starts[i + 1]``.
        """
    def search_image(self, levels: list[NDArray[Any]], image: int) -> Neighbors:
        """Search for one query image; the arrays are ``(n_cells, k)``."""
    def search(
        self,
        levels: list[NDArray[Any]],
        instruction_set: str | None,
        matcher: str,
        hidden: list[list[tuple[int, int]]] | None = None,
    ) -> Neighbors:
        """Search for all query images; the arrays are ``(n_images, n_cells, k)``.

        `hidden` has, for each query image, runs of cells that it is not compared with.
        """
    def search_exactly(self, levels: list[NDArray[Any]]) -> tuple[Rescored, SearchStats]:
        """Search with distances in float64; the arrays are ``(n_images * n_cells, k)``."""

@final
class Store:
    """An open, memory-mapped file of tensors."""

    def __new__(cls, path: str | PathLike[str], verify: bool, follow_links: bool = True) -> Store:
        """Open a file, and with `verify` compare the checksum of every byte."""
    @property
    def path(self) -> Path:
        """The file."""
    @property
    def kind(self) -> str:
        """What the file holds, as its writer named it."""
    @property
    def metadata(self) -> dict[str, str]:
        """All metadata."""
    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
    def tensor(self, name: str) -> NDArray[Any]:
        """Return a copy of one tensor."""
