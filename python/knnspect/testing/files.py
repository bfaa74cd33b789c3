"""Folders that checks write to, and that are gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from knnspect.testing.expectations import expect_equal

__all__ = ["no_files", "temporary_folder"]


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make an empty folder, and remove it with all that is in it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def no_files() -> Iterator[Path]:
    """Make an empty folder, and fail unless it stays empty."""
    with temporary_folder() as folder:
        yield folder
        expect_equal("files that were written", sorted(folder.iterdir()), [])
