"""Backends, which search galleries.

Every backend gives the same neighbours and the same distances (the contract of exactness); they
differ in where they run and how fast they are.

``registry``  backends by name, also those of others
``rust``      the Rust core, on the CPU
``rows``      the base of backends that search rows of concatenated features
``faiss``     faiss, on the CPU or a GPU; ``faiss_installation`` finds what is wrong with it
``sklearn``   scikit-learn, the plain reference
``ray``       the shards of a gallery on a Ray cluster; ``ray_actors`` keeps its processes, and
              ``ray_host`` searches in them
``torch``     PyTorch, on the CPU and on CUDA devices
"""

from __future__ import annotations

from knnspect.backends.faiss import FaissBackend
from knnspect.backends.ray import RayBackend
from knnspect.backends.registry import (
    auto_backend,
    available_backends,
    get_backend,
    unavailable_backends,
)
from knnspect.backends.rows import RowsBackend
from knnspect.backends.rust import RustBackend
from knnspect.search import Backend, Capabilities

__all__ = [
    "Backend",
    "Capabilities",
    "FaissBackend",
    "RayBackend",
    "RowsBackend",
    "RustBackend",
    "auto_backend",
    "available_backends",
    "get_backend",
    "unavailable_backends",
]
