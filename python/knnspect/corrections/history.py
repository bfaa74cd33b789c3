"""The corrections of a model, one after the other, and what holds after each."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from knnspect.errors import ParameterError
from knnspect.validation import check_count, check_ids, some_ids

__all__ = ["Added", "Correction", "CorrectionKind", "History", "Rows", "Standing"]

#: What a correction does.
CorrectionKind = Literal["add", "accept", "remove", "reject", "rollback"]
#: Those that bring images.
_BRINGING = ("add", "accept", "reject")
#: How numbers are kept.
_CELL, _ROW = np.dtype("<i8"), np.dtype("<f4")


@dataclass(frozen=True, eq=False)
class Rows:
    """Features of single cells of an image.

    Parameters
    ----------
    cells : ndarray of int64, shape (n_rows, 2)
        Rows and columns of the cells, at the finest level.
    features : ndarray of float32, shape (n_rows, n_features)
        Their upsampled, concatenated features.
    """

    cells: NDArray[np.int64]
    features: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """Return them, JSON-compatible."""
        features = np.ascontiguousarray(self.features, _ROW)
        cells = np.ascontiguousarray(self.cells, _CELL)
        return {
            "n": len(cells),
            "cells": base64.b64encode(cells.tobytes()).decode(),
            "features": base64.b64encode(features.tobytes()).decode(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Rows:
        """Return what `to_json` was called on; raise a KeyError, TypeError or ValueError if not."""
        n = check_count("n", value["n"], minimum=0)
        cells = np.frombuffer(base64.b64decode(value["cells"], validate=True), _CELL)
        features = np.frombuffer(base64.b64decode(value["features"], validate=True), _ROW)
        if len(cells) != 2 * n or (len(features) % n if n else len(features)):
            raise ValueError("rows: expected two numbers and as many features for each cell")
        if (cells < 0).any() or not np.isfinite(features).all():
            raise ValueError("rows: expected cells from 0 on, and finite features")
        rows = features.astype(np.float32).reshape(n, -1) if n else np.empty((0, 0), np.float32)
        return cls(cells.astype(np.int64).reshape(n, 2), rows)


@dataclass(frozen=True, eq=False)
class Added:
    """What is known of an image that came by a correction.

    Parameters
    ----------
    size : (int, int)
        Its height and width as it came.
    digest : bytes
        What it was made of; see `ImageItem.digest`.
    file : str, default ""
        The file that it was read from; empty for an image that was in memory.
    thumbnail : bytes, default b""
        A small copy, as JPEG; empty if there is none.
    rows : dict of str to Rows
        By the ids of its variants: the features that a coreset took, or those of a defect.
    """

    size: tuple[int, int]
    digest: bytes
    file: str = ""
    thumbnail: bytes = b""
    rows: Mapping[str, Rows] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it, JSON-compatible."""
        return {
            "size": list(self.size),
            "digest": self.digest.hex(),
            "file": self.file,
            "thumbnail": base64.b64encode(self.thumbnail).decode(),
            "rows": {id_: rows.to_json() for id_, rows in self.rows.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Added:
        """Return what `to_json` was called on; raise a KeyError, TypeError or ValueError if not."""
        height, width = (check_count("size", side) for side in value["size"])
        return cls(
            (height, width),
            bytes.fromhex(value["digest"]),
            str(value["file"]),
            base64.b64decode(value["thumbnail"], validate=True),
            {str(id_): Rows.from_json(rows) for id_, rows in value["rows"].items()},
        )


@dataclass(frozen=True, eq=False)
class Correction:
    """One change of a fitted model.

    Parameters
    ----------
    number : int
        1 for the first after `fit`.
    kind : {"add", "accept", "remove", "reject", "rollback"}
        What it did.
    time : str
        When, in UTC, as ISO 8601 has it.
    images : tuple of str
        The images that were added, accepted, removed or rejected.
    added : dict of str to Added
        What is known of those that came.
    name : str, default ""
        Of a rejected image: what its defect is called.
    to : int, optional
        Of a rollback: the number of the correction after which the model was as it is now.
    scores : dict of str to (float, float)
        Score and largest map value of added images, each compared with all others.
    """

    number: int
    kind: CorrectionKind
    time: str
    images: tuple[str, ...] = ()
    added: Mapping[str, Added] = field(default_factory=dict)
    name: str = ""
    to: int | None = None
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        if self.kind == "rollback":
            what = f"to {self.to}"
        else:
            what = some_ids(list(self.images)) + (f" as {self.name}" if self.name else "")
        return f"Correction({self.number}: {self.kind} {what}, {self.time})"

    def to_json(self) -> dict[str, Any]:
        """Return it, JSON-compatible."""
        return {
            "number": self.number,
            "kind": self.kind,
            "time": self.time,
            "images": list(self.images),
            "added": {id_: image.to_json() for id_, image in self.added.items()},
            "name": self.name,
            "to": self.to,
            "scores": {id_: list(pair) for id_, pair in self.scores.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Correction:
        """Return what `to_json` was called on; raise a KeyError, TypeError or ValueError if not."""
        kind, to = value["kind"], value["to"]
        if kind not in get_args(CorrectionKind) or (kind == "rollback") != (to is not None):
            raise ValueError(f"kind: no correction is {kind!r} with to={to!r}")
        scores = {}
        for id_, (score, largest) in value["scores"].items():
            if not np.isfinite([score, largest]).all():
                raise ValueError(f"scores: expected finite numbers for {id_}")
            scores[str(id_)] = (float(score), float(largest))
        return cls(
            check_count("number", value["number"]),
            kind,
            str(value["time"]),
            tuple(check_ids(value["images"], "images")),
            {str(id_): Added.from_json(image) for id_, image in value["added"].items()},
            str(value["name"]),
            None if to is None else check_count("to", to, minimum=0),
            scores,
        )


@dataclass(frozen=True, eq=False)
class Standing:
    """What holds after some corrections.

    Parameters
    ----------
    added : dict of str to int
        The normal images that came and are still there: the number of their correction.
    removed : frozenset of str
        The images of `fit` that are not there any more.
    defects : dict of str to str
        The remembered defects: what they are called.
    scores : dict of str to (float, float)
        Score and largest map value of the added images that calibrate.
    """

    added: Mapping[str, int] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    defects: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def after(self, correction: Correction) -> Standing:
        """Return what holds after one more, which is no rollback."""
        scores = {**self.scores, **correction.scores}
        if correction.kind == "reject":
            names = dict.fromkeys(correction.images, correction.name)
            return replace(self, defects={**self.defects, **names}, scores=scores)
        if correction.kind != "remove":
            came = dict.fromkeys(correction.images, correction.number)
            return replace(self, added={**self.added, **came}, scores=scores)
        gone = set(correction.images)
        of_fit = gone - self.added.keys() - self.defects.keys()
        return Standing(
            {id_: number for id_, number in self.added.items() if id_ not in gone},
            self.removed | of_fit,
            {id_: name for id_, name in self.defects.items() if id_ not in gone},
            {id_: pair for id_, pair in scores.items() if id_ not in gone},
        )


class History:
    """The corrections of a model since `fit`.

    Nothing of what was corrected is lost: `rollback` brings back what was removed, and can itself
    be rolled back. So an id stands for one image for good.

    Parameters
    ----------
    corrections : iterable of Correction
        In order; their numbers are 1, 2, and so on.

    Attributes
    ----------
    corrections : tuple of Correction
        The same.
    came : dict of str to Added
        All images that ever came by a correction, defects among them.
    normal : frozenset of str
        Those of them that came as normal ones.

    Raises
    ------
    ValueError
        If they do not follow from each other.

    Examples
    --------
    >>> came = Added((9, 9), bytes(32))
    >>> history = History().with_(Correction(1, "add", "", ("a",), {"a": came}))
    >>> history = history.with_(Correction(2, "remove", "", ("a",)))
    >>> dict(history.standing.added), dict(history.at(1).added), history.hidden
    ({}, {'a': 1}, frozenset({'a'}))
    >>> history.with_(Correction(3, "rollback", "", to=1)).standing.added
    {'a': 1}
    """

    def __init__(self, corrections: Iterable[Correction] = ()) -> None:
        self.corrections: tuple[Correction, ...] = ()
        self.came: Mapping[str, Added] = {}
        self.normal: frozenset[str] = frozenset()
        self._standings: tuple[Standing, ...] = (Standing(),)
        for correction in corrections:
            self._append(correction)

    def _append(self, correction: Correction) -> None:
        number = len(self.corrections) + 1
        if correction.number != number or not 0 <= (correction.to or 0) < number:
            raise ValueError(f"corrections: expected number {number}, got {correction}")
        brings = correction.kind in _BRINGING
        if (set(correction.added) != set(correction.images)) if brings else correction.added:
            raise ValueError(f"corrections: {correction} brings other images")
        if self.came.keys() & correction.added.keys():
            raise ValueError(f"corrections: {correction} brings an image anew")
        if correction.to is None:
            standing = self.standing.after(correction)
        else:
            standing = self._standings[correction.to]
        self.corrections = (*self.corrections, correction)
        self._standings = (*self._standings, standing)
        self.came = {**self.came, **correction.added}
        if brings and correction.kind != "reject":
            self.normal |= frozenset(correction.images)

    def __len__(self) -> int:
        return len(self.corrections)

    @property
    def standing(self) -> Standing:
        """What holds now."""
        return self._standings[-1]

    @property
    def hidden(self) -> frozenset[str]:
        """The normal images that a model keeps without comparing with them."""
        return self.standing.removed | (self.normal - self.standing.added.keys())

    def at(self, number: int) -> Standing:
        """Return what held after a correction; 0 stands for the model as it was fitted.

        Raises
        ------
        ParameterError, DTypeError
            If there were not so many.
        """
        if check_count("to", number, minimum=0) > len(self):
            raise ParameterError(
                f"to: expected the number of a correction, 0 (as fitted) to {len(self)}, "
                f"got {number}",
                parameter="to",
            )
        return self._standings[number]

    def with_(self, correction: Correction) -> History:
        """Return a history with one more correction."""
        history = copy(self)
        history._append(correction)
        return history
