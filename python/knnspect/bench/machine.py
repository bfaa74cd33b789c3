"""The machine that something was measured on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

from knnspect import _core

__all__ = ["machine"]


def machine() -> dict[str, Any]:
    """Describe the machine, and the versions of what runs on it.

    Returns
    -------
    dict of str to object
        "cpu", "cores" (of the machine), "instruction_sets", "python", "numpy", "knnspect"; where
        PyTorch is loaded, "torch", its "torch_threads", and "gpus", their names.

    Examples
    --------
    >>> machine()["cores"] >= 1
    True
    """
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    description: dict[str, Any] = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "instruction_sets": _core.instruction_sets(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "knnspect": _core.__version__,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        description |= {
            "torch": str(torch.__version__),
            "torch_threads": torch.get_num_threads(),
            "gpus": [
                torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())
            ],
        }
    return description
