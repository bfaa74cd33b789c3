"""From images to feature pyramids, with a frozen backbone.

``backbone``     the backbone and what it extracts
``constraints``  what values its parameters may have
``features``     what it gives of images
``reading``      how it reads images
``network``      what it asks of its network
``stored``       how it is kept in models and pickles
``torch``        networks of timm, and where their weights come from
``onnx``         networks as ONNX graphs, which need no PyTorch
"""

from __future__ import annotations

from knnspect.features.backbone import Backbone
from knnspect.features.features import Features

__all__ = ["Backbone", "Features"]
