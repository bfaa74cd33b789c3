"""What a search is: who searches, and what is found.

``backend``    what a backend is, and what it says of itself
``neighbors``  what a search returns
"""

from __future__ import annotations

from knnspect.search.backend import Backend, Capabilities, ImageSubset
from knnspect.search.neighbors import Neighbors, Work

__all__ = ["Backend", "Capabilities", "ImageSubset", "Neighbors", "Work"]
