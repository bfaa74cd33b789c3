"""What a search is: what is asked, who answers, what is searched, and what is found.

``request``     what a backend is asked: a search, as a value
``searchable``  what galleries and coresets have in common
``backend``     what a backend is, and what it says of itself
``neighbors``   what a search returns
``stats``       what a search did
"""

from __future__ import annotations

from knnspect.search.backend import Backend, Capabilities
from knnspect.search.neighbors import Neighbors
from knnspect.search.request import Search
from knnspect.search.searchable import Searchable
from knnspect.search.stats import SearchStats

__all__ = ["Backend", "Capabilities", "Neighbors", "Search", "SearchStats", "Searchable"]
