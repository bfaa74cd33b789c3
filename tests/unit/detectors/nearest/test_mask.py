"""PatchCore with a mask: the background is neither kept nor scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import Backbone, ParameterError, PatchCore, load

Images = NDArray[np.uint8]
PART = np.hypot(*(np.mgrid[:96, :96] - 47.5)) < 26


def images(n: int, seed: int) -> Images:
    """Grey discs with a grain, on a dark background with another."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(0, 25, (n, 96, 96, 3))
    found: Images = (np.where(PART[..., None], 150, 20) + grain).astype("u1")
    return found


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(levels=(2,), image_size=96, patch_size=3)


@pytest.mark.parametrize("coreset", [None, 0.2, 20])
def test_the_background_is_neither_kept_nor_scored(
    backbone: Backbone, tmp_path: Path, coreset: Any
) -> None:
    normal, odd = images(5, 0), images(2, 1)
    odd[0, 2:14, 2:14] = 10  # beside the part
    odd[1, 40:52, 40:52] = 255
    masked = PatchCore(backbone, coreset=coreset, mask="pca").fit(normal)
    kept = masked.coreset_
    assert kept is not None
    assert masked.foreground_ is not None
    features = backbone.extract(normal).pyramid.concatenated()
    of_part = np.stack([masked.foreground_.mask(image) for image in features])
    assert of_part[kept.image_index, kept.cells[:, 0], kept.cells[:, 1]].all()
    if coreset is None:
        assert kept.n_rows == of_part.sum()
    elif coreset == 0.2:
        assert kept.n_rows == round(0.2 * of_part.sum())
    beside, inside = masked.predict(odd)
    good = masked.predict(images(2, 2))
    assert beside.score < 1.5 * max(prediction.score for prediction in good)
    assert inside.score > 1.5 * max(prediction.score for prediction in good)
    assert beside.map[2:10, 2:10].max() < 0.1 * inside.score
    whole = PatchCore(backbone, coreset=0.2).fit(normal).predict(odd)
    assert whole[0].score > 1.2 * beside.score
    masked.save(tmp_path / "model.ks")
    again = load(tmp_path / "model.ks")
    assert again.get_params()["mask"] == "pca"
    for one, other in zip(again.predict(odd), (beside, inside), strict=True):
        assert one.score == other.score
        np.testing.assert_array_equal(one.map, other.map)


def test_what_a_mask_cannot_be_used_with_is_refused(backbone: Backbone) -> None:
    normal = images(2, 0)
    with pytest.raises(ParameterError, match=r"fusion.*a mask"):
        PatchCore(backbone, coreset=None, mask="pca", fusion="levels").fit(normal)
    with pytest.raises(ParameterError, match="window"):
        PatchCore(backbone, coreset=None, mask="pca", window=2).fit(normal)
    with pytest.raises(ParameterError, match="cells that count in all images, got 288"):
        PatchCore(backbone, coreset=288, mask="pca").fit(normal)
