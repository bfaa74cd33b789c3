"""A fit that goes on reads only files whose size or times are others, and notices what changed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, open_images
from knnspect.normal_features import file_stamps
from knnspect.normal_features.file_stamps import FILES, FileStamps

CELLS = elpv_split(n_train=8, n_functional=1, n_defective=0).train

#: Lists that take the paths of all files that are opened, while they are here.
_WATCHING: list[list[str]] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        for opened in _WATCHING:
            opened.append(os.fspath(arguments[0]))


sys.addaudithook(_note)


@contextmanager
def opened_images() -> Iterator[list[str]]:
    """Note which images are opened, by their names."""
    paths: list[str] = []
    names: list[str] = []
    _WATCHING.append(paths)
    try:
        yield names
    finally:
        _WATCHING.remove(paths)
        names += sorted(Path(path).name for path in paths if path.endswith(".bmp"))


def spade() -> ks.Spade:
    return ks.Spade(ks.Backbone(image_size=64), image_neighbors=2)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four cells as files of the same size."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(4):
        write(folder / f"{number}.bmp", number)
    return folder


def write(file: Path, number: int) -> None:
    with Image.open(CELLS[number]) as cell:
        cell.save(file)


def fit(images: Path) -> ks.Spade:
    return spade().fit(images, folder=images.parent / "model", n_workers=0)


@pytest.fixture
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files as if they had been written long ago: no test is to wait for two seconds."""
    monkeypatch.setattr(file_stamps, "_STEP", -3600 * 10**9)


@pytest.mark.usefixtures("long_ago")
class TestAFitThatGoesOn:
    def test_reads_no_file_whose_size_and_times_are_the_same(self, images: Path) -> None:
        before = fit(images)
        with opened_images() as opened:
            after = fit(images)
        assert opened == []
        assert after.normal_map_max_ == before.normal_map_max_

    def test_reads_what_was_touched_and_finds_that_it_is_the_same(self, images: Path) -> None:
        fit(images)
        os.utime(images / "2.bmp", (0, 0))
        with opened_images() as opened:
            fit(images)  # without a warning
        assert opened == ["2.bmp"]
        with opened_images() as opened:
            fit(images)
        assert opened == []

    def test_notices_another_image_of_the_same_size_and_the_old_time(self, images: Path) -> None:
        fit(images)
        file = images / "1.bmp"
        before = file.stat()
        write(file, 5)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (
            before.st_size,
            before.st_mtime_ns,
        )
        with pytest.warns(UserWarning, match=r"1 image has changed .*: 1.bmp; learning it again"):
            again = fit(images)
        assert again.normal_map_max_ == spade().fit(images).normal_map_max_

    def test_forgets_files_that_are_gone(self, images: Path) -> None:
        fit(images)
        (images / "3.bmp").unlink()
        fit(images)
        assert sorted(json.loads((images.parent / "model" / FILES).read_text())) == [
            "0.bmp",
            "1.bmp",
            "2.bmp",
        ]

    def test_reads_all_files_of_a_folder_of_an_earlier_version(self, images: Path) -> None:
        fit(images)
        (images.parent / "model" / FILES).unlink()
        with opened_images() as opened:
            fit(images)
        assert opened == ["0.bmp", "1.bmp", "2.bmp", "3.bmp"]
        with opened_images() as opened:
            fit(images)
        assert opened == []

    def test_says_that_what_it_kept_is_damaged_and_reads_all(self, images: Path) -> None:
        fit(images)
        (images.parent / "model" / FILES).write_text("{")
        with (
            opened_images() as opened,
            pytest.warns(UserWarning, match=r"files\.json: is damaged: .*; all files are read"),
        ):
            fit(images)
        assert len(opened) == 4
        fit(images)  # without a warning


@pytest.mark.parametrize("contents", ["[1]", '{"0": 3}', '{"0": ["a", 1, 2, "00"]}', "[" * 99])
def test_other_contents_are_damage_of_which_it_warns(tmp_path: Path, contents: str) -> None:
    (tmp_path / FILES).write_text(contents)
    with pytest.warns(UserWarning, match=r"files\.json: .*; all files are read"):
        FileStamps(tmp_path / FILES)


def test_a_file_that_was_changed_within_two_seconds_is_read_again(images: Path) -> None:
    fit(images)
    young = time.time() - min(file.stat().st_ctime for file in images.iterdir()) < 2
    with opened_images() as opened:
        fit(images)
    assert opened == ["0.bmp", "1.bmp", "2.bmp", "3.bmp"] or not young


def test_a_time_that_lies_ahead_is_not_relied_on(tmp_path: Path) -> None:
    file = tmp_path / "0.bmp"
    shutil.copy(CELLS[0], file)
    ahead = time.time() + 3600
    os.utime(file, (ahead, ahead))
    (item,) = open_images([file])
    stamps = FileStamps(tmp_path / FILES)
    stamps.see(item)
    stamps.save({item.id: item.digest()})
    assert not FileStamps(tmp_path / FILES).is_unchanged(item, item.digest())


@pytest.mark.usefixtures("long_ago")
def test_another_digest_than_that_of_the_known_image_is_a_change(tmp_path: Path) -> None:
    (item,) = open_images([CELLS[0]])
    stamps = FileStamps(tmp_path / FILES)
    stamps.see(item)
    stamps.save({item.id: item.digest()})
    kept = FileStamps(tmp_path / FILES)
    assert kept.is_unchanged(item, item.digest())
    assert not kept.is_unchanged(item, bytes(32))
