"""Detectors with a mask that the user drew: cells outside are neither stored, found nor scored."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from forging import with_changes
from PIL import Image
from sklearn.base import clone

import knnspect as ks
from knnspect.cli.options import build_detector
from knnspect.data import elpv_split, read_image
from knnspect.errors import ImageError, ParameterError, StoreError
from knnspect.model_files.inspect import contents
from knnspect.views import Region, Variants

Images: TypeAlias = dict[str, Any]

#: A disc, to the left of the middle of a solar cell of 300 x 300 pixels.
PIXELS = np.hypot(*(np.mgrid[:300, :300] - np.array([150, 110]).reshape(2, 1, 1))) < 90
#: Far from it, and well inside of it.
OUTSIDE, INSIDE = np.s_[20:60, 240:280], np.s_[130:170, 90:130]
KINDS = [ks.Spade, ks.PatchCore, ks.AnomalyDINO]


@pytest.fixture(scope="module")
def backbone() -> ks.Backbone:
    return ks.Backbone(image_size=64, patch_size=3, device="cpu")


@pytest.fixture(scope="module")
def split() -> Any:
    return elpv_split(n_train=6, n_functional=2, n_defective=1)


@pytest.fixture(scope="module")
def normal(split: Any) -> Images:
    return {path.name: read_image(path) for path in split.train}


@pytest.fixture(scope="module")
def good(split: Any) -> Images:
    return {path.name: read_image(path) for path in split.functional}


def painted(images: Images, place: Any, value: int = 255) -> Images:
    """The same with a square, striped so that the network notices."""
    found = {}
    for id_, image in images.items():
        found[id_] = image.copy()
        found[id_][place] = value
        found[id_][place][::8] = 255 - value
    return found


def quick(kind: type[Any], backbone: ks.Backbone, **given: Any) -> Any:
    own = {"image_neighbors": 4} if kind is ks.Spade else {"coreset": None}
    score = {"score": "image"} if kind is ks.AnomalyDINO else {}
    return kind(backbone, **{**own, **score, "mask": PIXELS, "sigma": 2.0, **given})


def visible(detector: Any) -> Any:
    """Which cells count, in a detector of which the grid of the finest level is 16 x 16."""
    # Cells of 18.75 pixels, of which those whose centre lies in the disc are most of the disc's.
    (height, width), cell = detector.searched_.shapes[0][:2], 300 / 16
    assert (height, width) == (16, 16)
    shares = np.zeros((16, 16))
    for row in range(16):
        for column in range(16):
            rows, columns = (
                (np.arange(300) + 0.5 >= n * cell) & (np.arange(300) + 0.5 <= (n + 1) * cell)
                for n in (row, column)
            )
            shares[row, column] = PIXELS[np.ix_(rows, columns)].mean()
    return shares >= 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_outside_changes_no_score(
    kind: type[Any], backbone: ks.Backbone, normal: Images, good: Images
) -> None:
    masked = quick(kind, backbone).fit(normal)
    whole = quick(kind, backbone, mask=None).fit(normal)
    inside, outside = painted(good, INSIDE), painted(good, OUTSIDE)
    usual = masked.scores(good).max()
    assert masked.scores(inside).min() > 1.5 * usual
    assert whole.scores(outside).min() > 1.5 * whole.scores(good).max()
    # Not equal: a cell sees a little beyond itself.
    assert masked.scores(outside).max() < 1.2 * usual
    for prediction in masked.predict(outside):
        assert prediction.map[OUTSIDE].max() < 0.02 * usual
        assert prediction.map[PIXELS].max() > 0.5 * usual


@pytest.mark.parametrize("kind", KINDS)
def test_cells_outside_are_not_stored_and_not_found(
    kind: type[Any], backbone: ks.Backbone, normal: Images, good: Images
) -> None:
    counts = None
    # A defect that all normal images have outside, and nowhere else, stays one.
    learnt = quick(kind, backbone).fit(painted(normal, OUTSIDE))
    counts = visible(learnt)
    rows = learnt.searched_
    assert rows.n_rows == len(normal) * counts.sum()
    assert counts[rows.cells[:, 0], rows.cells[:, 1]].all()
    usual = learnt.scores(good).max()
    assert learnt.scores(painted(good, INSIDE)).min() > 1.5 * usual
    for prediction in learnt.predict(painted(good, INSIDE)):
        cells = prediction.neighbors.cells[0]
        assert counts[cells[..., 0], cells[..., 1]].all()
    whole = quick(kind, backbone, mask=None).fit(painted(normal, OUTSIDE))
    nearest = whole.predict(painted(good, INSIDE))[0].neighbors.cells[0, 7:9, 5:7, 0]
    assert not counts[nearest[..., 0], nearest[..., 1]].all(), "without a mask it is found there"


@pytest.mark.parametrize("n_images", [2, 6])
def test_spade_finds_the_nearest_cells_that_count_in_the_nearest_images(
    backbone: ks.Backbone, normal: Images, good: Images, n_images: int
) -> None:
    spade = quick(ks.Spade, backbone, image_neighbors=n_images, pixel_neighbors=3).fit(normal)
    plain = ks.Spade(backbone, image_neighbors=n_images).fit(normal)
    counts = visible(spade)
    features = backbone.extract(normal)
    rows = dict(zip(features.ids, features.pyramid.concatenated(), strict=True))
    query = backbone.extract(good)
    found = spade.predict(good)
    for index, prediction in enumerate(found):
        near = [id_ for id_, _ in plain.nearest_images(query.pooled[index])]
        assert [id_ for id_, _ in prediction.images] == near
        assert len(near) == n_images
        gallery = np.concatenate([rows[id_][counts] for id_ in near]).astype(np.float64)
        own = query.pyramid[index].concatenated()[0][counts].astype(np.float64)
        expected = np.sort(np.square(own[:, None] - gallery).sum(axis=2))[:, :3]
        np.testing.assert_allclose(
            prediction.neighbors.sq_distances[0][counts], expected, rtol=1e-6
        )


@pytest.mark.parametrize("kind", KINDS)
def test_normal_images_are_compared_inside_alone(
    kind: type[Any], backbone: ks.Backbone, normal: Images
) -> None:
    # One image has a defect outside: without a mask it says how far normal maps go.
    first, *others = normal
    odd = {first: painted({first: normal[first]}, OUTSIDE)[first]}
    odd |= {id_: normal[id_] for id_ in others}
    masked = [quick(kind, backbone).fit(images) for images in (normal, odd)]
    whole = [quick(kind, backbone, mask=None).fit(images) for images in (normal, odd)]
    assert whole[1].normal_map_max_ > 1.01 * whole[0].normal_map_max_
    assert masked[1].normal_map_max_ < 1.001 * masked[0].normal_map_max_
    # The border does not count, so nothing is known of it, and nothing is divided.
    assert whole[0].border_.factors.max() > 1
    assert masked[0].border_.factors.max() == 1


@pytest.mark.parametrize("kind", [ks.Spade, ks.PatchCore])
def test_a_mask_is_saved_with_the_model_not_where_it_came_from(
    kind: type[Any], backbone: ks.Backbone, normal: Images, good: Images, tmp_path: Path
) -> None:
    file = tmp_path / "mask.png"
    Image.fromarray(PIXELS).save(file)
    detector = quick(kind, backbone, mask=file)
    assert detector == quick(kind, backbone, mask=PIXELS) == quick(kind, backbone, mask=str(file))
    assert detector.mask == Region(PIXELS)
    file.unlink()
    for other in (clone(detector), pickle.loads(pickle.dumps(detector))):
        assert other == detector
    detector.fit(normal)
    assert detector.region_ == detector.mask
    assert detector.foreground_ is None
    expected = detector.predict(good)
    detector.save(tmp_path / "model.ks")
    detector.mask = None  # what was learnt is kept, not what is asked for now
    detector.save(tmp_path / "changed.ks")
    for name in ("model.ks", "changed.ks"):
        loaded = ks.load(tmp_path / name)
        assert loaded.get_params()["mask"] == Region(PIXELS)
        said = dict(contents(tmp_path / name, verify=False))
        assert said["mask"] == "300 x 300 pixels, of which 28.3% count"
        for one, other in zip(loaded.predict(good), expected, strict=True):
            assert one.score == other.score
            np.testing.assert_array_equal(one.map, other.map)
    mask = {**Region(PIXELS).to_json(), "height": 299}
    forged = with_changes(tmp_path / "model.ks", "config", {"mask": mask})
    (tmp_path / "forged.ks").write_bytes(forged)
    with pytest.raises(StoreError, match=r"forged\.ks: is damaged.*299 x 300 bits"):
        ks.load(tmp_path / "forged.ks")


def test_a_folder_of_features_becomes_a_model_with_a_mask(
    backbone: ks.Backbone, normal: Images, good: Images, tmp_path: Path
) -> None:
    spade = quick(ks.Spade, backbone).fit(normal, folder=tmp_path / "model")
    expected = quick(ks.Spade, backbone).fit(normal).scores(good)
    np.testing.assert_array_equal(spade.scores(good), expected)
    spade.save(tmp_path / "model")
    np.testing.assert_array_equal(ks.load(tmp_path / "model").scores(good), expected)
    with pytest.raises(AttributeError, match="with a mask only rows are kept"):
        _ = spade.gallery_


@pytest.mark.parametrize("kind", [ks.Spade, ks.PatchCore])
def test_the_mask_turns_with_the_variants_of_normal_images(
    kind: type[Any], backbone: ks.Backbone, normal: Images, good: Images
) -> None:
    learnt = quick(kind, backbone, variants=Variants(rotations=4)).fit(painted(normal, OUTSIDE))
    rows, counts = learnt.searched_, visible(learnt)
    for number, id_ in enumerate(rows.image_ids):
        angle = int(id_.partition("[rotated ")[2].rstrip("]") or 0)
        here = np.zeros((16, 16), bool)
        here[tuple(rows.cells[rows.image_index == number].T)] = True
        np.testing.assert_array_equal(here, np.rot90(counts, angle // 90))
    assert learnt.scores(painted(good, INSIDE)).min() > 1.5 * learnt.scores(good).max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_turns_with_the_variants_of_images_that_are_judged(
    kind: type[Any], backbone: ks.Backbone, normal: Images, good: Images
) -> None:
    corner = np.zeros((300, 300), bool)
    corner[:150, :150] = True
    score = {} if kind is ks.Spade else {"score": "image"}  # which each variant has of its own
    detector = quick(kind, backbone, mask=corner, **score)
    detector.fit(normal).query_variants = Variants(rotations=4)
    # In batches that begin in the middle of an image's variants.
    usual = detector.scores(good, batch_size=3).max()
    inside, outside = painted(good, np.s_[40:80, 40:80]), painted(good, np.s_[220:260, 220:260])
    assert detector.scores(inside, batch_size=3).min() > 1.3 * usual
    assert detector.scores(outside, batch_size=3).max() < 1.2 * usual
    for prediction in detector.predict(outside):
        assert prediction.map[220:260, 220:260].max() < 0.02 * usual


def test_images_of_other_proportions_are_named(
    backbone: ks.Backbone, normal: Images, good: Images
) -> None:
    patchcore = quick(ks.PatchCore, backbone).fit(normal)
    small = {"small.png": next(iter(good.values()))[::2, ::2]}
    assert patchcore.predict(small)[0].map.shape == (150, 150)
    with pytest.raises(ImageError, match=r"wide\.png: its size, 300 x 200 pixels.*300 x 300"):
        patchcore.predict({"wide.png": next(iter(good.values()))[:, :200]})
    with pytest.raises(ImageError, match=r"odd\.png: its size, 100 x 300 pixels.*300 x 300"):
        quick(ks.Spade, backbone).fit({**normal, "odd.png": next(iter(good.values()))[:100]})


def test_what_a_mask_cannot_do_is_said(backbone: ks.Backbone, normal: Images) -> None:
    speck = np.zeros((300, 300), bool)
    speck[100:105, 100:105] = True
    for given, message in (
        ({"mask": speck}, "mask: hides everything: in none of the 16 x 16 cells"),
        ({"mask": np.zeros((300, 300), bool)}, "mask: .*it hides everything"),
        ({"mask": "gone.png"}, r'mask: expected "pca" or the file of a mask: gone\.png'),
        ({"score": "image"}, "score: .*with a mask"),
        ({"window": 2}, "window: expected None with a mask"),
        ({"fusion": "levels"}, "fusion: .*a mask"),
        ({"pixel_neighbors": 10**6}, "cells that count of 4 images, got 1000000"),
    ):
        with pytest.raises(ParameterError, match=message):
            quick(ks.Spade, backbone, **given).fit(normal)
    spade = quick(ks.Spade, backbone).fit(normal)
    for name, value in (("score", "image"), ("fusion", "levels"), ("window", 2)):
        changed = pickle.loads(pickle.dumps(spade)).set_params(**{name: value})
        with pytest.raises(ParameterError, match=f"^{name}: "):
            changed.predict(normal)


def test_spade_tells_the_part_from_the_background(
    backbone: ks.Backbone, normal: Images, tmp_path: Path
) -> None:
    def on_black(images: Images) -> Images:
        return {id_: image * PIXELS[..., None] for id_, image in images.items()}

    spade = quick(ks.Spade, backbone, mask="pca").fit(on_black(normal))
    assert spade.foreground_ is not None
    assert spade.region_ is None
    first = next(iter(normal))
    beside = painted(on_black({first: normal[first]}), np.s_[140:160, 270:290], 90)
    inside = painted(on_black({first: normal[first]}), INSIDE)
    assert spade.scores(inside) > 1.5 * spade.normal_map_max_
    assert spade.predict(beside)[0].map[140:160, 270:290].max() < 0.1 * spade.normal_map_max_
    spade.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks")
    assert loaded.get_params()["mask"] == "pca"
    assert loaded.scores(inside) == spade.scores(inside)


def test_a_mask_is_an_option_of_the_command_line(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "roi.png")
    for kind in (ks.Spade, ks.PatchCore):
        given = {"mask": str(tmp_path / "roi.png")}
        assert build_detector(kind, given).get_params()["mask"] == Region(PIXELS)
        assert build_detector(kind, {"mask": "pca"}).get_params()["mask"] == "pca"
        assert build_detector(kind, {"mask": "none"}).get_params()["mask"] is None
        with pytest.raises(ParameterError, match=r'--mask: expected "pca" or the file.*gone\.png'):
            build_detector(kind, {"mask": "gone.png"})
