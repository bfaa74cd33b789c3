"""Which images of a folder are normal, where some may not be (DUAD).

``clusters``   which clusters of images are tight
``duad``       clusters and an autoencoder in turns
``selection``  what was kept, what was dropped, and why
"""

from __future__ import annotations

from knnspect.detectors.selecting.duad import Selecting
from knnspect.detectors.selecting.selection import Round, SelectedImage, Selection

__all__ = ["Round", "SelectedImage", "Selecting", "Selection"]
