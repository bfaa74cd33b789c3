"""What a search is: who searches, what is searched, and what is found.

``searchable``  what galleries and coresets have in common
``backend``     what a backend is, and what it says of itself
``neighbors``   what a search returns
"""

from __future__ import annotations

from knnspect.search.backend import Backend, Capabilities, ImageSubset
from knnspect.search.neighbors import Neighbors, Work
from knnspect.search.searchable import Searchable

__all__ = ["Backend", "Capabilities", "ImageSubset", "Neighbors", "Searchable", "Work"]
