"""What of an image goes through a network, and the way back.

``aligned``         a part turned upright into a frame of its own, and maps on the way back
``placement``       where a picture came from, and where its cells lie in it
``variants``        images turned, mirrored, brighter and darker
``turning``         their pixels, and the way back
``query_variants``  those of images that are judged
``foreground``      which cells show the part
``region``          which pixels count, drawn by the user
``lights``          several pictures of one part, told apart by their names
``regions``         several of these with names
``tiling``          which tiles of a large image there are, and whose cells are whose
``view``            a frame cut out of an image: what all of them are, and the way back
``constraints``     variants and masks as parameters
"""

from __future__ import annotations

from knnspect.views.aligned import AlignedView, similarity
from knnspect.views.placement import Box, Placement, Sizes
from knnspect.views.region import Region
from knnspect.views.variants import StoredImages, Variant, Variants
from knnspect.views.view import CutView, PlacedView, View

__all__ = [
    "AlignedView",
    "Box",
    "CutView",
    "PlacedView",
    "Placement",
    "Region",
    "Sizes",
    "StoredImages",
    "Variant",
    "Variants",
    "View",
    "similarity",
]
