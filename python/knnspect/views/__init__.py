"""What of an image goes through a network, and the way back.

``placement``  where a picture came from, and where its cells lie in it
"""

from __future__ import annotations

from knnspect.views.placement import Box, Placement, Sizes

__all__ = ["Box", "Placement", "Sizes"]
