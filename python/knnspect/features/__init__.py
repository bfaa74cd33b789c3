"""From images to feature pyramids: by a frozen backbone, or the pixels themselves.

``extractor``    what all that make features have in common: reading, batches, files
``backbone``     features of a pretrained network
``pixels``       the pixels themselves
``scenes``       the bands of hyperspectral scenes
``constraints``  what values its parameters may have
``features``     what it gives of images
``reading``      how it reads images
``network``      what it asks of its network
``tiled``        a network that goes over large images tile by tile
``reach``        how far its cells see
``cells``        averages and norms of cells
``stored``       how it is kept in models and pickles
``torch``        networks of timm, and where their weights come from
``onnx``         networks as ONNX graphs, which need no PyTorch
"""

from __future__ import annotations

from knnspect.features.backbone import Backbone
from knnspect.features.extractor import Extractor
from knnspect.features.features import Features
from knnspect.features.pixels import Pixels
from knnspect.features.scenes import Scenes

__all__ = ["Backbone", "Extractor", "Features", "Pixels", "Scenes"]
