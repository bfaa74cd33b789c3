"""Detectors judge large images in tiles as they judge whole ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

import knnspect as ks
from knnspect.errors import ShapeError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*near-duplicates"),
]

#: Enough for the levels 0 and 1 to be those of the whole image.
TILES = {"tile": 64, "overlap": 24}
SIZE = (150, 200)


def wall() -> Any:
    brick: Any = data.brick  # which has no types
    return brick()


def parts(n: int) -> dict[str, Any]:
    """Return parts of one photograph of a wall, each beginning elsewhere."""
    whole = wall()
    return {f"{i}": whole[25 * i : 25 * i + SIZE[0], 30 * i : 30 * i + SIZE[1]] for i in range(n)}


def with_hole(image: Any) -> Any:
    image = image.copy()
    image[58:66, 92:104] = 0  # across the edges of tiles
    return image


def backbone(**given: Any) -> ks.Backbone:
    return ks.Backbone(levels=(0, 1), image_size=64, device="cpu", patch_size=3, **given)


@pytest.fixture(scope="module")
def judged() -> dict[str, Any]:
    images = parts(6)
    return {"bad": with_hole(images["5"]), "good": images["4"]}


@pytest.fixture(scope="module")
def patchcore() -> ks.PatchCore:
    return ks.PatchCore(backbone(**TILES), coreset=200).fit(parts(4))


KINDS: list[tuple[Any, dict[str, Any]]] = [
    (ks.PatchCore, {"coreset": 200}),
    (ks.PatchCore, {"coreset": None, "window": 12}),
    (ks.PatchCore, {"coreset": None, "fusion": "levels"}),
    (ks.Spade, {"image_neighbors": 4}),
    (ks.Padim, {"channels": 10}),
    (ks.PcaResidual, {}),
]


@pytest.mark.parametrize(("kind", "given"), KINDS)
def test_maps_are_those_of_whole_images(
    kind: Any, given: dict[str, Any], judged: dict[str, Any]
) -> None:
    whole, tiled = (
        kind(backbone(**way), **given).fit(parts(4)).predict(judged)
        for way in ({"resize": "own"}, TILES)
    )
    for one, other in zip(whole, tiled, strict=True):
        assert other.map.shape == SIZE
        np.testing.assert_allclose(one.map, other.map, rtol=1e-3, atol=1e-3 * one.map.max())
        assert one.score == pytest.approx(other.score, rel=1e-3)
    assert tiled[0].score > tiled[1].score
    row, column = np.unravel_index(tiled[0].map.argmax(), SIZE)
    assert 50 <= row <= 74
    assert 84 <= column <= 112


def test_a_model_judges_as_before_and_shows_the_nearest_place(
    patchcore: ks.PatchCore, judged: dict[str, Any], tmp_path: Path
) -> None:
    patchcore.save(tmp_path / "m.ks")
    again = ks.load(tmp_path / "m.ks")
    assert isinstance(again.backbone, ks.Backbone)
    assert (again.backbone.tile, again.backbone.overlap) == (64, 24)
    found, expected = again.predict(judged)[0], patchcore.predict(judged)[0]
    np.testing.assert_array_equal(found.map, expected.map)
    evidence = found.evidence(62, 98)
    assert evidence is not None
    assert evidence.box.top <= 62 < evidence.box.bottom
    assert evidence.box.left <= 98 < evidence.box.right
    assert evidence.normal_box is not None


def test_images_of_other_sizes_are_judged_by_a_coreset(patchcore: ks.PatchCore) -> None:
    image = np.tile(wall(), (1, 2))[:133, :517]
    found = patchcore.predict({"wide": with_hole(image), "small": image[:40, :40]})
    assert [one.map.shape for one in found] == [(133, 517), (40, 40)]
    row, column = np.unravel_index(found[0].map.argmax(), (133, 517))
    assert 50 <= row <= 74
    assert 84 <= column <= 112
    spade = ks.Spade(backbone(**TILES), image_neighbors=2).fit(parts(3))
    with pytest.raises(ShapeError, match=r'image wide: .*resize="own" or tiles.*a coreset'):
        spade.predict({"wide": image})
    with pytest.raises(ShapeError, match=r'image b: .*with resize="own", as with tiles, images'):
        ks.Spade(backbone(**TILES)).fit({"a": parts(1)["0"], "b": image})


def test_predictions_do_not_depend_on_the_batch(
    patchcore: ks.PatchCore, judged: dict[str, Any]
) -> None:
    together = patchcore.predict(judged, batch_size=2)
    alone = [patchcore.predict({id_: image}, batch_size=1)[0] for id_, image in judged.items()]
    for one, other in zip(together, alone, strict=True):
        assert one.score == other.score
        np.testing.assert_array_equal(one.map, other.map)


def test_masks_hide_cells_of_the_whole_image(judged: dict[str, Any]) -> None:
    mask = np.ones(SIZE, bool)
    mask[40:80, 70:130] = False
    found = ks.PatchCore(backbone(**TILES), coreset=200, mask=mask).fit(parts(4)).predict(judged)
    assert found[0].score < 1.5 * found[1].score
    whole, tiled = (
        ks.PatchCore(backbone(**way), coreset=200, mask="pca").fit(parts(4)).predict(judged)[0]
        for way in ({"resize": "own"}, TILES)
    )
    np.testing.assert_allclose(whole.map, tiled.map, rtol=1e-3, atol=1e-3 * whole.map.max())


def test_variants_are_tiled_each(judged: dict[str, Any]) -> None:
    given: dict[str, Any] = {"coreset": 200, "query_variants": ks.Variants(2, mirror=True)}
    found = ks.PatchCore(backbone(**TILES), **given).fit(parts(4)).predict(judged)
    upright = ks.PatchCore(backbone(**TILES), coreset=200).fit(parts(4)).predict(judged)
    for one, other in zip(found, upright, strict=True):
        assert one.map.shape == SIZE
        assert (one.map <= other.map + 1e-3).mean() > 0.9
    learnt = ks.PatchCore(backbone(**TILES), coreset=200, variants=ks.Variants(4)).fit(parts(3))
    assert learnt.predict(judged)[0].score > learnt.predict(judged)[1].score


def test_a_fit_with_little_memory_gives_the_same(
    patchcore: ks.PatchCore, judged: dict[str, Any], tmp_path: Path
) -> None:
    again = ks.PatchCore(backbone(**TILES), coreset=200)
    again.fit(parts(4), folder=tmp_path / "f", max_memory="4GB")
    found, expected = again.predict(judged)[0], patchcore.predict(judged)[0]
    assert found.score == expected.score
    np.testing.assert_array_equal(found.map, expected.map)


def test_a_trained_network_judges_them(judged: dict[str, Any]) -> None:
    simplenet = ks.SimpleNet(backbone(**TILES), max_epochs=2).fit(parts(4))
    assert simplenet.predict(judged)[0].map.shape == SIZE
