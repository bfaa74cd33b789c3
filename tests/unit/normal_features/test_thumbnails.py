"""Small copies of normal images: which, how small, and that models keep them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect.data import ImageReader, open_images
from knnspect.data.decoded import ImageArray
from knnspect.errors import ParameterError, StoreError
from knnspect.normal_features.thumbnails import ThumbnailMaker, Thumbnails, thumbnail_of


def opened(contents: bytes | None) -> Image.Image:
    assert contents is not None
    return Image.open(io.BytesIO(contents))


def noise(seed: int, height: int = 40, width: int = 30) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


def detector(**params: Any) -> ks.PatchCore:
    backbone = ks.Backbone("efficientnet_lite0", levels=(1,), image_size=32, device="cpu")
    return ks.PatchCore(backbone, coreset=0.5, **params)


def fill(folder: Path, images: dict[str, NDArray[np.uint8]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / name)
    return folder


class TestThumbnailOf:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            ((256, 100), (256, 100)),
            ((300, 150), (256, 128)),
            ((512, 512), (256, 256)),
            ((513, 1025), (103, 205)),
            ((3000, 2000), (250, 167)),
            ((4000, 1), (250, 1)),
            ((1, 4000), (1, 250)),
            ((1, 1), (1, 1)),
        ],
    )
    def test_no_side_has_more_than_256_pixels(
        self, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        made = opened(thumbnail_of(np.zeros((*size, 3), np.uint8)))
        assert (made.height, made.width) == expected

    @pytest.mark.parametrize("side", [200, 300, 900, 2500])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_places_and_colours_stay(self, side: int, dtype: type) -> None:
        image = np.zeros((side, side, 3), np.uint8)
        image[: side // 2, side // 2 :] = 200, 100, 50
        given: ImageArray = (
            image if dtype is np.uint8 else image.astype(np.float32) / np.float32(255)
        )
        made = np.asarray(opened(thumbnail_of(given)), int)
        quarter = len(made) // 4
        assert np.abs(made[quarter, 3 * quarter] - (200, 100, 50)).max() < 6
        assert made[3 * quarter, quarter].max() < 6

    def test_grey_images_have_one_channel(self, tmp_path: Path) -> None:
        Image.fromarray(noise(0)[..., 0]).save(tmp_path / "grey.png")
        assert opened(thumbnail_of(ImageReader().from_file(tmp_path / "grey.png"))).mode == "L"


class TestThumbnailMaker:
    IMAGES = {f"{n}.png": noise(n) for n in range(30)}  # noqa: RUF012

    def made(self, names: list[str], most: int) -> Thumbnails:
        maker = ThumbnailMaker(most)
        for item in maker.watching(open_images({name: self.IMAGES[name] for name in names})):
            item.read(ImageReader())
        return maker.of(names)

    def test_those_that_are_kept_do_not_depend_on_the_order(self) -> None:
        names = list(self.IMAGES)
        kept = set(self.made(names, 7))
        assert len(kept) == 7
        for seed in range(5):
            random.Random(seed).shuffle(names)
            assert set(self.made(names, 7)) == kept

    def test_of_more_images_they_are_those_of_fewer_but_for_some(self) -> None:
        names = list(self.IMAGES)
        some, all_ = set(self.made(names[:20], 7)), set(self.made(names, 7))
        assert all_ & set(names[:20]) <= some

    def test_images_that_were_not_learnt_have_none(self) -> None:
        maker = ThumbnailMaker(100)
        for item in maker.watching(open_images(self.IMAGES)):
            item.read(ImageReader())
        assert list(maker.of(["3.png", "unknown"])) == ["3.png"]

    def test_a_link_is_no_folder_for_them(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "thumbnails").symlink_to(tmp_path / "other")
        with pytest.raises(StoreError, match="symbolic link"):
            ThumbnailMaker(3, tmp_path / "thumbnails")


class TestArrays:
    def test_what_is_kept_in_a_file_comes_back(self) -> None:
        kept = Thumbnails({"a.png": b"abc", "\udcff ß/ü.png": b"", "c": b"0123456789"})
        arrays = kept.to_arrays()
        assert {array.dtype.name for array in arrays.values()} == {"int64"}
        assert dict(Thumbnails.from_arrays(arrays)) == dict(kept)
        assert dict(Thumbnails.from_arrays({})) == {}

    @pytest.mark.parametrize("name", ["ids.ends", "jpeg.ends"])
    @pytest.mark.parametrize(
        "ends", [[], [3], [1, 99], [2, 1], [-1, 4], [1, 2, 4], [[1, 4]], [1.0, 4.0]]
    )
    def test_ends_that_do_not_fit_are_refused(self, name: str, ends: list[Any]) -> None:
        arrays = Thumbnails({"a": b"1", "b": b"2345678901"}).to_arrays()
        with pytest.raises(ValueError, match=r"expected|argument"):
            Thumbnails.from_arrays({**arrays, name: np.array(ends)})


class TestModels:
    def test_a_model_keeps_thumbnails_of_its_normal_images(self, tmp_path: Path) -> None:
        images = {f"{n}.png": noise(n) for n in range(4)}
        detector().fit(images).save(tmp_path / "model.ks")
        loaded = ks.load(tmp_path / "model.ks")
        assert isinstance(loaded, ks.PatchCore)
        for name, image in images.items():
            kept = opened(loaded.thumbnail(name))
            assert (kept.height, kept.width) == image.shape[:2]
        assert loaded.thumbnail("unknown") is None

    def test_thumbnails_are_left_out_where_they_must_not_be_kept(self, tmp_path: Path) -> None:
        images = [noise(n) for n in range(4)]
        detector(thumbnails=0).fit(images).save(tmp_path / "none.ks")
        fitted = detector().fit(images)
        fitted.set_params(thumbnails=0).save(tmp_path / "later.ks")
        assert (tmp_path / "none.ks").read_bytes() == (tmp_path / "later.ks").read_bytes()
        assert b"thumbnails.jpeg" not in (tmp_path / "none.ks").read_bytes()
        loaded = ks.load(tmp_path / "none.ks")
        assert isinstance(loaded, ks.PatchCore)
        assert loaded.thumbnail("000000") is None
        prediction = next(iter(fitted.iter_predict(images)))
        assert prediction.calibration is not None, "scores do not depend on thumbnails"

    def test_a_number_that_is_none_is_refused(self) -> None:
        with pytest.raises(ParameterError, match="thumbnails"):
            detector(thumbnails=-1).fit([noise(0), noise(1)])

    def test_a_stream_has_thumbnails_too(self) -> None:
        def stream() -> Iterator[NDArray[np.uint8]]:
            yield from (noise(n)[np.newaxis] for n in range(3))

        fitted = detector().fit(stream())
        assert [opened(fitted.thumbnail(f"00000{n}")).size for n in range(3)] == [(30, 40)] * 3

    def test_variants_of_an_image_share_its_thumbnail(self) -> None:
        variants = ks.Variants(rotations=4)
        fitted = detector(variants=variants).fit({"a.png": noise(0), "b.png": noise(1)})
        assert opened(fitted.thumbnail("a.png")).size == (30, 40)


class TestFolders:
    @pytest.fixture
    def images(self, tmp_path: Path) -> Path:
        return fill(tmp_path / "images", {f"{n}.png": noise(n) for n in range(4)})

    def fit(self, images: Path, folder: Path, **params: Any) -> ks.PatchCore:
        detector(**params).fit(images, folder=folder).save(folder)
        loaded = ks.load(folder)
        assert isinstance(loaded, ks.PatchCore)
        return loaded

    def test_a_fit_that_goes_on_keeps_those_of_images_that_it_does_not_read_again(
        self, images: Path, tmp_path: Path
    ) -> None:
        before = self.fit(images, tmp_path / "model")
        (images / "0.png").unlink()
        fill(images, {"new.png": noise(9, 50, 60)})
        after = self.fit(images, tmp_path / "model")
        assert after.thumbnail("0.png") is None
        assert opened(after.thumbnail("new.png")).size == (60, 50)
        for name in ("1.png", "2.png", "3.png"):
            assert before.thumbnail(name) == after.thumbnail(name) is not None
        assert len(list((tmp_path / "model/thumbnails").iterdir())) == 4

    def test_they_are_no_images_of_a_folder_in_which_the_model_lies(self, images: Path) -> None:
        self.fit(images, images / "model")
        assert [item.id for item in open_images(images)] == [f"{n}.png" for n in range(4)]

    def test_an_image_that_changed_has_a_new_one(self, images: Path, tmp_path: Path) -> None:
        self.fit(images, tmp_path / "model")
        fill(images, {"1.png": noise(7, 20, 25)})
        with pytest.warns(UserWarning, match="1 image has changed"):
            after = self.fit(images, tmp_path / "model")
        assert opened(after.thumbnail("1.png")).size == (25, 20)

    def test_one_that_was_cut_short_is_not_shown(self, images: Path, tmp_path: Path) -> None:
        self.fit(images, tmp_path / "model")
        for file in (tmp_path / "model/thumbnails").iterdir():
            file.write_bytes(file.read_bytes()[:-1])
        after = self.fit(images, tmp_path / "model")
        assert after.thumbnail("1.png") is None

    def test_those_that_must_not_be_kept_any_longer_are_deleted(
        self, images: Path, tmp_path: Path
    ) -> None:
        self.fit(images, tmp_path / "model")
        assert self.fit(images, tmp_path / "model", thumbnails=0).thumbnail("1.png") is None
        assert list((tmp_path / "model/thumbnails").iterdir()) == []
