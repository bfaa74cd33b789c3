"""Shards that are added and taken away: which images move, crashes, full disks, and damage."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from knnspect import FeaturePyramid, Gallery, ParameterError, ShardedGallery, StoreError, files
from knnspect.gallery import manifest
from knnspect.search.shards import Shard, Shards
from knnspect.testing.expectations import expect_identical

IDS = [f"bottle {number}" for number in range(24)]
Change = Callable[[ShardedGallery], object]


def pyramid(n: int = 24, seed: int = 0) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid([rng.random((n, *size), "f4") for size in ((4, 4, 3), (2, 2, 5))])


@pytest.fixture(params=["float32", "int8"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "normal.gallery"
    with ShardedGallery.create(path, dtype=request.param, shards=3) as gallery:
        gallery.add(pyramid(), IDS)
    return path


def to_write(folder: Path) -> ShardedGallery:
    gallery = Gallery.open(folder, "r+")
    assert isinstance(gallery, ShardedGallery)
    return gallery


def contents(gallery: Gallery) -> dict[str, list[bytes]]:
    return {
        id_: [level.tobytes() for level in gallery.pyramid([id_]).levels] for id_ in gallery.ids
    }


def records(folder: Path) -> list[str]:
    """The checksums of all images, as the shards' journals have them."""
    found = []
    for path in folder.parent.rglob("journal"):
        for line in path.read_text().splitlines():
            if '"checksums":' in line:
                found += line.split('"checksums":[')[1].split("]")[0].split(",")
    return found


def shards_of(gallery: ShardedGallery) -> list[str]:
    return [shard.name for shard in gallery.shards.shards]


def homes(gallery: ShardedGallery) -> dict[str, str]:
    """The shard of each image."""
    owners = gallery.shards.owners(gallery.ids)
    names = shards_of(gallery)
    return {id_: names[owner] for id_, owner in zip(gallery.ids, owners, strict=True)}


def test_only_images_move_that_belong_to_the_new_shard(folder: Path) -> None:
    reader = Gallery.open(folder)
    before, searched = contents(reader), reader.search(pyramid(2, 1), 9)
    written = set(records(folder))
    with to_write(folder) as gallery:
        at_home = homes(gallery)
        assert gallery.add_shard() == "shard-0003"
        moved = {id_ for id_, name in homes(gallery).items() if name != at_home[id_]}
        assert moved
        assert {homes(gallery)[id_] for id_ in moved} == {"shard-0003"}
        assert Gallery.open(folder / "shard-0003").ids == sorted(moved)
        assert gallery.n_removed == len(moved)
        assert contents(gallery) == before
        expect_identical("moved", gallery.search(pyramid(2, 1), 9), searched)
        gallery.compact()
        assert gallery.n_removed == 0
        gallery.remove([min(moved)])
        gallery.add(pyramid(3, 2), ["new 1", "new 2", "new 3"])
    # Byte for byte: an int8 gallery would otherwise round once more.
    assert {one for one in records(folder) if one in written} == written
    expect_identical("as it was opened", reader.search(pyramid(2, 1), 9), searched)
    assert len(Gallery.open(folder, verify=True)) == 26


def test_images_of_a_shard_that_is_taken_away_move_to_where_they_belong(folder: Path) -> None:
    reader = Gallery.open(folder)
    before = contents(reader)
    with to_write(folder) as gallery:
        at_home = homes(gallery)
        gallery.remove_shard("shard-0001")
        assert shards_of(gallery) == ["shard-0000", "shard-0002"]
        after = homes(gallery)
        assert {at_home[id_] for id_ in IDS if after[id_] != at_home[id_]} == {"shard-0001"}
        assert contents(gallery) == before
        assert gallery.n_removed == 0
        # A name says where ids belong: another shard never has it.
        assert gallery.add_shard() == "shard-0003"
        gallery.remove_shard("shard-0003")
        assert gallery.add_shard() == "shard-0004"
    assert not (folder / "shard-0001").exists()
    assert contents(Gallery.open(folder, verify=True)) == before == contents(reader)
    assert manifest.read_manifest(folder).leftover == ()


def test_a_shard_may_be_added_on_another_disk_and_taken_away(folder: Path) -> None:
    before = contents(Gallery.open(folder))
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    with to_write(folder) as gallery:
        gallery.add_shard(elsewhere)
        assert (elsewhere / "journal").exists()
        (elsewhere / "notes.txt").write_text("of others")
        gallery.remove_shard("shard-0003")
    assert [path.name for path in elsewhere.iterdir()] == ["notes.txt"]
    assert contents(Gallery.open(folder, verify=True)) == before


def test_an_empty_gallery_gets_and_loses_shards(tmp_path: Path) -> None:
    with ShardedGallery.create(tmp_path / "g", shards=1) as gallery:
        gallery.add_shard()
        gallery.remove_shard("shard-0000")
        gallery.add(pyramid(), IDS)
    assert len(Gallery.open(tmp_path / "g")) == 24


def test_a_gallery_of_before_is_opened_and_gets_shards(folder: Path) -> None:
    path = folder / "manifest"
    text = path.read_bytes()[33:].replace(b'"next":3,"leftover":[],', b"")
    text = text.replace(b'"format_version":2', b'"format_version":1').rstrip()
    path.write_bytes(manifest._checksum(text) + b" " + text + b"\n")
    with to_write(folder) as gallery:
        assert gallery.add_shard() == "shard-0003"


WRONG: list[tuple[str, type[Exception], Change]] = [
    ("expected one of shard-0000, .*got 'x'", ParameterError, lambda g: g.remove_shard("x")),
    ("is the folder of shard-0001", StoreError, lambda g: g.add_shard(g.shards.shards[1].path)),
    ("other: is not empty: it has", StoreError, lambda g: g.add_shard("../other")),
    ("manifest/new: cannot be a shard", StoreError, lambda g: g.add_shard("manifest/new")),
]


@pytest.mark.parametrize(("words", "error", "change"), WRONG, ids=[one[0] for one in WRONG])
def test_what_cannot_be_is_said_and_changes_nothing(
    folder: Path, words: str, error: type[Exception], change: Change
) -> None:
    Gallery.create(folder.parent / "other").close()
    before = (folder / "manifest").read_bytes()
    with to_write(folder) as gallery:
        with pytest.raises(error, match=words):
            change(gallery)
        gallery.remove([IDS[0]])
    assert (folder / "manifest").read_bytes() != before
    with pytest.raises(StoreError, match='open it with mode="r\\+"'):
        change(gallery)
    assert Gallery.open(folder.parent / "other").ids == []


def test_the_only_shard_stays(tmp_path: Path) -> None:
    with ShardedGallery.create(tmp_path / "g", shards=1) as gallery:
        with pytest.raises(ParameterError, match="the only shard"):
            gallery.remove_shard("shard-0000")
        gallery.add(pyramid(), IDS)


CHANGES: dict[str, Change] = {
    "add": lambda gallery: gallery.add_shard(),
    "add elsewhere": lambda gallery: gallery.add_shard("../elsewhere"),
    "remove": lambda gallery: gallery.remove_shard("shard-0001"),
}


def crash_at(folder: Path, change: Change, number: int, after: bool) -> bool:
    """Let a process die before or after it writes the manifest for the nth time; whether it did."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7
    try:
        replace_file, n_written = files.replace_file, 0

        def crash(*args: Any, **kwargs: Any) -> None:
            nonlocal n_written
            n_written += 1
            if n_written == number and not after:
                os._exit(7)
            replace_file(*args, **kwargs)
            if n_written == number:
                os._exit(7)

        manifest.replace_file = crash  # type: ignore[attr-defined]
        change(to_write(folder))
    finally:
        os._exit(0)


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_crash_leaves_all_as_before_or_after(folder: Path, change: Change, after: bool) -> None:
    before = contents(Gallery.open(folder))
    n_crashes = 0
    while crash_at(folder, change, n_crashes + 1, after):
        n_crashes += 1
        assert contents(Gallery.open(folder, verify=True)) == before
        with to_write(folder) as gallery:
            assert contents(gallery) == before
            left = {path.name for path in folder.glob("shard-*")}
            assert left == {name for name in shards_of(gallery) if (folder / name).exists()}
        if "shard-0001" not in left and after:
            break  # it is taken away
    assert n_crashes >= 2 - after
    with to_write(folder) as gallery:
        assert contents(gallery) == before
        gallery.add_shard()
        assert contents(gallery) == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_error_at_the_manifest_leaves_all_as_before_or_after(
    folder: Path, change: Change, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        """What ends a change at any place."""

    before = contents(Gallery.open(folder))
    replace_file = files.replace_file
    for number in (1, 2, 3):
        n_written = 0

        def fail(*args: Any, **kwargs: Any) -> None:
            nonlocal n_written
            n_written += 1
            if n_written != number or after:  # noqa: B023
                replace_file(*args, **kwargs)
            if n_written == number:  # noqa: B023
                raise StoreError("no space left") if not after else Interrupted

        with to_write(folder) as gallery:
            monkeypatch.setattr(manifest, "replace_file", fail)
            try:
                change(gallery)
            except StoreError as error:
                assert "no space left" in str(error)  # noqa: PT017 - it need not be raised
            except ParameterError:
                assert "shard-0001" not in shards_of(gallery)
            monkeypatch.setattr(manifest, "replace_file", replace_file)
            assert contents(gallery) == before
            gallery.replace(gallery.pyramid([IDS[3]]), [IDS[3]])
        assert contents(Gallery.open(folder, verify=True)) == before
        shutil.rmtree(folder.parent / "elsewhere", ignore_errors=True)
        if any("elsewhere" in str(shard.path) for shard in gallery.shards.shards):
            return


def test_a_full_disk_takes_the_move_back(folder: Path) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before = contents(Gallery.open(folder))
    with to_write(folder) as gallery:
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Writing a file beyond this size fails, as it does on a full disk.
        for change in (gallery.add_shard, lambda: gallery.remove_shard("shard-0000")):
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1200, hard))
                with pytest.raises(StoreError, match=r"shard shard-000\d: .*cannot be written"):
                    change()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
        assert contents(gallery) == before
        assert sorted(path.name for path in folder.glob("shard-*")) == shards_of(gallery)
        gallery.remove_shard("shard-0000")
        # A number is not given twice.
        assert gallery.add_shard() == "shard-0004"
        assert contents(gallery) == before
    assert contents(Gallery.open(folder, verify=True)) == before


def test_room_is_looked_for_before_anything_moves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 19))
    before = (folder / "manifest").read_bytes()
    with to_write(folder) as gallery:
        with pytest.raises(StoreError, match=r"shard-0003: the disk of .*0\.5 MB are free"):
            gallery.add_shard()
        with pytest.raises(StoreError, match=r"shard-000\d: the disk of .* MB are needed"):
            gallery.remove_shard("shard-0002")
    assert (folder / "manifest").read_bytes() == before


def test_damage_is_not_moved(folder: Path) -> None:
    gallery = to_write(folder)
    among = Shards(folder, (*gallery.shards.shards, Shard("shard-0003", folder, "", 0)))
    moved = IDS[np.flatnonzero(among.owners(IDS) == 3)[0]]
    name = homes(gallery)[moved]
    segment = folder / name / "features-00000001"
    held = Gallery.open(folder / name).ids
    text = bytearray(segment.read_bytes())
    # Images stand in the order in which they were added.
    place = [id_ for id_ in IDS if id_ in held].index(moved)
    text[place * (len(text) // len(held)) + 3] ^= 64
    segment.write_bytes(text)
    gallery.close()
    with to_write(folder) as gallery:
        with pytest.raises(
            StoreError, match=rf"shard {name}: .*'?\"?{moved}.* is damaged"
        ) as error:
            gallery.add_shard()
        assert error.value.image == moved
        assert shards_of(gallery) == ["shard-0000", "shard-0001", "shard-0002"]
        assert gallery.n_removed == 0
    assert not (folder / "shard-0003").exists()


def test_two_shards_that_are_one_folder_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "shard-0001")
    (folder / "shard-0001").symlink_to("shard-0000")
    for mode in ("r", "r+"):
        with pytest.raises(StoreError, match="shards shard-0000 and shard-0001 are one folder"):
            Gallery.open(folder, mode)
    (folder.parent / "link").symlink_to(folder)
    with pytest.raises(ParameterError, match="is given twice"):
        ShardedGallery.create(
            folder.parent / "h", shards=[folder.parent / "link" / "x", folder / "x"]
        )
