"""Models, images, and what the models say of these: `python models.py FOLDER`, with all extras.

``model.ks``       runs by PyTorch
``exported``       models that run by onnxruntime, and `expected.json`: what their originals say
``images``         solar cells to judge, normal and defective
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.detectors import Detector
from knnspect.exporting import export

SIDE = 96
N_NORMAL = 24


def cells(folder: Path, files: Any) -> Path:
    """A folder of solar cells, made small."""
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        cell = Image.fromarray(np.array(read_image(file)[..., 0]))
        cell.resize((SIDE, SIDE)).save(folder / f"{number:02d}.png")
    return folder


def backbone(**given: Any) -> ks.Backbone:
    return ks.Backbone(levels=(1, 2), image_size=64, device="cpu", **given)


def main(folder: Path) -> None:
    """Write all of it."""
    warnings.filterwarnings("ignore", message=".*near-duplicates")
    split = elpv_split(n_train=N_NORMAL, n_functional=6, n_defective=6)
    normal = cells(folder / "normal", split.train)
    images = cells(folder / "images", [*split.functional, *split.defective])
    detectors: dict[str, Detector] = {
        "spade": ks.Spade(backbone(), image_neighbors=5),
        "patchcore": ks.PatchCore(backbone(patch_size=3), coreset=0.2),
        "simplenet": ks.SimpleNet(backbone(patch_size=3), max_epochs=2, hidden=32),
    }
    (folder / "exported").mkdir()
    expected = {}
    for name, detector in detectors.items():
        detector.fit(normal)
        export(detector).save(folder / "exported" / f"{name}.ks")
        found = detector.predict(images)
        expected[name] = {
            "scores": [one.score for one in found],
            "verdicts": [one.verdict for one in found],
        }
    detectors["spade"].save(folder / "model.ks")
    (folder / "exported" / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
