"""The features of normal images, from which detectors learn.

``checks``           what nothing can be learnt from
``extract``          filling a gallery with them, in memory or in a folder
``file_stamps``      sizes and times of files, by which they need not be read again
``folder``           what is in such a folder
``memory_plan``      what a limit of memory allows
``near_duplicates``  images that are nearly the same as others
``pending``          which images of a folder are not learnt yet, or have changed
``run``              how a fit is to be done
"""

from __future__ import annotations

from knnspect.normal_features.extract import NormalFeatures, extract, extract_in_memory
from knnspect.normal_features.run import Run

__all__ = ["NormalFeatures", "Run", "extract", "extract_in_memory"]
