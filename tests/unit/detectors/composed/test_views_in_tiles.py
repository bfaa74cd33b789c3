"""Regions, lights and parts whose network goes over tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray

import knnspect as ks
from knnspect import ParameterError

SIZE, DEFECT = (160, 240), (slice(50, 80), slice(90, 120))


def wall(seed: int, spoilt: bool = False) -> NDArray[np.uint8]:
    """Bricks, at another place for each seed; gravel in them if they are spoilt."""
    data: Any = skimage.data
    top, left = np.random.default_rng(seed).integers(0, 250, 2)
    image = data.brick()[top : top + SIZE[0], left : left + SIZE[1]].copy()
    if spoilt:
        image[DEFECT] = data.gravel()[:30, :30]
    return np.repeat(image[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def inner() -> ks.PatchCore:
    backbone = ks.Backbone(levels=(1, 2), image_size=64, tile=96, overlap=16)
    return ks.PatchCore(backbone, coreset=0.5, sigma=1.0)


def is_at_the_defect(prediction: ks.Prediction) -> bool:
    row, column = np.unravel_index(prediction.map.argmax(), prediction.map.shape)
    return bool(45 <= row < 85 and 85 <= column < 125)


@pytest.mark.parametrize("cut", [False, True])
def test_regions(inner: ks.PatchCore, cut: bool, tmp_path: Path) -> None:
    left = np.zeros(SIZE, bool)
    left[:, :130] = True
    detector = ks.Regions(inner, regions={"left": left, "right": ~left}, cut=cut)
    detector.fit([wall(seed) for seed in range(6)])
    good, bad = detector.predict([wall(50), wall(51, spoilt=True)])
    assert good.map.shape == SIZE
    assert is_at_the_defect(bad)
    assert bad.score > good.score
    assert bad.views["left"].is_anomalous
    assert not bad.views["right"].is_anomalous
    detector.save(tmp_path / "model.ks")
    assert np.array_equal(ks.load(tmp_path / "model.ks").predict([wall(50)])[0].map, good.map)


def test_lights(inner: ks.PatchCore) -> None:
    normal = {f"p{n}_{light}.png": wall(n) for n in range(6) for light in "ab"}
    detector = ks.Lights(inner, pattern="{part}_{light}.png").fit(normal)
    found = {
        part: detector.predict({f"x_{light}.png": wall(50, part == light) for light in "ab"})[0]
        for part in ("none", "b")
    }
    assert found["b"].is_anomalous
    assert found["b"].score > found["none"].score
    assert is_at_the_defect(found["b"].views["b"])


def test_a_part(inner: ks.PatchCore) -> None:
    def frame(top: int, spoilt: bool = False) -> NDArray[np.uint8]:
        ground = np.full((SIZE[0] + 40, SIZE[1] + 40, 3), 90, np.uint8)
        ground[top : top + SIZE[0], 20 : 20 + SIZE[1]] = wall(3, spoilt)
        return ground

    locator = ks.GoldenTemplate(turns=1, smallest=1, largest=1, scales=1)
    locator.fit(frame(10), box=(10, 20, 10 + SIZE[0], 20 + SIZE[1]))
    detector = ks.Aligned(inner, locator=locator).fit([frame(top) for top in (6, 10, 17, 25, 31)])
    good, bad = detector.predict([frame(20), frame(20, spoilt=True)])
    assert good.found is not None
    assert good.found.found
    assert bad.score > good.score
    row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    assert 65 <= row < 105
    assert 105 <= column < 145


def test_a_locator_takes_no_tiles(inner: ks.PatchCore) -> None:
    with pytest.raises(ParameterError, match='expected one with resize="pad"'):
        ks.GoldenTemplate(inner.backbone).fit(wall(0), box=(0, 0, 80, 80))
