"""Normal features, kept and searched.

``gallery``  feature pyramids of normal images, in memory or in a folder
``coreset``  a few rows of a gallery, searched in place of all
"""

from __future__ import annotations

from knnspect.gallery.coreset import Coreset
from knnspect.gallery.gallery import Gallery, is_gallery_folder

__all__ = ["Coreset", "Gallery", "is_gallery_folder"]
