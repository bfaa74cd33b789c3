"""Galleries whose images have one value each, which says by which change they came."""

from __future__ import annotations

import numpy as np

from knnspect import Gallery


def state_of(gallery: Gallery) -> dict[str, float]:
    """Return the value of each image, which has the same everywhere."""
    state = {}
    for id_ in gallery.ids:
        values = [value for level in gallery.pyramid([id_]).levels for value in np.unique(level)]
        assert len(set(values)) == 1, "an image is of one addition"
        state[id_] = float(values[0])
    return state
