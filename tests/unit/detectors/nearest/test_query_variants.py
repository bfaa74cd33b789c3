"""Images that are judged in variants: the least score of each cell counts, turned back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from forging import parts_of, signed, with_changes
from numpy.typing import NDArray

import knnspect as ks
from knnspect.cli.options import build_detector
from knnspect.data import elpv_split, read_image
from knnspect.data.decoded import contiguous
from knnspect.detectors.maps import pixel_map
from knnspect.detectors.nearest import NearestDetector
from knnspect.errors import ImageError, ImageWarning, ParameterError, StoreError
from knnspect.model_files.inspect import contents
from knnspect.testing.detectors.case import expect_same_predictions
from knnspect.views import Variants

Images: TypeAlias = dict[str, NDArray[Any]]
Make: TypeAlias = Callable[..., NearestDetector]

QUARTERS = Variants(rotations=4, mirror=True)


@pytest.fixture(scope="module")
def backbone() -> ks.Backbone:
    return ks.Backbone(image_size=64, device="cpu")


@pytest.fixture(scope="module")
def split() -> Any:
    return elpv_split(n_train=5, n_functional=2, n_defective=2)


def squares(files: Any) -> Images:
    """Solar cells, cut to squares of 256 pixels."""
    return {path.name: contiguous(read_image(path))[:256, :256] for path in files}


@pytest.fixture(scope="module")
def normal(split: Any) -> Images:
    return squares(split.train)


@pytest.fixture(scope="module")
def queries(split: Any) -> Images:
    return squares([*split.functional, *split.defective])


def turned(images: Images, quarters: int) -> Images:
    return {name: np.rot90(image, quarters) for name, image in images.items()}


KINDS: dict[str, tuple[type[NearestDetector], dict[str, Any]]] = {
    "spade": (ks.Spade, {"image_neighbors": 2, "pixel_neighbors": 2}),
    "spade, own score": (ks.Spade, {"image_neighbors": 3, "score": "image"}),
    "all cells": (ks.PatchCore, {"coreset": None}),
    "coreset": (ks.PatchCore, {"coreset": 0.1, "score": "top"}),
    "patchcore, own score": (ks.PatchCore, {"coreset": None, "score": "image"}),
    "level by level": (ks.PatchCore, {"coreset": None, "fusion": "levels"}),
    "window": (ks.PatchCore, {"coreset": None, "window": 2}),
    "in NumPy": (ks.PatchCore, {"coreset": None, "backend": "sklearn"}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def fitted(request: pytest.FixtureRequest, backbone: ks.Backbone, normal: Images) -> Any:
    kind, given = KINDS[request.param]
    return kind(backbone, **given).fit(normal)


def judged(detector: Any, images: object, variants: Variants | None, **how: Any) -> Any:
    detector.set_params(query_variants=variants)
    return detector.predict(images, **how)


def test_parts_learnt_upright_are_judged_as_well_turned(fitted: Any, queries: Images) -> None:
    """Turned by a quarter, a solar cell is far from normal; among its turns is one that is not."""
    expected = judged(fitted, queries, QUARTERS)
    lying = turned(queries, 1)
    without = [prediction.score for prediction in judged(fitted, lying, None)]
    found = judged(fitted, lying, QUARTERS)
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-6)
        np.testing.assert_allclose(one.map, np.rot90(other.map), rtol=1e-4, atol=1e-4)
        assert one.images == other.images
    good = [(with_them.score, alone) for with_them, alone in zip(found, without, strict=True)][:2]
    assert all(with_them < 0.6 * alone for with_them, alone in good)
    assert max(found[2].score, found[3].score) > max(found[0].score, found[1].score)


def test_scores_are_never_higher_than_those_of_the_image_as_it_is(
    fitted: Any, queries: Images
) -> None:
    alone = judged(fitted, queries, None)
    for variants in (Variants(8), Variants(1, (0.8, 1.3), mirror=True)):
        some_are_lower = False
        for one, other in zip(judged(fitted, queries, variants), alone, strict=True):
            assert one.score <= other.score
            assert (one.map <= other.map * (1 + 1e-5)).all()
            some_are_lower |= bool((one.map < 0.999 * other.map).any())
        assert some_are_lower


def test_one_variant_is_the_image_as_it_is(fitted: Any, queries: Images) -> None:
    alone = judged(fitted, queries, None)
    found = judged(fitted, queries, Variants())
    expect_same_predictions("one variant", found, alone)
    assert found[0].chosen_variants is alone[0].chosen_variants is None
    assert found[0].evidence(3, 4).query_variant == ""


def test_the_least_is_that_of_the_variants_judged_one_by_one(fitted: Any, queries: Images) -> None:
    """Quarter turns of squares move cells exactly, so all of it is known by hand."""
    image = next(iter(queries.values())).copy()
    image[:128, 128:] = np.rot90(image)[:128, 128:]
    image[128:, :128] = np.rot90(image, 2)[128:, :128]
    image[128:, 128:] = np.rot90(image[:, ::-1], 3)[128:, 128:]
    (found,) = judged(fitted, [image], QUARTERS)
    each = {v.name: np.ascontiguousarray(v.of(image)) for v in QUARTERS.each}
    cells, neighbors = [], []
    for variant, alone in zip(QUARTERS.each, judged(fitted, each, None), strict=True):
        scores = fitted.border_.divide(fitted._cell_scores(alone.neighbors))
        parts = [scores, alone.neighbors.sq_distances[0], alone.neighbors.images[0]]
        parts += [alone.neighbors.cells[0]]
        back = [np.rot90(part, -int(variant.angle) // 90) for part in parts]
        if variant.is_mirrored:
            back = [part[:, ::-1] for part in back]
        cells.append(back[0])
        neighbors.append(back[1:])
    least = np.argmin(cells, axis=0)
    np.testing.assert_array_equal(found.chosen_variants.places, least)
    assert len(np.unique(least)) > 3
    at = (least, *np.indices(least.shape))
    for place, got in enumerate(
        (found.neighbors.sq_distances, found.neighbors.images, found.neighbors.cells)
    ):
        expected = np.stack([parts[place] for parts in neighbors])[at]
        np.testing.assert_array_equal(got[0], expected)
    expected_map = pixel_map(np.stack(cells)[at], found.placement, fitted.sigma)
    np.testing.assert_array_equal(found.map, expected_map)
    if fitted.score == "map":
        assert found.score == expected_map.max()
    elif fitted.score == "image":
        assert found.score == min(p.score for p in judged(fitted, each, None))


def test_evidence_names_both_variants_and_lies_in_both_images_as_they_came(
    backbone: ks.Backbone, normal: Images
) -> None:
    """A normal image that comes turned and darker is found, in the variant that undoes the turn."""
    name = list(normal)[2]
    dark = Variants(1, (0.5,))
    detector = ks.PatchCore(backbone, coreset=None, variants=dark, query_variants=QUARTERS)
    detector.fit(normal)
    positions = np.moveaxis(np.indices((256, 256)), 0, -1)
    changes: list[tuple[Callable[[Any], Any], str]] = [
        (lambda image: np.rot90(image), "rotated 270"),
        (lambda image: image[:, ::-1], "mirrored"),
        (lambda image: np.rot90(image)[:, ::-1], "mirrored, rotated 270"),
        (lambda image: image, ""),
    ]
    for change, undone in changes:
        (found,) = detector.predict([change(dark.each[1].of(normal[name]))])
        assert found.map.max() == 0
        evidence = found.evidence(50, 200)
        assert evidence is not None
        assert (evidence.image, evidence.sq_distance) == (name, 0)
        assert (evidence.variant, evidence.query_variant) == ("brightness 0.5", undone)
        box, there = evidence.box, evidence.normal_box
        assert box.top <= 50 < box.bottom
        assert box.left <= 200 < box.right
        seen = change(positions)[box.top : box.bottom, box.left : box.right]
        assert there is not None
        assert tuple(seen.min((0, 1))) == (there.top, there.left)
        assert tuple(seen.max((0, 1)) + 1) == (there.bottom, there.right)


def test_what_a_turned_variant_does_not_show_is_left_to_the_others(
    backbone: ks.Backbone, normal: Images, queries: Images
) -> None:
    variants = Variants(8)
    detector = ks.PatchCore(backbone, coreset=None, query_variants=variants).fit(normal)
    lying = variants.each[3].of(next(iter(queries.values())))
    (found,), (alone,) = judged(detector, [lying], variants), judged(detector, [lying], None)
    chosen = found.chosen_variants.places
    at_corners = {int(chosen[row, column]) for row in (0, 1, -1) for column in (0, 1, -1)}
    assert not any(place % 2 for place in at_corners), "turned by 45 degrees they are not shown"
    assert (chosen[5:11, 5:11] % 2 == 1).mean() > 0.9, "where the others look odd"
    middle = np.s_[80:176, 80:176]
    assert found.map[middle].mean() < 0.5 * alone.map[middle].mean()


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad", "shorter"])
def test_images_of_any_shape_come_in_order_in_batches_of_any_size(
    backbone: ks.Backbone, normal: Images, split: Any, resize: Any
) -> None:
    """Also with their pictures, and those that cannot be used are left out, once each."""
    whole = contiguous(read_image(split.functional[0]))
    images: dict[str, Any] = {
        "wide": whole[:100, :280],
        "bad": np.full((9, 9, 3), np.nan, "f4"),
        "square": whole[:256, :256],
        "x [rotated 180]": whole[:280, :100],
        "dot": whole[:1, :1],
    }
    good = {name: image for name, image in images.items() if name != "bad"}
    other = ks.Backbone(image_size=64, device="cpu", resize=resize)
    detector = ks.PatchCore(other, coreset=0.2, query_variants=Variants(3, mirror=True))
    detector.fit(normal)
    expected = [detector.predict({name: image})[0] for name, image in good.items()]
    for size in (1, 4, 16):
        with pytest.warns(ImageWarning, match="left out image bad") as warned:
            found = list(
                detector.iter_predict(images, batch_size=size, skip_bad=True, keep_pictures=True)
            )
        assert len(warned) == 1
        expect_same_predictions(f"batches of {size}", found, expected)
        for one, image in zip(found, good.values(), strict=True):
            assert one.map.shape == image.shape[:2]
            np.testing.assert_array_equal(one.picture, image)
            assert one.evidence(0, 0) is not None
    with pytest.raises(ImageError, match="bad: expected finite"):
        detector.predict(images)


def test_images_too_long_to_be_turned_are_refused(backbone: ks.Backbone, normal: Images) -> None:
    detector = ks.PatchCore(backbone, query_variants=Variants(8)).fit(normal)
    with pytest.raises(ImageError, match=r"image long: .* use it without rotations"):
        detector.predict({"long": np.zeros((2, 30_000), np.uint8)})


def test_light_is_undone(backbone: ks.Backbone, normal: Images, queries: Images) -> None:
    detector = ks.Spade(backbone, image_neighbors=3).fit(normal)
    dark = (list(queries.values())[1] * 0.2).astype("u1")
    (one,), (other,) = judged(detector, [dark], Variants(1, (5.0,))), judged(detector, [dark], None)
    assert one.score < 0.7 * other.score
    row, column = divmod(int(other.map.argmax()), other.map.shape[1])
    evidence = one.evidence(row, column)
    assert evidence.query_variant == "brightness 5.0"
    assert evidence.box == other.evidence(row, column).box


def test_the_image_as_it_is_says_what_is_masked() -> None:
    """A variant whose mask is larger hides no more of the image."""
    rng = np.random.default_rng(0)
    disc = np.hypot(*(np.mgrid[:96, :96] - 47.5)) < 26
    grain = rng.integers(0, 25, (5, 96, 96, 3))
    images = (np.where(disc[..., None], 150, 20) + grain).astype("u1")
    backbone = ks.Backbone(levels=(2,), image_size=96, patch_size=3, device="cpu")
    detector = ks.PatchCore(backbone, coreset=None, mask="pca", sigma=0).fit(images[:4])
    assert detector.foreground_ is not None
    part = detector.foreground_.mask(backbone.extract(images[4:]).pyramid.concatenated()[0])
    # So dark, the part looks like background.
    variants = Variants(2, (0.15,))
    (dark,) = backbone.extract(variants.each[1].of(images[4])[None]).pyramid.concatenated()
    hidden = ~detector.foreground_.mask(dark) & part
    assert hidden.any()
    (found,), (alone,) = judged(detector, images[4:], variants), judged(detector, images[4:], None)
    of_cells = np.ix_(np.arange(part.shape[0]) * 8 + 4, np.arange(part.shape[1]) * 8 + 4)
    for prediction in (found, alone):
        assert prediction.neighbors is not None
    assert (found.map[of_cells][hidden] > 0).all()
    assert (found.map <= alone.map * (1 + 1e-5)).all()
    assert not found.chosen_variants.places[~part].any()
    assert found.chosen_variants.places[part].any()


def test_models_keep_them(
    backbone: ks.Backbone, normal: Images, queries: Images, tmp_path: Path
) -> None:
    detector = ks.Spade(backbone, image_neighbors=3, query_variants=QUARTERS).fit(normal)
    detector.save(tmp_path / "model.ks")
    expected = detector.predict(queries)
    loaded = ks.load(tmp_path / "model.ks")
    assert loaded.get_params()["query_variants"] == QUARTERS
    expect_same_predictions("loaded", loaded.predict(queries), expected)
    assert dict(contents(tmp_path / "model.ks", verify=False))["query variants"] == str(QUARTERS)

    header, tensors = parts_of(tmp_path / "model.ks")
    config = header["__metadata__"]["config"]
    kept = ', "query_variants": "rotations=4,mirror"'
    assert config.count(kept) == 1
    header["__metadata__"]["config"] = config.replace(kept, "")
    (tmp_path / "earlier.ks").write_bytes(signed(header, tensors))
    earlier = ks.load(tmp_path / "earlier.ks")
    assert earlier.get_params()["query_variants"] is None
    alone = judged(detector, queries, None)
    expect_same_predictions("of an earlier version", earlier.predict(queries), alone)

    for value in ("rotations=0", 8, [1], True):
        forged = with_changes(tmp_path / "model.ks", "config", {"query_variants": value})
        (tmp_path / "forged.ks").write_bytes(forged)
        with pytest.raises(StoreError, match="is damaged"):
            ks.load(tmp_path / "forged.ks")


def test_normal_images_are_calibrated_as_they_are(backbone: ks.Backbone, normal: Images) -> None:
    plain = ks.PatchCore(backbone, coreset=None).fit(normal)
    detector = ks.PatchCore(backbone, coreset=None, query_variants=QUARTERS).fit(normal)
    assert detector.normal_map_max_ == plain.normal_map_max_
    assert detector.border_ == plain.border_


def test_decisions_are_made_of_them_by_what_calibrated(
    backbone: ks.Backbone, normal: Images, queries: Images
) -> None:
    """By scores of upright images, which are upper bounds, or by those of images held out."""
    detector = ks.PatchCore(backbone, coreset=None, query_variants=QUARTERS).fit(normal)
    plain = ks.PatchCore(backbone, coreset=None).fit(normal)
    found, alone = detector.predict(queries), plain.predict(queries)
    for one, other in zip(found, alone, strict=True):
        assert one.calibration is not None
        assert other.calibration is not None
        np.testing.assert_array_equal(one.calibration.scores, other.calibration.scores)
        assert one.p_value >= other.p_value
        assert one.false_alarm_rate == other.false_alarm_rate
    expected = sorted(prediction.score for prediction in found)
    detector.calibrate(turned(queries, 1))
    calibrated = detector.predict(queries)[0].calibration
    assert calibrated is not None
    np.testing.assert_allclose(np.sort(calibrated.scores), expected, rtol=1e-6)
    detector.set_params(query_variants=None)
    assert "query_variants changed since" in (detector.predict(queries)[0].uncalibrated or "")


def test_the_command_line_has_them() -> None:
    for kind in (ks.Spade, ks.PatchCore):
        detector = build_detector(kind, {"query_variants": "rotations=8,brightness=0.8:1.2"})
        assert detector.get_params()["query_variants"] == Variants(8, (0.8, 1.2))
        with pytest.raises(
            ParameterError, match=r"^--query-variants: rotations: expected at least"
        ):
            build_detector(kind, {"query_variants": "rotations=0"})
