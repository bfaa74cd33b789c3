"""Running the command line in the process of a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

#: Runs ``knnspect`` with some arguments; returns its exit code, output and errors.
Run: TypeAlias = Callable[..., tuple[int, str, str]]
