"""How precisely PyTorch multiplies matrices, whatever the user allowed."""

from __future__ import annotations

import threading
from typing import Any

import torch

__all__ = ["AS_PRECISE_AS_THE_TYPE"]


class _Precision:
    """A context in which products are rounded as their type is, and sums as float32.

    PyTorch may be told to multiply float32 as TF32 or bfloat16, and to sum bfloat16 in bfloat16.
    These settings are the process's, so the first thread to enter changes them, and the last to
    leave puts back what was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before: list[tuple[Any, str, object]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                for of, name, wanted in _settings():
                    value = getattr(of, name)
                    if value != wanted:
                        self._before.append((of, name, value))
                        setattr(of, name, wanted)
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            while self._n_inside == 0 and self._before:
                of, name, value = self._before.pop()
                setattr(of, name, value)


AS_PRECISE_AS_THE_TYPE = _Precision()


def _settings() -> list[tuple[Any, str, object]]:
    """Return what has which setting, and what it is to be."""
    of_cuda: Any = torch.backends.cuda.matmul
    settings = [(of_cuda, "allow_bf16_reduced_precision_reduction", False)]
    if not hasattr(of_cuda, "fp32_precision"):  # before PyTorch 2.9
        return [*settings, (of_cuda, "allow_tf32", False)]
    of_mkldnn: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return [*settings, (of_cuda, "fp32_precision", "ieee"), (of_mkldnn, "fp32_precision", "ieee")]
