"""PyTorch as a backend, on the CPU and on CUDA devices.

``backend``       the backend
``image_search``  the search for one query image
``filter``        which pairs of cells may be neighbours
``bounds``        a projection that bounds distances from below
``precision``     how products are rounded
``cache``         gallery images on the device, kept between searches
``rescore``       exact distances and order, on the device
``upsampling``    levels on the grid of the finest one
"""

from __future__ import annotations

from knnspect.errors import BackendUnavailable
from knnspect.extras import require

require("torch", for_="backend 'torch'", error=BackendUnavailable)

from knnspect.backends.torch.backend import TensorNeighbors, TorchBackend  # noqa: E402 - it needs it

__all__ = ["TensorNeighbors", "TorchBackend"]
