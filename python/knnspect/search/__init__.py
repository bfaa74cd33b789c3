"""What a search is: who searches, what is searched, and what is found.

``searchable``  what galleries and coresets have in common
``backend``     what a backend is, and what it says of itself
``neighbors``   what a search returns
``stats``       what a search did
"""

from __future__ import annotations

from knnspect.search.backend import Backend, Capabilities, ImageSubset
from knnspect.search.neighbors import Neighbors
from knnspect.search.searchable import Searchable
from knnspect.search.stats import SearchStats

__all__ = ["Backend", "Capabilities", "ImageSubset", "Neighbors", "SearchStats", "Searchable"]
