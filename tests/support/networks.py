"""Networks of timm with weights that are nobody's, in files as hubs publish them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

__all__ = ["random_network", "save"]


def random_network(name: str, **options: Any) -> Any:
    """Build a network none of whose tensors is as it is when nothing was loaded."""
    torch.manual_seed(0)
    network = timm.create_model(name, **options)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_((torch.rand_like(tensor) - 0.5) * 0.02)
    return network.eval()


def save(tensors: dict[str, torch.Tensor], file: Path) -> Path:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, file)
    return file
