"""Models as files and folders.

``inspect``  what a file or a folder holds, in words
``layout``   what things are called in files
``read``     the parts of a model
``write``    a file, or the folder in which the features are
"""

from __future__ import annotations

from knnspect.model_files.read import StoredModel, corrections_of
from knnspect.model_files.write import is_in, write_model

__all__ = ["StoredModel", "corrections_of", "is_in", "write_model"]
