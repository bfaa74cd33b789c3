"""Real images, for the tests of single detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from knnspect.data import elpv_split
from knnspect.features import Backbone


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return Backbone(image_size=64, device="cpu")


def _resized(paths: Any) -> dict[str, Any]:
    """At the size of the backbone's input, so that nothing is resized any more."""
    return {
        path.stem: np.asarray(Image.open(path).convert("RGB").resize((64, 64))) for path in paths
    }


@pytest.fixture(scope="session")
def normal() -> dict[str, Any]:
    return _resized(elpv_split(n_train=7).train)


@pytest.fixture(scope="session")
def queries() -> dict[str, Any]:
    split = elpv_split(n_train=7, n_functional=2, n_defective=2)
    return _resized([*split.functional, *split.defective])
