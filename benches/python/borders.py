"""What a map does at the border of an image, and what its strongest pixel is worth.

On textures with painted defects (see ``painted``), on the solar cells of `elpv_split` (100 learnt,
100 functional and 100 defective ones judged) and on datasets in MVTec layout; EfficientNet-Lite0,
224 px, levels 1-3. Three maps of the same distances: as the blur was that mirrors the image at its
border; with the map's own median beyond the border; and with normal images' factors, too, which is
what `Spade` and `PatchCore` give. Nothing is fitted on test images.

    python benches/python/borders.py hazelnut=PATH transistor=PATH weld=PATH
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result
from judged import Set, figures, sets
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

import knnspect as ks
from knnspect.detectors.maps import pixel_map


def cell_scores(detector: Any, prediction: ks.Prediction) -> NDArray[Any]:
    """Return the scores of an image's cells as they were found, shape (height, width)."""
    assert prediction.neighbors is not None
    sq_distances = prediction.neighbors.sq_distances[0, ..., 0]
    return np.sqrt(sq_distances) if isinstance(detector, ks.PatchCore) else sq_distances


def mirrored(detector: Any, prediction: ks.Prediction) -> NDArray[np.float32]:
    """Return the map whose blur mirrors the image at its border."""
    geometry = detector.backbone.geometry
    height, width = geometry.image_size
    cells = Image.fromarray(cell_scores(detector, prediction))
    large = np.asarray(cells.resize((width, height), Image.Resampling.BILINEAR))
    blurred = gaussian_filter(large, detector.sigma * height / 224, mode="reflect")
    return np.asarray(geometry.restore(blurred, prediction.map.shape))


def without_factors(detector: Any, prediction: ks.Prediction) -> NDArray[np.float32]:
    """Return the map of the cells as they were found."""
    cells = cell_scores(detector, prediction)
    assert prediction.placement is not None
    return pixel_map(cells, prediction.placement, detector.sigma)


def measure(images: Set, detector: Any) -> dict[str, dict[str, float]]:
    """Return the figures of the three maps."""
    detector.fit(images.train)
    predictions = detector.predict(images.test)
    maps = {
        "mirrored": [mirrored(detector, prediction) for prediction in predictions],
        "median": [without_factors(detector, prediction) for prediction in predictions],
        "factors": [prediction.map for prediction in predictions],
    }
    return {
        name: figures(images, some, [float(map_.max()) for map_ in some])
        for name, some in maps.items()
    }


def main() -> None:
    """Measure all sets with SPADE, SPADE over 3x3 averages, and PatchCore."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    paths = {name: Path(path) for name, _, path in (e.partition("=") for e in options.datasets)}
    found: dict[str, Any] = {}
    for name, images in sets(paths):
        few = min(50, len(images.train))
        detectors: dict[str, Any] = {
            "SPADE": ks.Spade(ks.Backbone(device="cpu"), image_neighbors=few, score="map"),
            "SPADE, 3x3": ks.Spade(
                ks.Backbone(patch_size=3, device="cpu"), image_neighbors=few, score="map"
            ),
            "PatchCore": ks.PatchCore(ks.Backbone(patch_size=3, device="cpu"), score="map"),
        }
        for detector in detectors.values():
            detector.threads = options.threads
        found[name] = {}
        for kind, detector in detectors.items():
            found[name][kind] = measure(images, detector)
            for map_, values in found[name][kind].items():
                print(name, kind, map_, values, flush=True)
        write_result("borders", {"threads": options.threads, "sets": found})


if __name__ == "__main__":
    main()
