"""From images to feature pyramids, with a frozen PyTorch backbone.

``backbone``  the backbone and what it extracts
``network``   its network, once it is loaded
``weights``   where pretrained weights come from
"""

from __future__ import annotations

from knnspect.features.backbone import Backbone, Features

__all__ = ["Backbone", "Features"]
