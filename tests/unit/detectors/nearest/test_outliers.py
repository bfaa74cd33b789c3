"""Cells of normal images that lie far from all other images are not compared with."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import Backbone, ParameterError, PatchCore, Variants, load
from knnspect.detectors.nearest.outliers import cells_kept
from knnspect.model_files.inspect import contents

Images = NDArray[np.uint8]
SHARE = 0.15
REGION = np.zeros((64, 64), bool)
REGION[16:] = True


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(levels=(1, 2), image_size=64, patch_size=3)


@pytest.fixture(scope="module")
def images() -> Images:
    """Six images of which the third has a defect."""
    found: Images = np.random.default_rng(0).integers(100, 120, (6, 64, 64, 3)).astype("u1")
    found[2, 24:40, 24:40] = 255
    return found


def fitted(normal: object, backbone: Backbone, **how: Any) -> PatchCore:
    of_fit = {name: how.pop(name) for name in ("blocks", "folder", "max_memory") if name in how}
    detector = PatchCore(backbone, **{"outliers": SHARE, "coreset": None, **how})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector.fit(normal, **of_fit)


def kept_of(detector: PatchCore) -> NDArray[np.bool_]:
    """Which cells are there, image by image."""
    coreset = detector.coreset_
    assert coreset is not None
    height, width, _ = coreset.shapes[0]
    kept = np.zeros((coreset.n_images, height, width), bool)
    kept[coreset.image_index, coreset.cells[:, 0], coreset.cells[:, 1]] = True
    return kept


def sq_distances(rows: NDArray[Any], counts: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """The formula by NumPy alone: each cell's least squared distance to another image."""
    n, height, width, _ = rows.shape
    counts = np.ones((n, height, width), bool) if counts is None else counts
    rows = rows.astype(np.float64)
    found = np.full((n, height, width), np.nan)
    for image in range(n):
        there = np.arange(n) != image
        others = rows[there][counts[there]]
        for row, column in np.argwhere(counts[image]):
            apart = np.square(others - rows[image, row, column]).sum(axis=1)
            found[image, row, column] = apart.min()
    return found


def farthest(distances: NDArray[Any]) -> NDArray[np.bool_]:
    """Which cells are among the `SHARE` of all with the largest distances."""
    known = np.sort(distances[~np.isnan(distances)])[::-1]
    n_dropped = int(len(known) * SHARE)
    dropped: NDArray[np.bool_] = distances >= known[n_dropped - 1]
    assert dropped.sum() == n_dropped
    return dropped


def test_the_cells_farthest_from_all_other_images_are_dropped(
    backbone: Backbone, images: Images
) -> None:
    rows = backbone.extract(images).pyramid.concatenated()
    dropped = farthest(sq_distances(rows))
    detector = fitted(images, backbone)
    np.testing.assert_array_equal(kept_of(detector), ~dropped)
    shares = dropped.mean(axis=(1, 2))
    assert detector.dropped_ == {f"{i:06d}": shares[i] for i in range(6) if shares[i]}
    assert next(iter(detector.dropped_)) == "000002"


def test_of_a_mask_only_cells_that_count_are_compared_and_dropped(
    backbone: Backbone, images: Images
) -> None:
    rows = backbone.extract(images).pyramid.concatenated()
    counts = np.zeros((6, 16, 16), bool)
    counts[:, 4:] = True
    dropped = farthest(sq_distances(rows, counts))
    detector = fitted(images, backbone, mask=REGION)
    np.testing.assert_array_equal(kept_of(detector), counts & ~dropped)
    shares = dropped.sum(axis=(1, 2)) / counts.sum(axis=(1, 2))
    assert detector.dropped_["000002"] == shares[2]


@pytest.mark.parametrize("mask", [None, REGION])
def test_a_coreset_is_picked_from_what_is_left(
    backbone: Backbone, images: Images, mask: Any
) -> None:
    left = kept_of(fitted(images, backbone, mask=mask))
    detector = fitted(images, backbone, mask=mask, coreset=0.1)
    assert detector.coreset_ is not None
    assert detector.coreset_.n_rows == round(0.1 * left.sum())
    assert not (kept_of(detector) & ~left).any()
    n_left = int(left.sum())
    with pytest.raises(ParameterError, match=f"coreset: expected at most the {n_left} cells that"):
        fitted(images, backbone, mask=mask, coreset=n_left + 1)


def test_a_defect_among_normal_images_is_found_all_the_same(
    backbone: Backbone, images: Images
) -> None:
    with_it = fitted(images, backbone, outliers=None, coreset=0.1)
    without = fitted(images, backbone, coreset=0.1)
    good, bad = images[0], images[2]
    assert with_it.scores([bad])[0] < 2 * with_it.scores([good])[0]
    assert without.scores([bad])[0] > 5 * without.scores([good])[0]


def test_near_duplicates_and_blocks_do_not_vouch_for_each_other(
    backbone: Backbone, images: Images
) -> None:
    again = images[2].copy()
    again[:2, :2] += 1
    twice = {f"{i}": image for i, image in enumerate([*images, again])}
    near = fitted(twice, backbone, coreset=0.1)
    assert {"2", "6"} == set([*near.dropped_][:2])
    other = np.roll(images[2], 11, axis=0)  # the same defect elsewhere
    block = {f"{i}": image for i, image in enumerate([*images, other])}
    alone = fitted(block, backbone)
    together = fitted(block, backbone, blocks={id_: id_ in "26" or id_ for id_ in block})
    lost = [min(one.dropped_.get(id_, 0) for id_ in "26") for one in (alone, together)]
    assert lost[0] < lost[1]


def test_of_variants_each_is_compared_with_all_of_other_images(
    backbone: Backbone, images: Images
) -> None:
    detector = fitted(images, backbone, variants=Variants(rotations=2))
    kept = kept_of(detector)
    assert len(kept) == 12
    lost = (~kept).sum(axis=(1, 2)).reshape(6, 2).sum(axis=1)
    assert detector.dropped_ == {f"{i:06d}": n / kept[:2].size for i, n in enumerate(lost) if n}
    assert (~kept[4]).sum() > 100 < (~kept[5]).sum()


def test_folders_and_files_have_the_same(
    backbone: Backbone, images: Images, tmp_path: Path
) -> None:
    detector = fitted(images, backbone, coreset=0.1)
    of_folder = fitted(images, backbone, coreset=0.1, folder=tmp_path / "f", max_memory="8GB")
    of_folder.save(tmp_path / "model.ks")
    for other in (of_folder, load(tmp_path / "model.ks")):
        assert isinstance(other, PatchCore)
        assert other.dropped_ == detector.dropped_
        assert list(other.dropped_) == list(detector.dropped_)
        assert other.outliers == SHARE
        np.testing.assert_array_equal(other.scores(images), detector.scores(images))
    said = dict(contents(tmp_path / "model.ks", verify=True))["dropped cells"]
    share = detector.dropped_["000002"]
    assert str(said).startswith(f"of {len(detector.dropped_)} images, most of 000002 ({share:.0%})")
    fitted(images, backbone, coreset=0.1, outliers=None).save(tmp_path / "older.ks")
    older = load(tmp_path / "older.ks")
    assert isinstance(older, PatchCore)
    assert older.outliers is None
    assert older.dropped_ == {}


def test_what_is_dropped_is_said_once(backbone: Backbone, images: Images) -> None:
    with pytest.warns(UserWarning, match="outliers") as said:
        detector = PatchCore(backbone, outliers=SHARE).fit(images)
    (warning,) = said
    n_cells = images.shape[0] * 16 * 16
    found = re.match(
        rf"outliers: dropped (\d+) of {n_cells} cells, most of 000002 \((\d+)% of its cells\)",
        str(warning.message),
    )
    assert found is not None
    assert int(found[2]) == round(100 * detector.dropped_["000002"])
    assert int(found[1]) == round(256 * sum(detector.dropped_.values())) == int(SHARE * n_cells)
    assert "their scores raise the thresholds" in str(warning.message)
    assert Path(warning.filename) == Path(__file__)
    with pytest.warns(
        UserWarning, match=f"dropped 0 of {n_cells} cells, most of none; see dropped_$"
    ):
        assert PatchCore(backbone, outliers=1e-6).fit(images).dropped_ == {}
    held_out = np.random.default_rng(1).integers(100, 120, (3, 64, 64, 3)).astype("u1")
    with pytest.warns(UserWarning, match=r"see dropped_$"):
        PatchCore(backbone, outliers=SHARE).fit(images, calibration_images=held_out)


@pytest.mark.parametrize("coreset", [None, 0.1])
def test_images_that_come_later_lose_no_cells(
    backbone: Backbone, images: Images, tmp_path: Path, coreset: Any
) -> None:
    detector = fitted(images, backbone, coreset=coreset)
    before, dropped = kept_of(detector), dict(detector.dropped_)
    defective = np.roll(images[2], 11, axis=0)
    far = detector.scores([defective])[0]
    detector.add({"new": defective})
    after = kept_of(detector)
    np.testing.assert_array_equal(after[:6], before)
    assert after[6].any()
    assert after[6].all() == (coreset is None)
    assert detector.scores([defective])[0] < far / 3
    assert detector.dropped_ == dropped
    detector.save(tmp_path / "model.ks")
    assert load(tmp_path / "model.ks").scores([defective])[0] == detector.scores([defective])[0]
    detector.remove(["000002"])
    assert detector.n_images_ == 6
    detector.rollback(0)
    assert detector.scores([defective])[0] == far


def test_equal_distances_are_kept() -> None:
    far = np.array([[2, 2, 1], [2, 2, 2]], np.float32)
    assert cells_kept(far, 0.5).all()
    far[1, 2] = 3
    assert cells_kept(far, 0.5).tolist() == [[True] * 3, [True, True, False]]


def test_what_it_cannot_be_used_with_is_refused(backbone: Backbone, images: Images) -> None:
    for n_images in (1, 3):  # of three copies none is compared with another
        normal = np.repeat(images[:1], n_images, axis=0)
        with pytest.raises(
            ParameterError, match=f"outliers: expected .* each other, none of the {n_images} can"
        ):
            fitted(normal, backbone)
    with pytest.raises(ParameterError, match="window: expected None with outliers"):
        fitted(images, backbone, window=2)
    with pytest.raises(ParameterError, match=r"fusion.* or outliers"):
        fitted(images, backbone, fusion="levels")
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(ParameterError, match="outliers: expected a number above 0 and below 1"):
            fitted(images, backbone, outliers=share)
