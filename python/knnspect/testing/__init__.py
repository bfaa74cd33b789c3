"""For tests: the float64 oracle, with which the neighbours of every backend must agree.

``oracle``  nearest neighbours the slow way, and the comparison with them
"""

from __future__ import annotations

from knnspect.testing.oracle import Oracle, assert_same_neighbors

__all__ = ["Oracle", "assert_same_neighbors"]
