"""Which normal images belong together, as frames of one video do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from knnspect.errors import DTypeError, ParameterError

__all__ = ["Blocks", "blocks_of", "merged_blocks"]

#: How blocks are given: each folder is one, or by the id of an image.
Blocks: TypeAlias = Literal["folder"] | Mapping[str, Hashable] | Callable[[str], Hashable] | None


def blocks_of(ids: Iterable[str], blocks: Blocks) -> list[Hashable] | None:
    """Return the block of each image; None if each is one of its own.

    Parameters
    ----------
    ids : iterable of str
        The images.
    blocks : {"folder"}, mapping, callable or None
        ``"folder"``: images that lie in one folder are a block; or the block of an id.

    Raises
    ------
    ParameterError
        If a mapping lacks an image, or the word is another.
    DTypeError
        If it is something else.

    Examples
    --------
    >>> blocks_of(["monday/1.png", "monday/2.png", "tuesday/1.png"], "folder")
    ['monday', 'monday', 'tuesday']
    >>> blocks_of(["a1", "a2", "b1"], lambda id_: id_[0])
    ['a', 'a', 'b']
    """
    if blocks is None:
        return None
    if isinstance(blocks, str):
        if blocks != "folder":
            raise ParameterError(
                f'blocks: expected "folder", a mapping or a function of ids, got {blocks!r}',
                parameter="blocks",
            )
        return [str(PurePosixPath(id_).parent) for id_ in ids]
    if isinstance(blocks, Mapping):
        found: list[Hashable] = []
        for id_ in ids:
            if id_ not in blocks:
                raise ParameterError(f"blocks: has none for image {id_}", parameter="blocks")
            found.append(blocks[id_])
        return found
    if not callable(blocks):
        raise DTypeError(
            f'blocks: expected "folder", a mapping or a function of ids, got '
            f"{type(blocks).__name__}",
            parameter="blocks",
        )
    return [blocks(id_) for id_ in ids]


def merged_blocks(
    ids: Sequence[str], pairs: Iterable[tuple[str, str]], blocks: Sequence[Hashable] | None = None
) -> list[Hashable] | None:
    """Return blocks that also hold images together that come in pairs.

    Parameters
    ----------
    ids : sequence of str
        The images.
    pairs : iterable of (str, str)
        Images that belong together; those that are not among `ids` may link two that are.
    blocks : sequence of hashable, optional
        The block of each image, as before.

    Examples
    --------
    >>> merged_blocks(["a", "b", "c", "d"], [("a", "x"), ("x", "c")])
    [0, 1, 0, 3]
    >>> merged_blocks(["a", "b"], []) is None
    True
    """
    parents: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = parents[parent]  # halves the way for the next time
            node = parents[node]
        return node

    links: list[tuple[Hashable, Hashable]] = [
        (("image", one), ("image", other)) for one, other in pairs
    ]
    if blocks is not None:
        links += [(("image", i), ("block", b)) for i, b in zip(ids, blocks, strict=True)]
    if not links:
        return None
    for one, other in links:
        parents[root(one)] = root(other)
    first: dict[Hashable, int] = {}
    return [first.setdefault(root(("image", id_)), place) for place, id_ in enumerate(ids)]
