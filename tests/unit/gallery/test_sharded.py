"""Galleries in several folders: changes of all of them or none, readers and writers, and damage."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knnspect import (
    FeaturePyramid,
    Gallery,
    ImageError,
    KnnspectError,
    ParameterError,
    ShapeError,
    ShardedGallery,
    StoreError,
    _core,
    files,
)
from knnspect.gallery import is_gallery_folder, manifest
from knnspect.search.shards import Shard, Shards
from knnspect.testing.expectations import expect_identical

IDS = [f"bottle {number}" for number in range(12)]


def pyramid(n: int = 12, seed: int = 0, channels: int = 3) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    sizes = ((n, 4, 4, channels), (n, 2, 2, 5))
    return FeaturePyramid([rng.integers(-9, 9, size).astype("f4") for size in sizes])


def contents(gallery: Gallery) -> dict[str, list[bytes]]:
    """Return what is kept of each image."""
    return {
        id_: [level.tobytes() for level in gallery.pyramid([id_]).levels] for id_ in gallery.ids
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of eleven images in three shards, one of them replaced and one removed."""
    path = tmp_path / "normal.gallery"
    with ShardedGallery.create(path, shards=3) as gallery:
        gallery.add(pyramid(), IDS)
        gallery.replace(pyramid(1, seed=1), [IDS[2]])
        gallery.remove([IDS[5]])
    return path


def in_memory() -> Gallery:
    """The same images."""
    gallery = Gallery()
    gallery.add(pyramid(), IDS)
    gallery.replace(pyramid(1, seed=1), [IDS[2]])
    gallery.remove([IDS[5]])
    return gallery


@pytest.mark.parametrize("n_shards", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_it_finds_what_a_gallery_in_memory_finds(tmp_path: Path, n_shards: int, dtype: str) -> None:
    whole = Gallery("block", dtype)
    whole.add(pyramid(), IDS)
    with ShardedGallery.create(tmp_path / "g", "block", dtype, n_shards) as gallery:
        gallery.add(pyramid(), IDS)
    opened = Gallery.open(tmp_path / "g", verify=True)
    assert isinstance(opened, ShardedGallery)
    assert len(opened.shards.shards) == n_shards
    for k, images in ((1, None), (50, None), (3, IDS[2:7])):
        expected = whole.search(pyramid(2, seed=3), k, images)
        expect_identical("shards", opened.search(pyramid(2, seed=3), k, images), expected)
    assert opened.search(pyramid(1, seed=3), window=1).stats is not None
    assert (opened.nbytes, opened.n_rows, opened.shapes) == (
        whole.nbytes,
        whole.n_rows,
        whole.shapes,
    )


def test_changes_leave_what_they_leave_in_memory(folder: Path) -> None:
    gallery, expected = Gallery.open(folder), in_memory()
    assert contents(gallery) == contents(expected)
    assert gallery.path == folder
    assert (gallery.mode, gallery.n_removed, len(gallery)) == ("r", 2, 11)
    one, other = gallery.coreset(7), expected.coreset(7)
    np.testing.assert_array_equal(one.rows, other.rows)
    left = gallery.without(IDS[:3])
    assert left.ids == sorted(IDS[3:5] + IDS[6:])
    expect_identical(
        "without",
        left.search(pyramid(1)),
        expected.without(IDS[:3]).search(pyramid(1)),
    )
    expect_identical(
        "level", gallery.level(1).search(query := FeaturePyramid(pyramid(1).levels[1:])),
        expected.level(1).search(query),
    )  # fmt: skip
    gallery.save(folder.parent / "saved")
    assert contents(Gallery.open(folder.parent / "saved")) == contents(expected)


def test_running_numbers_are_ids_by_default(folder: Path) -> None:
    with Gallery.open(folder, "r+") as gallery:
        assert gallery.add(pyramid(2)) == ["000000", "000001"]
        assert gallery.add(pyramid(1)) == ["000002"]


def test_compacting_gives_room_back_and_changes_nothing(folder: Path) -> None:
    reader = Gallery.open(folder)
    size = sum(path.stat().st_size for path in folder.glob("*/features-*"))
    with Gallery.open(folder, "r+") as gallery:
        gallery.compact()
        assert gallery.n_removed == 0
        assert contents(gallery) == contents(in_memory())
        gallery.add(pyramid(1, seed=5), ["new"])
        gallery.compact()
        gallery.remove(["new"])
        gallery.compact()
    assert sum(path.stat().st_size for path in folder.glob("*/features-*")) < size
    assert contents(reader) == contents(Gallery.open(folder, verify=True)) == contents(in_memory())


def test_a_gallery_that_is_emptied_takes_images_of_another_shape(folder: Path) -> None:
    with Gallery.open(folder, "r+") as gallery:
        gallery.remove(gallery.ids)
        assert (gallery.shapes, len(gallery)) == ([], 0)
        gallery.compact()
        gallery.add(pyramid(2, channels=7), ["a", "b"])
    assert Gallery.open(folder).shapes == [(4, 4, 7), (2, 2, 5)]


WRONG: list[tuple[str, type[KnnspectError], str, Callable[[Gallery], object]]] = [
    ("known", ParameterError, "bottle 1' is in", lambda g: g.add(pyramid(2), ["new", IDS[1]])),
    ("twice", ParameterError, "'new' is given twice", lambda g: g.add(pyramid(2), ["new", "new"])),
    ("fewer", ShapeError, "each of 2 images, got 1", lambda g: g.add(pyramid(2), ["new"])),
    ("shape", ShapeError, "4x4x7", lambda g: g.add(pyramid(1, channels=7), ["new"])),
    ("removing", ParameterError, "no image 'new'", lambda g: g.remove([IDS[0], "new"])),
    ("replacing", ParameterError, "no image 'new'", lambda g: g.replace(pyramid(1), ["new"])),
]


@pytest.mark.parametrize(
    ("error", "words", "change"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_cannot_be_changed_is_named_and_changes_nothing(
    folder: Path, error: type[KnnspectError], words: str, change: Callable[[Gallery], object]
) -> None:
    with Gallery.open(folder, "r+") as gallery:
        with pytest.raises(error, match=words):
            change(gallery)
        assert contents(gallery) == contents(in_memory())
        gallery.add(pyramid(1), ["new"])
    assert "new" in Gallery.open(folder)


def test_an_error_in_one_shard_takes_back_the_change_of_the_others(folder: Path) -> None:
    # The last image is not finite; the shards of the others have taken them by then.
    new = [f"new {number}" for number in range(8)]
    levels = [level.copy() for level in pyramid(8).levels]
    with Gallery.open(folder, "r+") as gallery:
        assert isinstance(gallery, ShardedGallery)
        owners = gallery.shards.owners(new)
        last = [place for place in range(8) if owners[place] != owners[0]][-1]
        levels[1][last, 0, 0, 0] = np.nan
        with pytest.raises(ImageError, match=rf"shard-000{owners[last]}.*new {last}"):
            gallery.add(FeaturePyramid(levels), new)
        assert contents(gallery) == contents(in_memory())
        assert contents(Gallery.open(folder)) == contents(in_memory())
        gallery.add(pyramid(8), new)
    assert set(new) <= set(Gallery.open(folder, verify=True).ids)


class Interrupted(BaseException):
    """What ends a change at any place."""


@pytest.fixture
def failing_manifest(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException, bool], None]:
    """Let the replacement of the manifest fail: before it is made, or after it."""

    def fail(error: BaseException, after: bool) -> None:
        replace_file = files.replace_file

        def replace_once(*args: Any, **kwargs: Any) -> None:
            monkeypatch.setattr(manifest, "replace_file", replace_file)
            if after:
                replace_file(*args, **kwargs)
            raise error

        monkeypatch.setattr(manifest, "replace_file", replace_once)

    return fail


def test_a_full_disk_at_the_manifest_takes_the_change_back(
    folder: Path, failing_manifest: Callable[[BaseException, bool], None]
) -> None:
    with Gallery.open(folder, "r+") as gallery:
        failing_manifest(StoreError(os_error := "no space left"), False)
        with pytest.raises(StoreError, match=os_error):
            gallery.remove(IDS[:2])
        assert contents(gallery) == contents(in_memory())
        gallery.remove(IDS[:2])
    assert len(Gallery.open(folder)) == 9


def test_an_interruption_after_the_manifest_was_replaced_leaves_the_change(
    folder: Path, failing_manifest: Callable[[BaseException, bool], None]
) -> None:
    with Gallery.open(folder, "r+") as gallery:
        failing_manifest(Interrupted(), True)
        gallery.remove(IDS[:2])
        assert len(gallery) == 9
    assert len(Gallery.open(folder)) == 9


def crash_before_the_manifest(folder: Path, change: Callable[[Gallery], object]) -> None:
    """Leave the shards changed, and the manifest as it was before."""
    before = (folder / "manifest").read_bytes()
    with Gallery.open(folder, "r+") as gallery:
        change(gallery)
    (folder / "manifest").write_bytes(before)


CHANGES: dict[str, Callable[[Gallery], object]] = {
    "add": lambda gallery: gallery.add(pyramid(9), [f"new {i}" for i in range(9)]),
    "remove": lambda gallery: gallery.remove(IDS[6:]),
    "replace": lambda gallery: gallery.replace(pyramid(6, seed=7), IDS[6:]),
    "compact": lambda gallery: gallery.compact(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_crash_before_the_manifest_was_replaced_leaves_all_as_before(
    folder: Path, change: Callable[[Gallery], object]
) -> None:
    crash_before_the_manifest(folder, change)
    assert contents(Gallery.open(folder)) == contents(in_memory())
    with Gallery.open(folder, "r+") as gallery:  # takes the change back
        assert contents(gallery) == contents(in_memory())
        change(gallery)
        after = contents(gallery)
    assert contents(Gallery.open(folder, verify=True)) == after


def test_a_crash_after_compacting_and_one_after_the_next_change_leave_all_as_before(
    folder: Path,
) -> None:
    before = (folder / "manifest").read_bytes()
    crash_before_the_manifest(folder, CHANGES["compact"])
    with Gallery.open(folder, "r+"):
        pass  # the states of the compacted shards count from here on
    assert (folder / "manifest").read_bytes() != before
    crash_before_the_manifest(folder, CHANGES["remove"])
    crash_before_the_manifest(folder, CHANGES["compact"])
    assert contents(Gallery.open(folder, "r+")) == contents(in_memory())


def test_an_interrupted_creation_is_gone_on_with(tmp_path: Path) -> None:
    ShardedGallery.create(tmp_path / "g", shards=3).close()
    (tmp_path / "g" / "manifest").unlink()
    (tmp_path / "g" / "lock").unlink()
    with ShardedGallery.create(tmp_path / "g", shards=4) as gallery:
        gallery.add(pyramid(), IDS)
    with pytest.raises(StoreError, match="holds a gallery already"):
        ShardedGallery.create(tmp_path / "g")
    (tmp_path / "g" / "manifest").unlink()
    (tmp_path / "g" / "lock").unlink()
    with pytest.raises(StoreError, match="shard-0000: holds a gallery already"):
        ShardedGallery.create(tmp_path / "g")


def test_shards_may_lie_elsewhere(tmp_path: Path) -> None:
    paths = [tmp_path / "disk 1", tmp_path / "disk 2"]
    with ShardedGallery.create(tmp_path / "g", shards=paths) as gallery:
        gallery.add(pyramid(), IDS)
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == ["lock", "manifest"]
    assert len(Gallery.open(tmp_path / "g")) == 12
    with pytest.raises(ParameterError, match="disk 1 is given twice"):
        ShardedGallery.create(tmp_path / "h", shards=[paths[0], paths[0]])


def test_a_folder_that_was_moved_with_its_shards_is_opened(folder: Path) -> None:
    folder.rename(folder.parent / "moved")
    assert contents(Gallery.open(folder.parent / "moved")) == contents(in_memory())


def test_one_process_at_a_time_may_change_it(folder: Path) -> None:
    with Gallery.open(folder, "r+") as gallery:
        with pytest.raises(StoreError, match="is open for writing by this process"):
            Gallery.open(folder, "r+")
        gallery.remove([IDS[0]])
        assert len(Gallery.open(folder)) == 10
    with pytest.raises(StoreError, match='open it with mode="r\\+"'):
        gallery.remove([IDS[1]])
    Gallery.open(folder, "r+").close()


def test_pickles_and_copies(folder: Path) -> None:
    gallery = Gallery.open(folder)
    assert contents(pickle.loads(pickle.dumps(gallery))) == contents(gallery)
    one = copy.copy(gallery)
    one.remove([IDS[0]])
    assert (len(one), len(gallery), type(one)) == (10, 11, Gallery)
    left = pickle.loads(pickle.dumps(gallery.without([IDS[0]])))
    assert contents(left) == contents(one)
    pickled = pickle.dumps(gallery)
    with Gallery.open(folder, "r+") as changing:
        changing.remove([IDS[0]])
    with pytest.raises(StoreError, match="was changed after it was opened and pickled"):
        pickle.loads(pickled)
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match="pickled by its path"):
        pickle.loads(pickled)


def test_a_shard_that_is_gone_is_named_or_left_out(folder: Path) -> None:
    (folder / "shard-0001").rename(folder.parent / "elsewhere")
    with pytest.raises(StoreError, match=r"shard shard-0001: .*cannot be opened"):
        Gallery.open(folder)
    gallery = ShardedGallery.open(folder, allow_missing=True)
    assert gallery.shards.missing == ("shard-0001",)
    expected = [id_ for id_ in in_memory().ids if gallery.shards.owners([id_])[0] != 1]
    assert gallery.ids == expected
    found = gallery.search(pyramid(2, seed=3))
    assert found.missing == found[0].missing == ("shard-0001",)
    assert gallery.without(expected[:1]).search(pyramid(1)).missing == ("shard-0001",)
    expect_identical("the others", found, in_memory().search(pyramid(2, seed=3), images=expected))
    with pytest.raises(ParameterError, match="allow_missing"):
        ShardedGallery.open(folder, "r+", allow_missing=True)


def exchange(folder: Path) -> None:
    (folder / "shard-0000").rename(folder / "other")
    (folder / "shard-0001").rename(folder / "shard-0000")
    (folder / "other").rename(folder / "shard-0001")


def make_older(folder: Path) -> None:
    journal = folder / "shard-0002" / "journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))


def change_on_its_own(folder: Path) -> None:
    with Gallery.open(folder / "shard-0000", "r+") as shard:
        shard.remove(shard.ids[:1])
        shard.remove(shard.ids[:1])
        shard.compact()
        shard.compact()


def with_another_dtype(folder: Path) -> None:
    shutil.rmtree(folder / "shard-0001")
    Gallery.create(folder / "shard-0001", dtype="int8").close()
    name_as_it_is(folder)


def name_as_it_is(folder: Path) -> None:
    """Let the manifest name the shards as they are."""
    known = manifest.read_manifest(folder)
    shards = []
    for shard in known.shards.shards:
        core = _core.Gallery.open(shard.path, False)
        shards.append(Shard(shard.name, shard.path, core.journal_state or "", len(core)))
    known.after(shards).write()


def add_to_another(folder: Path) -> None:
    """Add an image to a shard that it does not belong to."""
    with Gallery.open(folder / "shard-0001", "r+") as shard:
        shard.add(pyramid(1), [next(iter(Gallery.open(folder / "shard-0000").ids))])
    name_as_it_is(folder)


def move_to_another(folder: Path) -> None:
    add_to_another(folder)
    with Gallery.open(folder / "shard-0000", "r+") as shard:
        shard.remove([next(iter(shard.ids))])
    name_as_it_is(folder)


def flip_a_bit(folder: Path) -> None:
    path = folder / "manifest"
    text = bytearray(path.read_bytes())
    text[60] ^= 1
    path.write_bytes(text)


def name_twice(folder: Path) -> None:
    known = manifest.read_manifest(folder)
    shards = list(known.shards.shards)
    shards[1] = Shard(shards[1].name, shards[0].path, shards[0].state, shards[0].n_images)
    known.after(shards).write()


def overwrite(folder: Path) -> None:
    (folder / "manifest").write_bytes(b"x")


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (exchange, "shard shard-0000: .*another gallery, or an older copy"),
    (make_older, "shard shard-0002: .*older copy"),
    (change_on_its_own, "shard shard-0000: .*has no line"),
    (
        with_another_dtype,
        "shard shard-0001: .*expected bilinear upsampling, float32, 0 images, got .*int8",
    ),
    (add_to_another, r"image 'bottle \d+' is in the shards shard-0000 and shard-0001"),
    (move_to_another, r"shard-0001: image 'bottle \d+' is here, and belongs to shard-0000"),
    (flip_a_bit, "manifest: is damaged"),
    (name_twice, "manifest: two shards have the path"),
    (overwrite, "manifest: is damaged"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGE)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_damage_is_named(
    folder: Path, damage: Callable[[Path], None], words: str, mode: str
) -> None:
    damage(folder)
    with pytest.raises(StoreError, match=words):
        Gallery.open(folder, mode)
    with pytest.raises(StoreError):  # no lock is left behind
        Gallery.open(folder, mode)


def test_a_shard_that_was_changed_on_its_own_is_not_cut(folder: Path) -> None:
    with Gallery.open(folder / "shard-0000", "r+") as shard:
        shard.remove(shard.ids[:1])
        shard.remove(shard.ids[:1])
        left = len(shard)
    assert contents(Gallery.open(folder)) == contents(in_memory())
    with pytest.raises(StoreError, match=r"shard-0000.*2 changes follow.*changed on its own"):
        Gallery.open(folder, "r+")
    assert len(Gallery.open(folder / "shard-0000")) == left


def test_a_newer_manifest_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = manifest.read_manifest(folder)
    monkeypatch.setattr(manifest, "_VERSION", 2)
    known.write()
    monkeypatch.setattr(manifest, "_VERSION", 1)
    with pytest.raises(StoreError, match="its format is 2"):
        Gallery.open(folder)


def test_every_image_of_every_shard_is_verified(folder: Path) -> None:
    segment = folder / "shard-0002" / "features-00000001"
    contents_ = bytearray(segment.read_bytes())
    contents_[-70] ^= 1
    segment.write_bytes(contents_)
    with pytest.raises(StoreError, match="shard-0002"):
        Gallery.open(folder, verify=True)


def test_folders_of_both_kinds_are_known(folder: Path, tmp_path: Path) -> None:
    assert is_gallery_folder(folder)
    assert is_gallery_folder(folder / "shard-0000")
    with pytest.raises(StoreError, match="manifest"):
        ShardedGallery.open(folder / "shard-0000")
    with pytest.raises(TypeError, match=r"ShardedGallery\.create"):
        ShardedGallery()


def test_a_shard_more_takes_images_from_all_others_and_moves_no_other() -> None:
    ids = [f"{number:06d}" for number in range(6000)]
    shards = tuple(Shard(f"shard-{n:04d}", Path("/"), "", 0) for n in range(6))
    before, after = (Shards(Path("/"), shards[:n]).owners(ids) for n in (5, 6))
    moved = before != after
    assert set(after[moved]) == {5}
    # Binomial, six standard deviations: sqrt(6000 * 5/36) is 29.
    assert np.all(np.abs(np.bincount(after, minlength=6) - 1000) < 6 * 29)
    assert np.all(np.abs(np.bincount(before[moved], minlength=5) - 200) < 6 * 14)


def test_a_disk_that_is_full_in_the_second_shard(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    new = [f"new {number}" for number in range(40)]
    with Gallery.open(folder, "r+") as gallery:
        before = contents(gallery)
        # Writing a file beyond this size fails, as it does on a full disk.
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
            with pytest.raises(StoreError, match=r"shard-000\d: .*cannot be written"):
                gallery.add(pyramid(40), new)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, handler)
        assert contents(gallery) == before
        gallery.add(pyramid(40), new)
    assert len(Gallery.open(folder, verify=True)) == 51


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_shard_without_rights_is_named() -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home, "g")
        with ShardedGallery.create(folder, shards=3) as gallery:
            gallery.add(pyramid(), IDS)
        Path(home).chmod(0o755)
        (folder / "shard-0001").chmod(0)
        reading, writing = os.pipe()
        if not (process := os.fork()):
            try:
                if not os.getuid():  # whom nothing is forbidden
                    os.setuid(65534)
                Gallery.open(folder)
            except StoreError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(process, 0)
        with os.fdopen(reading, "rb") as said:
            message = said.read().decode()
        (folder / "shard-0001").chmod(0o755)
    assert "shard shard-0001: " in message
    assert "Permission denied" in message
