"""Searches: the request, the answer, and the protocols of those who search and are searched.

``request``     `Search`: what a backend is to find, as a value
``neighbors``   `Neighbors`: what it has found
``stats``       `SearchStats`: how many pairs of cells it has compared
``backend``     `Backend`: the protocol of those who search
``searchable``  `Searchable`: the protocol of galleries and coresets
``window``      position windows: their radii, checked
"""

from __future__ import annotations

from knnspect.search.backend import Backend, Capabilities
from knnspect.search.neighbors import Neighbors
from knnspect.search.request import Search
from knnspect.search.searchable import Searchable
from knnspect.search.stats import SearchStats
from knnspect.search.window import Window

__all__ = ["Backend", "Capabilities", "Neighbors", "Search", "SearchStats", "Searchable", "Window"]
