"""Learning into a folder, under a limit: the same as in memory, and it goes on where it stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import knnspect as ks
from knnspect import _core
from knnspect.data import elpv_split, read_image
from knnspect.data.sources import ImageItem, ImageSource
from knnspect.errors import ImageError, ParameterError, StoreError
from knnspect.memory import anonymous_bytes

SPLIT = elpv_split(n_train=24, n_functional=2, n_defective=2)


def spade(image_neighbors: int = 5, **parameters: Any) -> ks.Spade:
    return ks.Spade(ks.Backbone(image_size=64), image_neighbors=image_neighbors, **parameters)


class Counted:
    """Solar cells that count how often they are read, and may stop after some."""

    def __init__(self, paths: list[Path], stop_after: int | None = None) -> None:
        self.paths, self.stop_after, self.n_read = paths, stop_after, 0

    def source(self) -> ImageSource:
        items = [ImageItem(path.name, partial(self._read, path), path) for path in self.paths]
        return ImageSource(items, len(items))

    def _read(self, path: Path) -> NDArray[Any]:
        if self.stop_after is not None and self.n_read >= self.stop_after:
            raise KeyboardInterrupt
        self.n_read += 1
        return read_image(path)


def assert_same_predictions(one: ks.Detector, other: ks.Detector) -> None:
    assert one.normal_map_max_ == other.normal_map_max_
    images = [*SPLIT.functional, *SPLIT.defective]
    for a, b in zip(one.predict(images), other.predict(images), strict=True):
        assert (a.id, a.score, a.images) == (b.id, b.score, b.images)
        np.testing.assert_array_equal(a.map, b.map)


@pytest.fixture(scope="module")
def in_memory() -> ks.Spade:
    return spade().fit(Counted(SPLIT.train).source())


def test_a_folder_gives_the_same_detector(in_memory: ks.Spade, tmp_path: Path) -> None:
    folder = tmp_path / "cells.ks"
    images = Counted(SPLIT.train)
    fitted = spade().fit(images.source(), folder=folder, batch_size=5)
    assert fitted.gallery_.path == folder / "gallery"
    assert fitted.gallery_.mode == "r"
    assert_same_predictions(fitted, in_memory)
    with pytest.raises(StoreError, match="not finished: fit it again, with the same folder"):
        ks.load(folder)
    fitted.save(folder)
    assert_same_predictions(ks.load(folder), in_memory)
    fitted.save(tmp_path / "cells.file")
    in_memory.save(tmp_path / "memory.file")
    assert (tmp_path / "cells.file").read_bytes() == (tmp_path / "memory.file").read_bytes()


@pytest.mark.parametrize("coreset", [0.02, None])
def test_patchcore_learns_into_a_folder(tmp_path: Path, coreset: float | None) -> None:
    def patchcore() -> ks.PatchCore:
        return ks.PatchCore(ks.Backbone(image_size=64, patch_size=3), coreset=coreset)

    folder = tmp_path / "cells.ks"
    expected = patchcore().fit(SPLIT.train)
    fitted = patchcore().fit(SPLIT.train, folder=folder)
    assert_same_predictions(fitted, expected)
    fitted.save(folder)
    assert_same_predictions(ks.load(folder), expected)
    expected.save(folder)  # with features of its own
    shutil.rmtree(folder / "gallery")
    assert_same_predictions(ks.load(folder), expected)


def test_a_limit_alone_uses_a_temporary_folder(in_memory: ks.Spade, tmp_path: Path) -> None:
    fitted = spade().fit(Counted(SPLIT.train).source(), max_memory="4GB")
    assert_same_predictions(fitted, in_memory)
    folder = fitted.gallery_.path
    assert folder is not None
    assert folder.exists()
    fitted.save(tmp_path / "saved.ks")
    del fitted
    assert not folder.parent.exists(), "it goes with the detector"
    assert_same_predictions(ks.load(tmp_path / "saved.ks"), in_memory)


@pytest.mark.parametrize("n_read", [1, 9, 23])
def test_an_interrupted_build_goes_on(in_memory: ks.Spade, tmp_path: Path, n_read: int) -> None:
    folder = tmp_path / "cells.ks"
    first = Counted(SPLIT.train, stop_after=n_read)
    with pytest.raises(KeyboardInterrupt):
        spade().fit(first.source(), folder=folder, batch_size=2, n_workers=0)
    n_kept = len(ks.Gallery.open(folder / "gallery")) if n_read > 2 else 0
    assert n_kept <= n_read
    assert n_kept >= n_read - 2
    again = Counted(SPLIT.train)
    fitted = spade().fit(again.source(), folder=folder, batch_size=2, n_workers=0)
    assert again.n_read == 24 - n_kept + 1, "one is read to see how large images are"
    assert_same_predictions(fitted, in_memory)
    done = Counted(SPLIT.train)
    assert_same_predictions(spade().fit(done.source(), folder=folder), in_memory)
    assert done.n_read == 0


FIT = """
import sys
import knnspect as ks
spade = ks.Spade(ks.Backbone(image_size=64), image_neighbors=5)
print("ready", flush=True)
spade.fit(sys.argv[2], folder=sys.argv[1], batch_size=2)
"""


def test_a_killed_build_goes_on(in_memory: ks.Spade, tmp_path: Path) -> None:
    folder, images = tmp_path / "cells.ks", tmp_path / "images"
    images.mkdir()
    for path in SPLIT.train:
        shutil.copy(path, images)
    chance = random.Random(0)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", FIT, str(folder), str(images)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0.1, 1.2))
            process.kill()
    assert_same_predictions(spade().fit(images, folder=folder), in_memory)


def test_another_fit_learns_what_is_new_and_forgets_what_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "cells.ks"
    spade().fit(Counted(SPLIT.train[:20]).source(), folder=folder).save(folder)
    others = Counted(SPLIT.train[4:])
    fitted = spade().fit(others.source(), folder=folder)
    assert others.n_read == 4 + 1
    expected = spade().fit(Counted(SPLIT.train[4:]).source())
    assert fitted.gallery_.ids == expected.gallery_.ids
    assert_same_predictions(fitted, expected)


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """A folder of six solar cells, `0.png` to `5.png`."""
    folder = tmp_path / "cells"
    folder.mkdir()
    for number, path in enumerate(SPLIT.train[:6]):
        shutil.copy(path, folder / f"{number}.png")
    return folder


def exchange(cells: Path, *numbers: int) -> None:
    """Put other pictures in the place of some, with the same names, sizes and times."""
    for number in numbers:
        file = cells / f"{number}.png"
        before = file.stat()
        shutil.copy(SPLIT.train[number + 10], file)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


class TestImagesThatChangedAfterTheyWereLearnt:
    def test_are_learnt_again_and_named(self, cells: Path, tmp_path: Path) -> None:
        folder = tmp_path / "model"
        spade().fit(cells, folder=folder)
        exchange(cells, 1, 4)
        message = r"model: 2 images have changed since they were learnt: 1.png, 4.png; learning"
        with pytest.warns(UserWarning, match=message) as warned:
            fitted = spade().fit(cells, folder=folder)
        assert len(warned) == 1
        assert_same_predictions(fitted, spade().fit(cells))
        assert_same_predictions(spade().fit(cells, folder=folder), fitted)  # without a warning

    def test_are_counted_before_the_work(
        self, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        spade().fit(cells, folder=tmp_path / "model")
        exchange(cells, 3)
        shutil.copy(SPLIT.train[8], cells / "new.png")
        with pytest.warns(UserWarning, match=r"1 image has changed .*: 3.png; learning it again"):
            spade().fit(cells, folder=tmp_path / "model", progress=True)
        lines = capsys.readouterr().err.splitlines()
        plan = next(line for line in lines if line.startswith(f"{tmp_path}/model: "))
        assert "6 images are there (1 of them changed), 2 images to learn, " in plan

    def test_are_known_also_after_kills(self, cells: Path, tmp_path: Path) -> None:
        """Whatever was done when the process died, what changed is learnt again."""
        folder = tmp_path / "model"
        spade().fit(cells, folder=folder)
        exchange(cells, 0, 1, 2)
        for n_changes in range(4):  # as many as an image takes
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _stop_after(patch, n_changes)
                with pytest.raises(KeyboardInterrupt):
                    spade().fit(cells, folder=folder, batch_size=1, n_workers=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = spade().fit(cells, folder=folder)
        assert_same_predictions(fitted, spade().fit(cells))

    def test_are_noticed_in_arrays_and_in_loaders(self, tmp_path: Path) -> None:
        images = np.stack([read_image(path) for path in SPLIT.train[:6]])
        others = images.copy()
        others[2] = read_image(SPLIT.train[9])

        class Loader:
            def __init__(self, images: NDArray[Any]) -> None:
                self.images = images

            def __iter__(self) -> Iterator[NDArray[Any]]:
                yield from (self.images[:3], self.images[3:])

        expected = spade().fit(others)
        for name, kind in (("array", np.asarray), ("loader", Loader)):
            spade().fit(kind(images), folder=tmp_path / name)
            with pytest.warns(UserWarning, match=r": 000002; learning it again") as warned:
                fitted = spade().fit(kind(others), folder=tmp_path / name)
            assert len(warned) == 1
            assert_same_predictions(fitted, expected)

    def test_are_forgotten_where_they_are_bad_now(self, cells: Path, tmp_path: Path) -> None:
        spade().fit(cells, folder=tmp_path / "model")
        (cells / "2.png").write_bytes(b"no picture any more")
        with (
            pytest.warns(UserWarning, match="2.png; learning it again"),
            pytest.warns(ks.ImageWarning, match="left out image 2.png"),
        ):
            fitted = spade().fit(cells, folder=tmp_path / "model", skip_bad=True)
        assert fitted.gallery_.ids == [f"{number}.png" for number in (0, 1, 3, 4, 5)]

    def test_are_refused_where_the_model_was_not_saved_since(
        self, cells: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        spade().fit(cells, folder=folder).save(folder)
        before = ks.load(folder)
        exchange(cells, 5)
        with pytest.warns(UserWarning, match="changed"):
            fitted = spade().fit(cells, folder=folder)
        with pytest.raises(StoreError, match=r"model: its images were changed after its model was"):
            ks.load(folder)
        assert before.predict(SPLIT.functional)[0].score > 0, "who had it open keeps it"
        fitted.save(folder)
        assert_same_predictions(ks.load(folder), fitted)


def _stop_after(patch: pytest.MonkeyPatch, n_changes: int) -> None:
    """Stop between two changes of the galleries in a folder, as a kill would."""
    left = n_changes

    def stopping(change: Any) -> Any:
        def stop_or_change(self: ks.Gallery, *arguments: Any) -> Any:
            nonlocal left
            if self.path is None or not arguments[-1]:  # nothing to remove
                return change(self, *arguments)
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return change(self, *arguments)

        return stop_or_change

    patch.setattr(ks.Gallery, "add", stopping(ks.Gallery.add))
    patch.setattr(ks.Gallery, "remove", stopping(ks.Gallery.remove))


def test_a_folder_of_an_earlier_version_is_learnt_again(cells: Path, tmp_path: Path) -> None:
    """It does not say what its images were made of."""
    folder = tmp_path / "model"
    spade().fit(cells, folder=folder).save(folder)
    without_digests(folder)
    loaded = ks.load(folder)
    exchange(cells, 2)
    with pytest.warns(UserWarning, match=r"model: .* did not keep what its 6 images were made of"):
        fitted = spade().fit(cells, folder=folder)
    assert_same_predictions(fitted, spade().fit(cells))
    assert loaded.predict(SPLIT.functional)[0].score != fitted.predict(SPLIT.functional)[0].score
    assert_same_predictions(spade().fit(cells, folder=folder), fitted)


def without_digests(folder: Path) -> None:
    """Make a fitted folder what an earlier version would have left."""
    with ks.Gallery.open(folder / "images", "r+") as images:
        ids, levels = images.ids, images.pyramid().levels
        images.remove(ids)
        images.add(ks.FeaturePyramid(levels[:2]), ids)
    store = _core.Store(folder / "model", True)
    metadata = {"config": store.metadata["config"]}
    _core.save_tensors(
        folder / "model", store.kind, metadata, {name: store.tensor(name) for name in store.names}
    )


def test_a_stream_is_learnt_into_a_folder(tmp_path: Path) -> None:
    batches = [np.stack([read_image(p) for p in SPLIT.train[i : i + 4]]) for i in range(0, 12, 4)]

    class Loader:
        def __iter__(self) -> Iterator[NDArray[Any]]:
            return iter(batches)

    expected = spade().fit(Loader())
    for _ in range(2):
        fitted = spade().fit(Loader(), folder=tmp_path / "cells.ks", max_memory="4GB")
        assert_same_predictions(fitted, expected)


def test_other_settings_and_other_folders_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cells.ks"
    images = SPLIT.train[:4]
    spade(2).fit(images, folder=folder)
    for other, setting in (
        (spade(gallery_dtype="int8"), "dtype"),
        (spade(upsample="block"), "upsample"),
        (ks.Spade(ks.Backbone(image_size=64, levels=(1, 2))), "levels"),
        (ks.Spade(ks.Backbone(image_size=64, patch_size=3)), "patch_size"),
    ):
        with pytest.raises(ParameterError, match=f"made with another {setting}") as error:
            other.fit(images, folder=folder)
        assert str(error.value).startswith(f"{folder}: ")
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "weights": "0"}))
    with pytest.raises(ParameterError, match="made with another weights"):
        spade().fit(images, folder=folder)
    (folder / "settings.json").write_text("{")
    with pytest.raises(StoreError, match=r"settings.json: is damaged"):
        spade().fit(images, folder=folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(StoreError, match="expected an empty folder or one of features"):
        spade().fit(images, folder=tmp_path / "other")
    with pytest.raises(StoreError, match="cannot be written"):
        spade().fit(images, folder=tmp_path / "other" / "file")
    with pytest.raises(StoreError, match="cannot be written"):
        spade().fit(images, folder=tmp_path / "no" / "such")


def test_a_folder_that_is_being_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cells.ks"
    spade(2).fit(SPLIT.train[:4], folder=folder)
    with (
        ks.Gallery.open(folder / "gallery", "r+"),
        pytest.raises(StoreError, match="gallery: is open for writing by this process"),
    ):
        spade().fit(SPLIT.train[:5], folder=folder)


def test_bad_images_are_left_out_and_none_is_an_error(tmp_path: Path) -> None:
    images = {"bad": np.full((9, 9, 3), np.nan, "f4"), "good": read_image(SPLIT.train[0])}
    images["other"] = read_image(SPLIT.train[1])
    with pytest.warns(ks.ImageWarning, match="bad"):
        fitted = spade(2).fit(images, folder=tmp_path / "a", skip_bad=True)
    assert fitted.gallery_.ids == ["good", "other"]
    with pytest.warns(ks.ImageWarning), pytest.raises(ImageError, match="none"):
        spade().fit({"bad": images["bad"]}, folder=tmp_path / "b", skip_bad=True)
    with pytest.raises(ImageError, match="bad"):
        spade().fit(images, folder=tmp_path / "c", skip_bad=False)


def test_constant_features_are_noticed_also_when_nothing_is_new(tmp_path: Path) -> None:
    grey = {name: np.full((64, 64, 3), 128, np.uint8) for name in "ab"}
    levels = ks.Backbone(image_size=32, levels=(4,))  # of one cell, the same for all images
    for _ in range(2):
        with pytest.raises(ImageError, match="level 0 are the same at every cell"):
            ks.Spade(levels, image_neighbors=1).fit(grey, folder=tmp_path / "a")


def test_a_limit_that_one_image_exceeds_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"expected at least .*[MG]B, got 100 MB.*one image needs"
    ):
        spade().fit(SPLIT.train, max_memory="100MB", folder=tmp_path / "a")
    with pytest.raises(ParameterError, match="max_memory: expected bytes"):
        spade().fit(SPLIT.train, max_memory="much", folder=tmp_path / "b")


def test_a_disk_without_room_is_noticed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"24 images need .*MB of disk, 1 kB are free"):
        spade().fit(Counted(SPLIT.train).source(), folder=tmp_path / "a")


def test_what_it_will_take_is_said_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a"
    spade().fit(SPLIT.train, folder=folder, max_memory="4GB", progress=True)
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"{folder}: 24 images to learn, ")
    assert first.endswith("of 4 GB (batches of 16)")
    disk = float(first.split(", ")[1].split(" MB")[0]) * 1e6
    kept = sum(path.stat().st_size for path in folder.rglob("*"))
    assert 0.9 < disk / kept < 1.1
    spade().fit(SPLIT.train, folder=folder, progress=True)
    assert "24 images are there, nothing to learn" in capsys.readouterr().err


WATCHED = """
import sys
import knnspect as ks
from knnspect import _core
from knnspect.data import elpv_split
from knnspect.memory import PeakMemory, anonymous_bytes
backbone = ks.Backbone(image_size=224)
backbone.extract(elpv_split(n_train=2, n_functional=0, n_defective=0).train)
limit = anonymous_bytes() + 120_000_000
with PeakMemory() as memory:
    ks.Spade(backbone).fit(
        elpv_split(n_train=300, n_functional=0, n_defective=0).train,
        folder=sys.argv[1], max_memory=limit, batch_size=64,
    )
print(memory.peak, limit)
"""


def test_the_limit_is_kept(tmp_path: Path) -> None:
    """300 images of .5 MB each would not fit into 120 MB."""
    assert anonymous_bytes() is not None
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "a")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak, limit = map(int, done.stdout.split())
    assert peak <= limit
