"""scikit-learn as a backend: the plain reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.backends.rows import Rows, RowsBackend
from knnspect.errors import BackendUnavailable
from knnspect.forked import fork_safe
from knnspect.search import Capabilities

__all__ = ["SklearnBackend"]


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
        try:
            from sklearn.neighbors import NearestNeighbors
        except ImportError as error:
            raise BackendUnavailable(
                "backend 'sklearn': scikit-learn is not installed: pip install scikit-learn"
            ) from error
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

        with threadpool_limits(threads):
            distances, rows = index.kneighbors(queries, k)
        return np.square(distances, dtype=np.float64), rows
