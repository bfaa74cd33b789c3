"""Byte strings as arrays: files of ours hold numbers, and no single bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed", "unpacked"]

_WORD = np.dtype("<i8")


def packed(name: str, parts: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    """Return byte strings as two arrays: their bytes, eight in a number, and where each ends.

    >>> packed("a", [b"one", b"three"])
    {'a': array([7306371763433467503]), 'a.ends': array([3, 8])}
    """
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    whole = b"".join(parts)
    padded = whole + bytes(-len(whole) % _WORD.itemsize)
    return {name: np.frombuffer(padded, _WORD), f"{name}.ends": ends}


def unpacked(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[bytes]:
    """Return what `packed` was called with.

    Raises
    ------
    KeyError, TypeError, ValueError
        If something is missing or of another kind.
    """
    words, ends = arrays[name], arrays[f"{name}.ends"]
    is_right = words.dtype == ends.dtype == _WORD and words.ndim == ends.ndim == 1 and len(ends)
    starts = np.concatenate([[0], ends[:-1]]) if is_right else ends
    padding = words.nbytes - int(ends[-1]) if is_right else -1
    if not 0 <= padding < _WORD.itemsize or (ends < starts).any():
        raise ValueError(f"expected the parts of {name} one after the other")
    whole = words.tobytes()
    return [whole[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
