"""The white level as a parameter of the backbone: found by fit, kept in the model."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import Backbone, PatchCore, load
from knnspect.errors import ImageError, ParameterError, ReadingWarning
from knnspect.model_files.inspect import contents


def part(seed: int, stained: bool = False) -> NDArray[Any]:
    """Return an even part as a camera of 12 bits counts it, with a stain of 60 counts or not."""
    counts = 1603 + np.random.default_rng(seed).normal(0, 1, (64, 64, 3))
    counts[20:30, 35:45] += 60 * stained
    return counts.astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(imagecodecs.png_encode(part(seed)))
    return folder


def detector(white: Any = None) -> PatchCore:
    backbone = Backbone(levels=(1, 2), image_size=64, device="cpu", white=white)
    return PatchCore(backbone, coreset=None, score="map")


def scores(fitted: Any, scale: int = 1) -> tuple[float, float]:
    good, bad = fitted.predict(
        [part(9) * np.uint16(scale), part(9, stained=True) * np.uint16(scale)]
    )
    return good.score, bad.score


def test_a_stain_in_twelve_bits_of_colour_is_seen(folder: Path, tmp_path: Path) -> None:
    given = detector(2047).fit(folder)
    good, bad = scores(given)
    assert bad > 2 * good
    found = detector("auto").fit(folder)
    assert found.backbone.white_level == 2047
    assert scores(found) == (good, bad)
    # The same counts times 32 use all 16 bits: the same images but for rounding.
    wide = detector().fit([part(seed) * np.uint16(32) for seed in range(4)])
    np.testing.assert_allclose(scores(wide, 32), (good, bad), rtol=0.05)

    found.save(tmp_path / "model.ks")
    again = load(tmp_path / "model.ks")
    assert again.backbone.white == 2047
    assert scores(again) == (good, bad)
    assert dict(contents(tmp_path / "model.ks", verify=False))["backbone white"] == 2047
    for copied in (copy.deepcopy(found.backbone), pickle.loads(pickle.dumps(found.backbone))):
        assert copied.white_level == 2047


def test_fit_and_predict_warn_once(folder: Path) -> None:
    fitted = detector()
    with pytest.warns(ReadingWarning, match=r"\.png: its largest value .*white=4095") as caught:
        fitted.fit(folder)
    assert len(caught) == 1
    with pytest.warns(ReadingWarning, match=r"its largest value .*white='auto'") as caught:
        scores(fitted)
    assert len(caught) == 1
    state, _ = fitted.backbone.state()
    assert "white" not in state  # as in models of earlier versions

    clipping = detector(1605).fit([part(0).clip(max=1605), part(1).clip(max=1605)])
    with pytest.warns(ReadingWarning, match=r"pixels of 2 image\(s\) are above .* 1605") as caught:
        scores(clipping)
    assert len(caught) == 1


def test_a_folder_keeps_its_white_level(folder: Path, tmp_path: Path) -> None:
    detector("auto").fit(folder, folder=tmp_path / "f")
    detector(2047).fit(folder, folder=tmp_path / "f")  # the same
    for other in (4095, None):
        with pytest.raises(ParameterError, match=rf"another white \(2047, not {other}\)"):
            detector(other).fit(folder, folder=tmp_path / "f")
    arrays = {"a": part(0), "b": part(1)}
    first = detector(2047).fit(arrays, folder=tmp_path / "g")
    again = detector(2047).fit(arrays, folder=tmp_path / "g")  # which compares them, and warns not
    assert scores(first) == scores(again)


def test_auto_is_found_by_fit_and_for_one_set_of_images(folder: Path) -> None:
    backbone = Backbone(image_size=64, white="auto")
    with pytest.raises(ParameterError, match="white: 'auto' is found by fit"):
        backbone.extract(folder)
    assert backbone.find_white(folder) == 2047
    assert backbone.find_white(folder) == 2047
    with pytest.raises(ParameterError, match=r"2047 on other images and is 4095 on these"):
        backbone.find_white([part(0) * np.uint16(2)])
    assert repr(backbone).endswith("white='auto')")
    with pytest.raises(ImageError, match="can be read again"):
        detector("auto").fit(batch for batch in [np.stack([part(0), part(1)])])


def test_the_limit_of_size_is_the_backbones(folder: Path) -> None:
    fitted = detector(2047).fit(folder)
    fitted.backbone.max_pixels = 64 * 64 - 1
    with pytest.raises(ImageError, match=r"0\.png: expected at most 4,095 pixels, got 64 x 64"):
        fitted.predict(folder)
    fitted.backbone.max_pixels = 64 * 64
    assert len(fitted.predict(folder)) == 4
