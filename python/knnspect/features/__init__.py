"""From images to feature pyramids, with a frozen PyTorch backbone.

``backbone``     the backbone and what it extracts
``constraints``  what values its parameters may have
``features``     what it gives of images
``reading``      how it reads images
``torch``        networks of timm, and where their weights come from
"""

from __future__ import annotations

from knnspect.features.backbone import Backbone
from knnspect.features.features import Features

__all__ = ["Backbone", "Features"]
