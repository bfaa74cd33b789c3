"""A search with nothing but what a base install brings: `python search.py`."""

from __future__ import annotations

import sys

import numpy as np

import knnspect as ks

levels = [np.random.default_rng(0).random((4, 14, 14, 8), np.float32)]
gallery = ks.Gallery()
gallery.add(ks.FeaturePyramid(levels))
found = gallery.search(ks.FeaturePyramid([levels[0][:1]]), k=1)
if found.sq_distances.max() != 0:
    sys.exit("an image was not found among others")
print(f"knnspect {ks.__version__} searches on Python {sys.version.split()[0]}")
