"""The Rust core."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Gallery",
    "Search",
    "Store",
    "__version__",
    "concatenate",
    "instruction_sets",
    "pick_rows",
    "read_file",
    "replace_file",
    "save_tensors",
]
__version__: str

def instruction_sets() -> list[str]: ...
def read_file(path: str | PathLike[str], limit: int, follow_links: bool) -> bytes: ...
def replace_file(path: str | PathLike[str], contents: bytes, follow_links: bool) -> None: ...
def save_tensors(
    path: str | PathLike[str],
    kind: str,
    metadata: dict[str, str],
    tensors: dict[str, NDArray[Any]],
    follow_links: bool = True,
) -> None: ...
def concatenate(levels: list[NDArray[Any]], upsample: str) -> NDArray[np.float32]: ...
def pick_rows(
    gallery: Gallery,
    count: int,
    first: tuple[int, int],
    projection: NDArray[np.float32] | None,
    threads: int | None,
    instruction_set: str | None,
    progress: Callable[[int], object] | None,
) -> tuple[
    NDArray[np.uint32],
    NDArray[np.uint32],
    NDArray[np.float32],
    float,
    list[str],
    tuple[int, list[tuple[str, int]]],
]: ...

@final
class Gallery:
    def __new__(cls, upsample: str, dtype: str) -> Gallery: ...
    @staticmethod
    def from_store(store: Store) -> Gallery: ...
    @staticmethod
    def create(path: str | PathLike[str], upsample: str, dtype: str) -> Gallery: ...
    @staticmethod
    def open(path: str | PathLike[str], write: bool) -> Gallery: ...
    @property
    def path(self) -> Path | None: ...
    @property
    def is_writable(self) -> bool: ...
    @property
    def n_removed(self) -> int: ...
    def close(self) -> None: ...
    @property
    def upsample(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shapes(self) -> list[tuple[int, int, int]]: ...
    @property
    def ids(self) -> list[str]: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def contains(self, id: str) -> bool: ...  # noqa: A002
    def free_ids(self, n: int) -> list[str]: ...
    def add(self, levels: list[NDArray[Any]], ids: list[str]) -> None: ...
    def replace(self, levels: list[NDArray[Any]], ids: list[str]) -> None: ...
    def remove(self, ids: list[str]) -> None: ...
    def compact(self) -> None: ...
    def verify(self) -> None: ...
    def copy(self) -> Gallery: ...
    def image(self, id: str, /) -> list[NDArray[Any]]: ...  # noqa: A002
    def save(
        self,
        path: str | PathLike[str],
        kind: str,
        metadata: dict[str, str],
        tensors: dict[str, NDArray[Any]],
        follow_links: bool = True,
    ) -> None: ...

@final
class Search:
    def __new__(
        cls,
        gallery: Gallery,
        levels: list[NDArray[Any]],
        k: int,
        images: list[list[str]] | None,
        threads: int | None,
    ) -> Search: ...
    @staticmethod
    def of(
        gallery: Gallery,
        shapes: list[tuple[int, int, int]],
        n_images: int,
        k: int,
        images: list[list[str]] | None,
        threads: int | None,
    ) -> Search: ...
    @property
    def ids(self) -> list[str]: ...
    @property
    def shapes(self) -> list[tuple[int, int, int]]: ...
    @property
    def upsample(self) -> str: ...
    def ranks(self, image: int) -> NDArray[np.uint32]: ...
    def serials(self, image: int) -> NDArray[np.uint64]: ...
    def levels(self, image: int, ranks: list[int]) -> list[NDArray[np.float32]]: ...
    def rows(self, image: int, ranks: list[int]) -> NDArray[np.float32]: ...
    def rescore(
        self,
        levels: list[NDArray[Any]],
        image: int,
        query_cells: NDArray[np.uint32],
        starts: NDArray[np.uint64],
        ranks: NDArray[np.uint32],
        cells: NDArray[np.uint32],
    ) -> tuple[NDArray[np.float64], NDArray[np.uint32], NDArray[np.uint32]]: ...
    def search_image(
        self, levels: list[NDArray[Any]], image: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]: ...
    def search(
        self, levels: list[NDArray[Any]], instruction_set: str | None, matcher: str
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.uint32],
        NDArray[np.uint32],
        tuple[int, list[tuple[str, int]]],
    ]: ...

@final
class Store:
    def __new__(
        cls, path: str | PathLike[str], verify: bool, follow_links: bool = True
    ) -> Store: ...
    @property
    def path(self) -> Path: ...
    @property
    def kind(self) -> str: ...
    @property
    def metadata(self) -> dict[str, str]: ...
    @property
    def names(self) -> list[str]: ...
    def tensor(self, name: str) -> NDArray[Any]: ...
