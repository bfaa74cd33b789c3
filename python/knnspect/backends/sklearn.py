"""scikit-learn as a backend: the plain reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.backends.rows import Rows, RowsBackend
from knnspect.errors import BackendUnavailable
from knnspect.extras import require
from knnspect.forked import fork_safe
from knnspect.search import Capabilities

__all__ = ["SklearnBackend"]

#: Pairs that are compared between two looks at Ctrl-C: it sorts them, which takes a second or so.
_PAIRS_AT_ONCE = 2**26


class SklearnBackend(RowsBackend):
    """Searches with ``sklearn.neighbors.NearestNeighbors(algorithm="brute")``.

    It compares every pair of rows, and is slow. The results of other backends can be compared with
    its own.

    Raises
    ------
    BackendUnavailable
        Without scikit-learn.

    Examples
    --------
    >>> SklearnBackend().capabilities.searches
    'rows'
    """

    name = "sklearn"
    capabilities = Capabilities("rows", devices=("cpu",), dtypes=("float32",))

    def __init__(self) -> None:
        super().__init__()
        require("sklearn", for_="backend 'sklearn'", error=BackendUnavailable)
        from sklearn.neighbors import NearestNeighbors

        self._make = NearestNeighbors

    def build(self, rows: Rows, threads: int | None) -> Any:  # noqa: ARG002 - nothing to do
        """Return a fitted ``NearestNeighbors``."""
        return self._make(algorithm="brute").fit(rows)

    @fork_safe
    def find(
        self, index: Any, queries: Rows, k: int, threads: int | None
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the `k` nearest rows of each query."""
        from threadpoolctl import threadpool_limits

        n_parts = max(1, index.n_samples_fit_ * len(queries) // _PAIRS_AT_ONCE)
        with threadpool_limits(threads):
            parts = [index.kneighbors(part, k) for part in np.array_split(queries, n_parts)]
        distances = np.concatenate([part[0] for part in parts])
        return np.square(distances, dtype=np.float64), np.concatenate([part[1] for part in parts])
