"""Files that are no models are refused by `knnspect.load`, and nothing in them is executed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import knnspect as ks
from knnspect.errors import StoreError


def write_gallery(path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.save(path)


def write_unknown_kind(path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.core.save(path, "oracle", {"config": "{}"}, {})


def write_unusable_settings(path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.core.save(path, "spade", {"config": json.dumps({"backbone": {}})}, {})


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


OTHER_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "cannot be opened"),
    "a folder": (lambda path: path.mkdir(), "expected a detector, it is a folder"),
    "a gallery": (write_gallery, "expected a detector, the file holds a gallery"),
    "an unknown detector": (write_unknown_kind, "oracle"),
    "settings that lack everything": (write_unusable_settings, "is damaged"),
    "safetensors": (
        lambda path: save_file({"a": np.zeros(3, "f4")}, path),
        "not one that knnspect wrote",
    ),
    "a PNG": (lambda path: Image.new("L", (9, 9)).save(path, "PNG"), "not a knnspect file"),
    "a checkpoint": (lambda path: torch.save({"a": torch.zeros(3)}, path), "other.ks"),
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps(Evil(path.with_name("made")), protocol=2)),
        "other.ks",
    ),
    "text": (lambda path: path.write_text("{}\n" * 50), "other.ks"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_that_is_no_model_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.ks"
    write, message = OTHER_FILES[kind]
    write(path)
    with pytest.raises(StoreError, match=message) as raised:
        ks.load(path)
    assert "other.ks" in str(raised.value)
    assert not (tmp_path / "made").exists()
