"""Detectors that learn normal images in variants: turned, mirrored, brighter and darker."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from forging import parts_of, signed, with_changes
from numpy.typing import NDArray

import knnspect as ks
from knnspect.cli.options import build_detector
from knnspect.data import ImageItem, ImageSource, elpv_split, read_image
from knnspect.data.decoded import contiguous
from knnspect.errors import ImageError, ImageWarning, ParameterError, StoreError
from knnspect.model_files.inspect import contents
from knnspect.views import Variants

Images: TypeAlias = dict[str, Any]
Make: TypeAlias = Callable[..., ks.Spade | ks.PatchCore]

#: Factors that change no value of 8 bits: such variants are exact copies.
COPIES = Variants(brightness=(1.001, 1.0005))
QUARTERS = Variants(rotations=4, mirror=True)


@pytest.fixture(scope="module")
def backbone() -> ks.Backbone:
    return ks.Backbone(image_size=64, device="cpu")


@pytest.fixture(scope="module")
def split() -> Any:
    return elpv_split(n_train=4, n_functional=1, n_defective=1)


@pytest.fixture(scope="module")
def normal(split: Any) -> Images:
    """Solar cells, cut to squares of 256 pixels."""
    return {path.name: contiguous(read_image(path))[:256, :256] for path in split.train}


@pytest.fixture(scope="module")
def queries(split: Any) -> Images:
    return {path.name: path for path in (*split.functional, *split.defective)}


def spade(backbone: ks.Backbone, **given: Any) -> ks.Spade:
    return ks.Spade(backbone, **{"image_neighbors": 3, **given})


def patchcore(backbone: ks.Backbone, **given: Any) -> ks.PatchCore:
    return ks.PatchCore(backbone, **{"coreset": None, "score": "map", **given})


@pytest.fixture(scope="module", params=[spade, patchcore], ids=lambda made: made.__name__)
def make(request: pytest.FixtureRequest) -> Make:
    made: Make = request.param
    return made


@pytest.fixture(scope="module")
def fitted(make: Make, backbone: ks.Backbone, normal: Images) -> ks.Spade | ks.PatchCore:
    return make(backbone, variants=QUARTERS).fit(normal)


def assert_same_maps(one: Any, other: Any, images: Images) -> None:
    for a, b in zip(one.predict(images), other.predict(images), strict=True):
        assert (a.id, a.score, a.images) == (b.id, b.score, b.images)
        np.testing.assert_array_equal(a.map, b.map)


def test_variants_that_are_copies_change_nothing(
    make: Make, backbone: ks.Backbone, normal: Images, queries: Images
) -> None:
    """Not the K nearest images, nor what normal images are to each other: no copy of their own."""
    plain = make(backbone).fit(normal)
    copied = make(backbone, variants=COPIES).fit(normal)
    assert copied.searched_.n_images == 3 * len(normal)
    assert copied.n_images_ == plain.n_images_ == len(normal)
    assert copied.normal_map_max_ == plain.normal_map_max_ > 0
    assert copied.border_ == plain.border_
    assert_same_maps(copied, plain, queries)


def test_one_variant_is_the_image_as_it_is(
    make: Make, backbone: ks.Backbone, normal: Images, queries: Images
) -> None:
    plain, same = make(backbone).fit(normal), make(backbone, variants=Variants()).fit(normal)
    assert same.searched_.image_ids == plain.searched_.image_ids
    assert_same_maps(same, plain, queries)


def test_a_turned_image_is_found_and_its_evidence_lies_in_the_image_as_it_came(
    fitted: ks.Spade | ks.PatchCore, normal: Images
) -> None:
    name = list(normal)[2]
    image = normal[name]
    for query, variant in (
        (np.rot90(image), "rotated 90"),
        (np.rot90(image, 3), "rotated 270"),
        (image[:, ::-1], "mirrored"),
        (np.rot90(image[:, ::-1], 2), "mirrored, rotated 180"),
        (image, ""),
    ):
        (prediction,) = fitted.predict([query])
        assert prediction.map.max() == 0
        evidence = prediction.evidence(50, 200)
        assert evidence is not None
        assert (evidence.image, evidence.variant) == (name, variant)
        # The same pixels, looked up in a picture of positions.
        rows, columns = np.indices((256, 256))
        positions = np.stack([rows, columns], axis=-1)
        mirrored = positions[:, ::-1] if "mirrored" in variant else positions
        quarters = int(variant.split()[-1]) // 90 if "rotated" in variant else 0
        box, there = evidence.box, evidence.normal_box
        seen = np.rot90(mirrored, quarters)[box.top : box.bottom, box.left : box.right]
        assert there is not None
        assert tuple(seen.min((0, 1))) == (there.top, there.left)
        assert tuple(seen.max((0, 1)) + 1) == (there.bottom, there.right)
        if prediction.images:
            assert prediction.images[0] == (name, 0.0)
            assert {id_ for id_, _ in prediction.images} <= set(normal)


@pytest.mark.filterwarnings("ignore:.*have near-duplicates among the others")
def test_what_is_searched_are_all_variants(
    make: Make, backbone: ks.Backbone, normal: Images, queries: Images
) -> None:
    """The same as of a detector that learns each variant as an image of its own."""
    variants = Variants(rotations=3, brightness=(0.8,))
    normal = {name: image[:120, :120] for name, image in normal.items()}  # none is reduced
    k_of_all = [{"image_neighbors": n} if make is spade else {} for n in (4, 24)]
    detector = make(backbone, variants=variants, **k_of_all[0]).fit(normal)
    apart = {
        variants.stored_id(name, variant): variant.of(image)
        for name, image in normal.items()
        for variant in variants.each
    }
    expected = make(backbone, **k_of_all[1]).fit(apart)
    assert detector.searched_.image_ids == expected.searched_.image_ids
    for a, b in zip(detector.predict(queries), expected.predict(queries), strict=True):
        assert a.neighbors is not None
        assert b.neighbors is not None
        np.testing.assert_array_equal(a.neighbors.sq_distances, b.neighbors.sq_distances)
        np.testing.assert_array_equal(a.neighbors.images, b.neighbors.images)


def test_k_counts_images_and_the_nearest_variant_of_each_decides(
    backbone: ks.Backbone, normal: Images
) -> None:
    detector = spade(backbone, variants=QUARTERS, image_neighbors=2).fit(normal)
    turned = backbone.extract([np.rot90(normal[name]) for name in normal])
    for name, pooled in zip(normal, turned.pooled, strict=True):
        nearest = detector.nearest_images(pooled)
        assert len(nearest) == 2
        assert nearest[0][0] == name
        without = detector.nearest_images(pooled, without=name)
        assert without[0] == nearest[1]
    (prediction,) = detector.predict([np.rot90(normal[name])])
    assert prediction.neighbors is not None
    found = {QUARTERS.split(id_)[0] for id_ in prediction.neighbors.image_ids}
    assert found == {id_ for id_, _ in prediction.images}
    assert len(prediction.neighbors.image_ids) == 2 * len(QUARTERS)


def test_a_coreset_is_picked_from_the_rows_of_all_variants(
    backbone: ks.Backbone, normal: Images, tmp_path: Path
) -> None:
    detector = ks.PatchCore(backbone, coreset=0.05, variants=QUARTERS).fit(normal)
    coreset = detector.coreset_
    assert coreset is not None
    assert coreset.n_rows == round(0.05 * 16 * 16 * len(normal) * len(QUARTERS))
    named = {QUARTERS.split(coreset.image_ids[index]) for index in coreset.image_index}
    assert len({variant for _, variant in named}) == len(QUARTERS)
    assert detector.n_images_ == len(normal)
    assert detector.normal_map_max_ > 0


def test_models_keep_them(
    fitted: ks.Spade | ks.PatchCore, normal: Images, queries: Images, tmp_path: Path
) -> None:
    detector = fitted
    detector.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks")
    assert isinstance(loaded, type(detector))
    assert loaded.variants == loaded.variants_ == QUARTERS
    assert loaded.n_images_ == len(normal)
    again = pickle.loads(pickle.dumps(detector))
    images = {**queries, "turned": np.rot90(next(iter(normal.values())))}
    for other in (loaded, again):
        assert_same_maps(other, detector, images)
        one, two = other.predict(images)[-1], detector.predict(images)[-1]
        assert one.evidence(9, 9) == two.evidence(9, 9)
    said = dict(contents(tmp_path / "model.ks", verify=False))
    assert said["images"] == "4, each in 8 variants"
    assert said["variants"] == "rotations=4,mirror"


def test_what_was_learnt_is_kept_where_the_parameter_was_changed_later(
    make: Make, backbone: ks.Backbone, normal: Images, queries: Images, tmp_path: Path
) -> None:
    for learnt, later in ((QUARTERS, None), (None, QUARTERS)):
        detector = make(backbone, variants=learnt).fit(normal)
        before = detector.predict(queries)
        detector.set_params(variants=later).save(tmp_path / "model.ks")
        loaded = ks.load(tmp_path / "model.ks")
        assert isinstance(loaded, ks.Spade | ks.PatchCore)
        assert loaded.variants == loaded.variants_ == detector.variants_ == learnt
        for a, b in zip(loaded.predict(queries), before, strict=True):
            assert (a.score, a.evidence(3, 5)) == (b.score, b.evidence(3, 5))


def test_models_of_earlier_versions_have_none(
    make: Make, backbone: ks.Backbone, normal: Images, queries: Images, tmp_path: Path
) -> None:
    detector = make(backbone).fit(normal)
    detector.save(tmp_path / "model.ks")
    header, tensors = parts_of(tmp_path / "model.ks")
    config = header["__metadata__"]["config"]
    assert config.count(', "variants": null') == 1
    header["__metadata__"]["config"] = config.replace(', "variants": null', "")
    (tmp_path / "earlier.ks").write_bytes(signed(header, tensors))
    loaded = ks.load(tmp_path / "earlier.ks")
    assert isinstance(loaded, type(detector))
    assert loaded.variants is None
    assert_same_maps(loaded, detector, queries)


def test_forged_variants_are_damage(fitted: ks.Spade | ks.PatchCore, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model.ks")
    forged = ("rotations=0", "rotations=two", 8, [1], "", {"rotations": 2}, True)
    for value in forged:
        file = tmp_path / "forged.ks"
        file.write_bytes(with_changes(tmp_path / "model.ks", "config", {"variants": value}))
        with pytest.raises(StoreError, match="is damaged"):
            ks.load(file)
        with pytest.raises(StoreError, match="is damaged"):
            list(contents(file, verify=False))


def test_one_image_has_nothing_to_be_compared_with_whatever_its_variants(
    make: Make, backbone: ks.Backbone, normal: Images
) -> None:
    name, image = next(iter(normal.items()))
    detector = make(backbone, image_neighbors=1) if make is spade else make(backbone)
    detector.set_params(variants=QUARTERS).fit({name: image})
    assert np.isnan(detector.normal_map_max_)
    assert detector.n_images_ == 1
    assert detector.predict([np.rot90(image)])[0].map.max() == 0


@pytest.mark.parametrize("n_images", [1, 2, 4])
def test_few_images_are_learnt_without_warnings(
    backbone: ks.Backbone, normal: Images, n_images: int
) -> None:
    few = dict(list(normal.items())[:n_images])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for detector in (ks.Spade(backbone), ks.PatchCore(backbone)):
            detector.fit(few)
            assert detector.n_images_ == n_images
            assert np.isnan(detector.normal_map_max_) == (n_images == 1)


def test_an_id_that_looks_like_a_variant_is_refused_or_left_out(
    make: Make, backbone: ks.Backbone, normal: Images
) -> None:
    images = {**normal, "a [rotated 180]": next(iter(normal.values()))[::2, ::-1]}
    with pytest.raises(ImageError, match=r"image a \[rotated 180\]: its id is what") as raised:
        make(backbone, variants=QUARTERS).fit(images)
    assert raised.value.image == "a [rotated 180]"
    with pytest.warns(ImageWarning, match="left out image a"):
        detector = make(backbone, variants=QUARTERS).fit(images, skip_bad=True)
    assert detector.n_images_ == len(normal)
    make(backbone).fit(images)


def test_an_unusable_image_is_left_out_once(backbone: ks.Backbone, normal: Images) -> None:
    images = {"bad": np.full((9, 9, 3), np.nan, "f4"), **normal}
    with pytest.warns(ImageWarning, match="left out image bad") as warned:
        spade(backbone, variants=QUARTERS).fit(images, skip_bad=True)
    assert len(warned) == 1


class Counted:
    """Images that count how often they are read, and may stop after some."""

    def __init__(self, images: Images, stop_after: int | None = None) -> None:
        self.images, self.stop_after, self.n_read = images, stop_after, 0

    def source(self) -> ImageSource:
        return ImageSource(list(self.items()), len(self.images))

    def items(self) -> Iterator[ImageItem]:
        for name in self.images:
            yield ImageItem(name, lambda name=name: self._read(name))  # type: ignore[misc]

    def _read(self, name: str) -> NDArray[np.uint8]:
        if self.stop_after is not None and self.n_read >= self.stop_after:
            raise KeyboardInterrupt
        self.n_read += 1
        image: NDArray[np.uint8] = self.images[name]
        return image


class TestInAFolder:
    def test_they_are_the_same_and_a_model_there(
        self,
        make: Make,
        fitted: ks.Spade | ks.PatchCore,
        normal: Images,
        queries: Images,
        tmp_path: Path,
    ) -> None:
        folder = tmp_path / "model"
        expected = fitted
        in_folder = make(fitted.backbone, variants=QUARTERS)
        in_folder.fit(normal, folder=folder, batch_size=5)
        assert in_folder.normal_map_max_ == expected.normal_map_max_
        assert_same_maps(in_folder, expected, queries)
        in_folder.save(folder)
        loaded = ks.load(folder)
        assert_same_maps(loaded, expected, queries)
        assert dict(contents(folder, verify=False))["images"] == "4, each in 8 variants"

    def test_an_interrupted_fit_goes_on_and_images_come_and_go(
        self, backbone: ks.Backbone, normal: Images, queries: Images, tmp_path: Path
    ) -> None:
        """Where it stopped, some variants of an image are there: all of it is learnt again."""
        folder = tmp_path / "cells"

        def fit(images: Counted) -> ks.Spade:
            detector = spade(backbone, variants=QUARTERS)
            # Batches of three end within the eight variants of an image.
            return detector.fit(images.source(), folder=folder, batch_size=3, n_workers=0)

        with pytest.raises(KeyboardInterrupt):
            fit(Counted(normal, stop_after=3))
        ids = ks.Gallery.open(folder / "gallery").ids
        assert len(ids) % len(QUARTERS) != 0, "an image is there in part"
        again = Counted(normal)
        fitted = fit(again)
        # Those that were complete are read to compare them, the others to learn them.
        assert again.n_read == len(normal) + 1, "and one is, to see how large it is"
        assert_same_maps(fitted, spade(backbone, variants=QUARTERS).fit(normal), queries)
        del fitted

        changed = {**dict(list(normal.items())[1:]), "new": next(iter(normal.values()))}
        name = next(iter(changed))
        changed[name] = changed[name][::-1]
        with pytest.warns(UserWarning, match=f"1 image has changed .* {name}"):
            fitted = fit(Counted(changed))
        assert_same_maps(fitted, spade(backbone, variants=QUARTERS).fit(changed), queries)
        assert set(fitted.searched_.image_ids) == {
            id_ for image in changed for id_ in QUARTERS.stored_ids(image)
        }

    def test_images_that_are_new_in_one_variant_alone_are_learnt_again(
        self, backbone: ks.Backbone, normal: Images, queries: Images, tmp_path: Path
    ) -> None:
        """As after a crash while a changed image was learnt again."""
        folder = tmp_path / "cells"
        few = dict(list(normal.items())[:3])
        spade(backbone, variants=QUARTERS).fit(few, folder=folder)
        name = next(iter(few))
        other = tmp_path / "other"
        changed = {**few, name: few[name][::-1]}
        spade(backbone, variants=QUARTERS).fit(changed, folder=other)
        for place in ("gallery", "images"):
            with ks.Gallery.open(folder / place, "r+") as gallery:
                new = ks.Gallery.open(other / place).pyramid([f"{name} [mirrored]"])
                gallery.replace(new, ids=[f"{name} [mirrored]"])
        again = spade(backbone, variants=QUARTERS).fit(changed, folder=folder)
        assert_same_maps(again, spade(backbone, variants=QUARTERS).fit(changed), queries)

    def test_other_variants_are_refused(
        self, backbone: ks.Backbone, normal: Images, tmp_path: Path
    ) -> None:
        folder = tmp_path / "cells"
        few = dict(list(normal.items())[:3])
        spade(backbone, variants=QUARTERS).fit(few, folder=folder)
        for other, words in (
            (None, r"'rotations=4,mirror', not None"),
            (Variants(4), r"'rotations=4,mirror', not 'rotations=4'"),
        ):
            with pytest.raises(ParameterError, match=rf"made with another variants \({words}\)"):
                spade(backbone, variants=other).fit(few, folder=folder)

    def test_what_they_take_is_said_before(
        self,
        backbone: ks.Backbone,
        normal: Images,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = tmp_path / "cells"
        detector = spade(backbone, variants=QUARTERS)
        detector.fit(normal, folder=folder, max_memory="4GB", progress=True)
        first, *others = capsys.readouterr().err.splitlines()
        assert first.startswith(f"{folder}: 4 images to learn in 8 variants each, ")
        disk = float(first.split(", ")[1].split(" MB")[0]) * 1e6
        kept = sum(path.stat().st_size for path in folder.rglob("*"))
        assert 0.9 < disk / kept < 1.1
        assert any("4" in line for line in others)
        assert not any("32" in line for line in others), "images are counted"
        with pytest.raises(ParameterError, match=r"max_memory: .*one image in 8 variants needs"):
            detector.fit(normal, folder=tmp_path / "a", max_memory="100MB")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 1000}))
        with pytest.raises(StoreError, match=r"4 images in 8 variants each need .* of disk"):
            detector.fit(normal, folder=tmp_path / "b")


def test_the_command_line_has_them() -> None:
    given = {"variants": "rotations=8,brightness=0.8:1.2"}
    for kind in (ks.Spade, ks.PatchCore):
        detector = build_detector(kind, given)
        assert detector.variants == Variants(8, (0.8, 1.2))  # type: ignore[attr-defined]
        with pytest.raises(ParameterError, match=r"^--variants: rotations: expected at least 1"):
            build_detector(kind, {"variants": "rotations=0"})
        with pytest.raises(ParameterError, match=r"^--variants: expected .*rotations=8.*, got '8'"):
            build_detector(kind, {"variants": "8"})
