"""Where the images of a gallery lie that is kept in several folders, and which id belongs where."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shard", "Shards"]

#: Pairs of ids and shards whose weights are in memory at a time: in the processor's caches.
_PAIRS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Shard:
    """A folder that keeps a part of a gallery, in one state.

    Parameters
    ----------
    name : str
        Its name, which says with an id whether the image belongs here.
    path : Path
        The folder, absolute.
    state : str
        Tells what the folder holds from what it held before and will hold after a change.
    n_images : int
        Number of images in that state.
    """

    name: str
    path: Path
    state: str
    n_images: int


@dataclass(frozen=True)
class Shards:
    """The folders that keep a gallery, as they are at one moment.

    Ids are spread by rendezvous hashing: each shard has a weight for each id, and the image belongs
    to the shard with the highest. So a shard that is added takes images from all others, and no
    other image moves. A weight is a 64-bit hash of the id (BLAKE2b), xor one of the name, mixed by
    the finalizer of SplitMix64; of equal weights the first shard's counts.

    Parameters
    ----------
    home : Path
        The folder with the manifest.
    shards : tuple of Shard
        All shards, in the order of the manifest.
    missing : tuple of str, default ()
        Names of those that could not be opened, whose images are left out.

    Source
    ------
    Thaler and Ravishankar, "A name-based mapping scheme for rendezvous" (1996); Steele, Lea and
    Flood, "Fast splittable pseudorandom number generators" (2014).

    Examples
    --------
    >>> shards = Shards(Path("/g"), tuple(Shard(n, Path("/g", n), "", 0) for n in "abc"))
    >>> shards.owners(["bottle-1", "bottle-2", "bottle-3", "bottle-4"])
    array([0, 1, 1, 1])
    >>> fewer = Shards(Path("/g"), shards.shards[1:])
    >>> fewer.owners(["bottle-1", "bottle-2", "bottle-3", "bottle-4"])
    array([1, 0, 0, 0])
    """

    home: Path
    shards: tuple[Shard, ...]
    missing: tuple[str, ...] = ()

    @property
    def n_images(self) -> int:
        """Number of images of all shards that could be opened."""
        return sum(shard.n_images for shard in self.shards if shard.name not in self.missing)

    def owners(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """Return the shard that each id belongs to, as a place in `shards`."""
        hashes = np.array([_hash_of(id_) for id_ in ids], np.uint64)
        owners = np.empty(len(ids), np.intp)
        step = max(1, _PAIRS_AT_ONCE // len(self.shards))
        for start in range(0, len(ids), step):
            weights = _mixed(hashes[start : start + step, None] ^ self._seeds)
            owners[start : start + step] = weights.argmax(axis=1)
        return owners

    @cached_property
    def _seeds(self) -> NDArray[np.uint64]:
        return np.array([_hash_of(shard.name) for shard in self.shards], np.uint64)


def _hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's finalizer of values: each bit depends on all bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
