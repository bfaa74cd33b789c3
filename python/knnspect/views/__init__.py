"""What of an image goes through a network, and the way back.

``placement``       where a picture came from, and where its cells lie in it
``variants``        images turned, mirrored, brighter and darker
``turning``         their pixels, and the way back
``query_variants``  those of images that are judged
``foreground``      which cells show the part
``constraints``     variants as a parameter
"""

from __future__ import annotations

from knnspect.views.placement import Box, Placement, Sizes
from knnspect.views.variants import StoredImages, Variant, Variants

__all__ = ["Box", "Placement", "Sizes", "StoredImages", "Variant", "Variants"]
