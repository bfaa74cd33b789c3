"""A report on images with a known defect, for tests that read it and for one that opens it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import knnspect as ks
from knnspect.report.html import HtmlReport

__all__ = ["BAD_NAME", "fitted", "texture", "write_report"]

#: A name that is markup, if it is not escaped.
BAD_NAME = '<script>alert("x")</script>\'&.png'


def texture(seed: int, defect: bool = False, side: int = 64) -> NDArray[np.uint8]:
    """Return stripes with noise, with a bright square on them if there is to be a defect."""
    noise = np.random.default_rng(seed).integers(0, 20, (side, side, 3))
    image = noise + 60 + 40 * (np.arange(side) // 8 % 2)[:, None]
    if defect:
        image[20:36, 30:46] = 250
    return image.astype(np.uint8)


def fitted(n_images: int = 12) -> ks.Spade:
    """Return a detector that has learnt the texture."""
    backbone = ks.Backbone("efficientnet_lite0", levels=(1, 2), image_size=64, device="cpu")
    normal = {f"normal {seed}.png": texture(seed) for seed in range(n_images)}
    rate = 0.1 if n_images > 1 else None  # a single image promises none
    return ks.Spade(backbone, false_alarm_rate=rate).fit(normal)


def write_report(
    detector: ks.Spade, images: dict[str, NDArray[np.uint8]], file: Path, most_images: int = 1000
) -> str:
    """Write a report on images, and return it."""
    report = HtmlReport(detector, "model of <stripes>", len(images), most_images)
    for prediction in detector.iter_predict(images, keep_pictures=True):
        assert prediction.picture is not None
        report.add(prediction, prediction.picture)
    report.write(file)
    return file.read_text(encoding="utf-8")
