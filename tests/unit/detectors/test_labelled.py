"""Learning from a few images with defects: how they are given, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.errors import ImageError, ParameterError
from knnspect.training import loop

SPLIT = elpv_split(n_train=10, n_functional=3, n_defective=8)
NORMAL, DEFECTS = {path.name: path for path in SPLIT.train}, SPLIT.defective[:3]
QUERIES = [*SPLIT.functional, *SPLIT.defective[3:]]


def make(**changed: Any) -> ks.DeepSvdd:
    backbone = ks.Backbone(levels=(2, 3), image_size=64, patch_size=3, device="cpu")
    return ks.DeepSvdd(backbone, **{"max_epochs": 3, "hidden": 32, "outputs": 8, **changed})


@pytest.fixture(scope="module")
def taught() -> ks.DeepSvdd:
    return make(defects=DEFECTS).fit(NORMAL)


def test_they_change_what_is_learnt_and_are_no_part_of_it(
    taught: ks.DeepSvdd, tmp_path: Path
) -> None:
    plain = make().fit(NORMAL)
    assert plain.scores(QUERIES).tolist() != taught.scores(QUERIES).tolist()
    assert taught.network_.center.tolist() == plain.network_.center.tolist()
    assert taught.n_images_ == 10
    taught.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert loaded.scores(QUERIES).tolist() == taught.scores(QUERIES).tolist()
    assert loaded.get_params()["defects"] is None
    assert loaded.fitted_with_ == {"defects": "<3 images>"}


def test_they_may_be_given_to_one_fit_alone(taught: ks.DeepSvdd) -> None:
    detector = make()
    assert detector.fit(NORMAL, defects=DEFECTS) is detector
    assert detector.defects is None
    assert detector.scores(QUERIES).tolist() == taught.scores(QUERIES).tolist()
    detector.fit(NORMAL)
    assert detector.scores(QUERIES).tolist() == make().fit(NORMAL).scores(QUERIES).tolist()


def test_they_may_be_a_folder_or_arrays(taught: ks.DeepSvdd, tmp_path: Path) -> None:
    for path in DEFECTS:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = [read_image(path) for path in DEFECTS]
    for given in (tmp_path, arrays):
        found = make().fit(NORMAL, defects=given)
        assert found.scores(QUERIES).tolist() == taught.scores(QUERIES).tolist()


def test_cells_that_are_farthest_from_normal_ones_are_taken_for_defective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[Any] = []
    original = ks.DeepSvdd._network

    def spied(self: ks.DeepSvdd, shapes: Any) -> Any:
        network = original(self, shapes)
        kept.append(network.defects)
        return network

    monkeypatch.setattr(ks.DeepSvdd, "_network", spied)
    detector = make(validation_fraction=0.3).fit(NORMAL, defects=DEFECTS)
    assert kept[0].shape == (3, 152)
    assert detector.network_.defects is None or len(kept) == 1
    from knnspect.detectors.trained import split

    ids, _ = split(sorted(NORMAL), 0.3, seed=0)
    rows = detector.backbone.extract([NORMAL[id_] for id_ in ids]).pyramid.concatenated()
    normal = rows.reshape(-1, 152).astype(np.float64)
    images = detector.backbone.extract(DEFECTS).pyramid.concatenated()
    for found, image in zip(kept[0], images.reshape(3, -1, 152).astype(np.float64), strict=True):
        sq_distances = [np.square(normal - cell).sum(axis=1).min() for cell in image]
        np.testing.assert_array_equal(found, image[int(np.argmax(sq_distances))].astype("f4"))


def test_one_that_is_a_normal_image_is_refused_by_name(tmp_path: Path) -> None:
    copy = tmp_path / "scratch.png"
    copy.write_bytes(SPLIT.train[4].read_bytes())
    detector = make()
    message = f"defects: scratch.png is the normal image {SPLIT.train[4].name}, too"
    with pytest.raises(ParameterError, match=message) as error:
        detector.fit(NORMAL, defects=tmp_path)
    assert error.value.parameter == "defects"
    assert detector.defects is None
    assert not hasattr(detector, "network_")


def test_without_images_of_both_kinds_nothing_is_learnt(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"defects: .*gone"):
        make().fit(NORMAL, defects=tmp_path / "gone")
    with pytest.raises(ImageError, match=r"defects: .*got none"):
        make().fit(NORMAL, defects=tmp_path)
    with pytest.raises(ImageError, match="at least one image"):
        make().fit([], defects=DEFECTS)
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(ImageError, match=r"defects: .*bad\.png"):
        make().fit(NORMAL, defects=tmp_path)


def test_a_soft_boundary_has_no_place_for_them() -> None:
    with pytest.raises(ParameterError, match='objective: expected "one_class" with defects'):
        make(objective="soft_boundary").fit(NORMAL, defects=DEFECTS)


def test_other_methods_take_none() -> None:
    with pytest.raises(TypeError, match="defects"):
        ks.SimpleNet().fit(NORMAL, defects=DEFECTS)  # type: ignore[call-arg]


def test_a_training_does_not_go_on_with_other_defects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taught: ks.DeepSvdd
) -> None:
    def interrupted(_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop.Training, "_finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make().fit(NORMAL, defects=DEFECTS, checkpoint=tmp_path / "half")
    with pytest.raises(ParameterError, match=f"missing: defect .*{DEFECTS[2].name}"):
        make().fit(NORMAL, defects=DEFECTS[:2], checkpoint=tmp_path / "half")
    found = make().fit(NORMAL, defects=DEFECTS, checkpoint=tmp_path / "half")
    assert found.scores(QUERIES).tolist() == taught.scores(QUERIES).tolist()
