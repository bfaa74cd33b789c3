"""Galleries in a folder: changes, readers and writers, damage, and disks that fail."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import (
    Coreset,
    FeaturePyramid,
    Gallery,
    ImageError,
    KnnspectError,
    ParameterError,
    ShapeError,
    StoreError,
)

DTYPES = ["float32", "float16", "int8"]


def pyramid(n: int = 2, seed: int = 0, channels: int = 3) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    sizes = ((n, 4, 4, channels), (n, 2, 2, 5))
    return FeaturePyramid([rng.normal(size=size).astype("f4") for size in sizes])


def contents(gallery: Gallery) -> dict[str, list[bytes]]:
    """Return what is kept of each image."""
    return {
        id_: [level.tobytes() for level in gallery.pyramid([id_]).levels] for id_ in gallery.ids
    }


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("features-*"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of five images, one of them replaced and two removed."""
    path = tmp_path / "normal.gallery"
    with Gallery.create(path) as gallery:
        gallery.add(pyramid(4), ["a", "b", "c", "d"])
        gallery.remove(["b"])
        gallery.add(pyramid(2, seed=1), ["e", "f"])
        gallery.replace(pyramid(1, seed=2), ["c"])
        gallery.remove(["f"])
    return path


def in_memory() -> Gallery:
    """Return the same in memory."""
    gallery = Gallery()
    gallery.add(pyramid(4), ["a", "b", "c", "d"])
    gallery.remove(["b"])
    gallery.add(pyramid(2, seed=1), ["e", "f"])
    gallery.replace(pyramid(1, seed=2), ["c"])
    gallery.remove(["f"])
    return gallery


def test_a_folder_holds_what_memory_would(folder: Path) -> None:
    gallery, expected = Gallery.open(folder), in_memory()
    assert gallery.ids == ["a", "c", "d", "e"]
    assert contents(gallery) == contents(expected)
    assert gallery.n_removed == 3, "b, f, and the first c"
    assert gallery.path == folder
    for ids in (None, ["c", "e"]):
        one, other = (g.search(pyramid(1, seed=5), k=3, images=ids) for g in (gallery, expected))
        np.testing.assert_array_equal(one.sq_distances, other.sq_distances)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.cells, other.cells)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("upsample", ["bilinear", "block"])
def test_settings_and_features_survive(tmp_path: Path, dtype: str, upsample: str) -> None:
    path, expected = tmp_path / "gallery", Gallery(upsample, dtype)
    # 7 channels: rows of odd numbers of bytes.
    with Gallery.create(path, upsample, dtype) as gallery:
        for seed in range(3):
            gallery.add(pyramid(2, seed, channels=7))
            expected.add(pyramid(2, seed, channels=7))
        assert contents(gallery) == contents(expected), "while it is written"
    for mode in ("r", "r+"):
        with Gallery.open(path, mode, verify=True) as gallery:
            assert (gallery.upsample, gallery.dtype, gallery.mode) == (upsample, dtype, mode)
            assert contents(gallery) == contents(expected)
            query = pyramid(1, 9, channels=7)
            np.testing.assert_array_equal(
                gallery.search(query).sq_distances, expected.search(query).sq_distances
            )
    with Gallery.open(path, "r+") as gallery:
        gallery.remove(["000002"])
        gallery.compact()
        expected.remove(["000002"])
        assert contents(gallery) == contents(expected)
    assert contents(Gallery.open(path, verify=True)) == contents(expected)


def test_a_coreset_of_a_folder_is_that_of_memory(folder: Path, tmp_path: Path) -> None:
    ours, expected = Gallery.open(folder).coreset(20), in_memory().coreset(20)
    np.testing.assert_array_equal(ours.rows, expected.rows)
    np.testing.assert_array_equal(ours.cells, expected.cells)
    assert ours.image_ids == expected.image_ids == ("a", "c", "d", "e")
    ours.save(tmp_path / "coreset")
    found = Coreset.open(tmp_path / "coreset").search(pyramid(1, 6), k=2)
    np.testing.assert_array_equal(found.images, expected.search(pyramid(1, 6), k=2).images)


def test_it_goes_on_where_it_was_left(folder: Path) -> None:
    expected = in_memory()
    for seed in range(5):
        with Gallery.open(folder, "r+") as gallery:
            for g in (gallery, expected):
                assert g.add(pyramid(2, seed)) == [f"{2 * seed + i:06d}" for i in range(2)]
    assert contents(Gallery.open(folder, verify=True)) == contents(expected)
    assert len(list(folder.glob("features-*"))) == 1


def test_compacting_gives_the_room_back(folder: Path) -> None:
    expected, before = contents(in_memory()), sizes(folder)
    reader = Gallery.open(folder)
    with Gallery.open(folder, "r+") as gallery:
        held = gallery.search(pyramid(1, 7))
        gallery.compact()
        assert gallery.n_removed == 0
        assert contents(gallery) == expected
        assert sizes(folder) * 7 == before * 4, "4 images are left of 7"
        assert contents(Gallery.open(folder, verify=True)) == expected
        gallery.compact()
        assert contents(Gallery.open(folder, verify=True)) == expected
        gallery.add(pyramid(1, 3), ["after"])
        np.testing.assert_array_equal(
            held.sq_distances, gallery.search(pyramid(1, 7), images=[*expected]).sq_distances
        )
    assert contents(reader) == expected, "a reader keeps files that are deleted"
    assert Gallery.open(folder).ids == [*sorted([*expected, "after"])]
    names = {path.name.split("-")[0] for path in folder.iterdir()}
    assert names == {"features", "journal", "lock"}


def test_everything_may_be_removed_and_the_next_image_decides_the_shape(folder: Path) -> None:
    with Gallery.open(folder, "r+") as gallery:
        gallery.remove(gallery.ids)
        assert (len(gallery), gallery.shapes, gallery.nbytes) == (0, [], 0)
        with pytest.raises(ParameterError, match="gallery is empty"):
            gallery.search(pyramid())
        gallery.add(pyramid(1, channels=9), ["other"])
        assert gallery.n_removed == 7
    with Gallery.open(folder, "r+", verify=True) as gallery:
        assert gallery.shapes == pyramid(channels=9).shapes
        gallery.compact()
        gallery.remove(["other"])
        gallery.compact()
        assert sizes(folder) == 0
        gallery.add(pyramid(1), ["last"])
    assert Gallery.open(folder).ids == ["last"]
    # A reader with an older journal must not take it for a segment that was deleted.
    assert [path.name for path in folder.glob("features-*")] == ["features-00000003"]


def test_readers_keep_a_consistent_state(folder: Path) -> None:
    expected = contents(in_memory())
    reader = Gallery.open(folder)
    with Gallery.open(folder, "r+") as gallery:
        gallery.add(pyramid(3, 8), ["x", "y", "z"])
        gallery.replace(pyramid(1, 9), ["a"])
        gallery.remove(["d"])
        assert contents(reader) == expected
        assert Gallery.open(folder).ids == ["a", "c", "e", "x", "y", "z"]
        gallery.compact()
        assert contents(reader) == expected
    assert Gallery.open(folder).ids == ["a", "c", "e", "x", "y", "z"]


def test_readers_open_it_while_it_is_changed(folder: Path) -> None:
    stop = threading.Event()

    def change() -> None:
        with Gallery.open(folder, "r+") as gallery:
            while not stop.is_set():
                gallery.add(pyramid(2, 3), ["x", "y"])
                gallery.remove(["x", "y"])
                gallery.compact()

    writer = threading.Thread(target=change)
    writer.start()
    try:
        for _ in range(200):
            gallery = Gallery.open(folder, verify=True)
            assert gallery.ids in (["a", "c", "d", "e"], ["a", "c", "d", "e", "x", "y"])
    finally:
        stop.set()
        writer.join()


def test_one_writer_at_a_time(folder: Path) -> None:
    command = (
        "import sys, knnspect\n"
        "gallery = knnspect.Gallery.open(sys.argv[1], 'r+')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"open for writing by process {other.pid}") as error:
            Gallery.open(folder, "r+")
        assert str(error.value).startswith(f"{folder}: ")
        assert len(Gallery.open(folder)) == 4, "it may be read"
        other.kill()  # a dead process has no lock
    with Gallery.open(folder, "r+") as gallery:
        with pytest.raises(StoreError, match="open for writing by this process"):
            Gallery.open(folder, "r+")
        gallery.remove(["a"])
    Gallery.open(folder, "r+").remove(["c"])  # and a gallery that is gone has none
    assert Gallery.open(folder, "r+").ids == ["d", "e"]


def test_a_gallery_that_is_open_for_reading_is_not_changed(folder: Path) -> None:
    closed = Gallery.open(folder, "r+")
    closed.close()
    closed.close()
    changes: list[Callable[[Gallery], object]] = [
        lambda gallery: gallery.add(pyramid(1), ["new"]),
        lambda gallery: gallery.replace(pyramid(1), ["a"]),
        lambda gallery: gallery.remove(["a"]),
        lambda gallery: gallery.compact(),
    ]
    for gallery in (Gallery.open(folder), closed):
        assert gallery.mode == "r"
        for change in changes:
            with pytest.raises(StoreError, match=r"not open for writing: .*mode=\"r\+\"") as error:
                change(gallery)
            assert str(error.value).startswith(f"{folder}: ")
        assert contents(gallery) == contents(in_memory())
        mine = copy.copy(gallery)  # a copy is in memory
        mine.remove(["a"])
        assert (mine.ids, mine.path, mine.mode) == (["c", "d", "e"], None, "r+")


def test_bad_changes_name_the_gallery_and_the_image_and_change_nothing(folder: Path) -> None:
    bad = pyramid(2, 5)
    bad.levels[1][1, 0, 0, 0] = np.nan
    cases: list[tuple[Callable[[Gallery], object], type[KnnspectError], str]] = [
        (lambda g: g.add(pyramid(2), ["n", "c"]), ParameterError, '"c" is in the gallery already'),
        (lambda g: g.add(pyramid(2), ["n", "n"]), ParameterError, '"n" is given twice'),
        (lambda g: g.add(pyramid(2), ["n"]), ShapeError, "one id for each of 2 images, got 1"),
        (lambda g: g.add(bad, ["n", "m"]), ImageError, 'image "m", level 1: .*must be finite'),
        (lambda g: g.add(pyramid(1, channels=4), ["n"]), ShapeError, "4x4x4 .*gallery's is 4x4x3"),
        (lambda g: g.replace(pyramid(2), ["a", "b"]), ParameterError, 'no image "b"'),
        (lambda g: g.replace(pyramid(2), ["a", "a"]), ParameterError, '"a" is given twice'),
        (lambda g: g.remove(["a", "b"]), ParameterError, 'no image "b"'),
    ]
    with Gallery.open(folder, "r+") as gallery:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for change, kind, message in cases:
            with pytest.raises(kind, match=message) as error:
                change(gallery)
            assert str(error.value).startswith(f"{folder}: ")
            assert contents(gallery) == contents(in_memory())
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
        gallery.add(pyramid(1), ["n"])
    assert contents(Gallery.open(folder, verify=True)).keys() == {"a", "c", "d", "e", "n"}


def test_float16_overflow_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", dtype="float16") as gallery:
        gallery.add(pyramid(1), ["a"])
        large = pyramid(2)
        large.levels[0][1] = 1e6
        with pytest.raises(ImageError, match='image "c": a feature exceeds'):
            gallery.add(large, ["b", "c"])
        gallery.add(pyramid(1, 1), ["b"])
    assert Gallery.open(tmp_path / "g", verify=True).ids == ["a", "b"]


def test_every_altered_byte_is_found(folder: Path) -> None:
    """By opening (the journal), by searching (images that are there), by verifying (all)."""
    ids = Gallery.open(folder).ids
    for path in sorted(folder.iterdir()):
        if path.name == "lock":
            continue
        good = path.read_bytes()
        step = 1 if path.name == "journal" else 13
        for at in range(0, len(good), step):
            altered = bytearray(good)
            altered[at] ^= 0x10
            path.write_bytes(altered)
            with pytest.raises(StoreError, match="is damaged") as error:
                Gallery.open(folder, verify=True)
            assert str(error.value).startswith(f"{folder}: ")
        path.write_bytes(good)
    assert Gallery.open(folder, verify=True).ids == ids


def test_an_altered_image_is_never_searched_saved_or_compacted(folder: Path) -> None:
    with Gallery.open(folder, "r+") as gallery:
        segment = next(folder.glob("features-*"))
        record = len(segment.read_bytes()) // 7
        with segment.open("r+b") as file:  # the fourth record is that of d
            file.seek(3 * record + 5)
            file.write(b"\xff")
        for use in (
            lambda: gallery.search(pyramid(1)),
            lambda: gallery.search(pyramid(1), images=["a", "d"]),
            lambda: gallery.pyramid(["d"]),
            lambda: gallery.coreset(3),
            lambda: gallery.save(folder.parent / "saved"),
            lambda: gallery.compact(),
        ):
            with pytest.raises(StoreError, match='image "d" is damaged'):
                use()
        assert not (folder.parent / "saved").exists()
        assert gallery.search(pyramid(1), images=["a", "c", "e"]).k == 1
        gallery.replace(pyramid(1), ["d"])
        gallery.compact()
    assert Gallery.open(folder, verify=True).ids == ["a", "c", "d", "e"]


def test_a_missing_or_short_segment_is_named(folder: Path) -> None:
    segment = next(folder.glob("features-*"))
    good = segment.read_bytes()
    segment.write_bytes(good[:-1])
    with pytest.raises(StoreError, match="features-00000001 cannot be read: it is shorter"):
        Gallery.open(folder)
    segment.unlink()
    with pytest.raises(StoreError, match="features-00000001 cannot be read: No such file"):
        Gallery.open(folder, "r+")


def test_a_folder_of_something_else_is_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="not a gallery: it has no journal"):
        Gallery.open(folder.parent)
    (folder / "journal").write_text("something else\n")
    for mode in ("r", "r+"):
        with pytest.raises(StoreError, match="its journal has no beginning"):
            Gallery.open(folder, mode)


def test_what_a_crash_has_left_is_cleared_away(folder: Path) -> None:
    expected = contents(in_memory())
    segment = folder / "features-00000001"
    with segment.open("ab") as file:
        file.write(b"half an image")
    with (folder / "journal").open("ab") as file:
        file.write(b"0123456789 half a li")
    (folder / "features-00000007").write_bytes(b"never in the journal")
    (folder / ".knnspect-abc").write_bytes(b"a journal that was never renamed")
    assert contents(Gallery.open(folder, verify=True)) == expected, "readers pass over it"
    with Gallery.open(folder, "r+") as gallery:
        assert contents(gallery) == expected
        gallery.add(pyramid(1, 4), ["x"])
    assert sorted(path.name for path in folder.iterdir()) == [segment.name, "journal", "lock"]
    assert Gallery.open(folder, verify=True).ids == ["a", "c", "d", "e", "x"]


def test_create_refuses_what_is_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds a gallery already"):
        Gallery.create(folder)
    with pytest.raises(StoreError, match="is not empty"):
        Gallery.create(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="exists already, and is not a folder"):
        Gallery.create(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        Gallery.create(tmp_path / "no" / "such")
    with pytest.raises(ParameterError, match="dtype: expected"):
        Gallery.create(tmp_path / "new", dtype="float64")
    assert not (tmp_path / "new").exists()
    (tmp_path / "interrupted").mkdir()
    (tmp_path / "interrupted" / "lock").touch()
    Gallery.create(tmp_path / "interrupted").add(pyramid())
    assert len(Gallery.open(tmp_path / "interrupted")) == 2


def test_modes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="mode: expected"):
        Gallery.open(folder, "w")
    in_memory().save(tmp_path / "file")
    with pytest.raises(ParameterError, match=r'file: mode "r\+" is for galleries in a folder'):
        Gallery.open(tmp_path / "file", "r+")
    assert Gallery.open(tmp_path / "file").mode == "r+", "in memory it may be changed"


def test_a_folder_is_saved_to_one_file(folder: Path, tmp_path: Path) -> None:
    Gallery.open(folder).save(tmp_path / "saved")
    in_memory().save(tmp_path / "expected")
    assert (tmp_path / "saved").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_folder_may_be_copied_and_moved(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    folder.rename(tmp_path / "moved")
    for path in (tmp_path / "copy", tmp_path / "moved"):
        with Gallery.open(path, "r+", verify=True) as gallery:
            gallery.remove(["a"])
            gallery.compact()
            assert gallery.ids == ["c", "d", "e"]


def test_segments_are_bounded_and_only_those_with_removed_images_are_written_anew(
    tmp_path: Path,
) -> None:
    """700 MB in images of 40 MB: segments of 256 MiB at most."""
    level: NDArray[np.float32] = np.zeros((1, 100, 100, 1000), "f4")
    ids = [f"{number:02d}" for number in range(14)]
    with Gallery.create(tmp_path / "g") as gallery:
        for number, id_ in enumerate(ids):
            level[:] = number
            gallery.add(FeaturePyramid([level]), [id_])
        segments = {path: path.stat() for path in sorted((tmp_path / "g").glob("features-*"))}
        assert [about.st_size // level.nbytes for about in segments.values()] == [6, 6, 2]
        gallery.remove(["07", "13"])
        gallery.compact()
        kept = [path for path, about in segments.items() if path.exists()]
        assert kept == list(segments)[:1]
        assert sizes(tmp_path / "g") == 12 * level.nbytes
        for number in (0, 6, 8, 12):
            assert (gallery.pyramid([ids[number]]).levels[0] == number).all()


WRITE_TO_A_FULL_DISK = """
import resource, signal, sys
import numpy as np
from knnspect import FeaturePyramid, Gallery, StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
image = FeaturePyramid([np.ones((1, 32, 32, 16), "f4")])
gallery = Gallery.open(sys.argv[1], "r+")
limit = max(path.stat().st_size for path in gallery.path.iterdir()) + 50_000
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for change in (lambda: gallery.add(image, ["too much"]), lambda: gallery.replace(image, ["a"])):
    try:
        change()
    except StoreError as error:
        assert "cannot be written: File too large" in str(error), error
        assert str(error).startswith(sys.argv[1]), error
    else:
        raise AssertionError("the disk is full")
    assert gallery.ids == ["a", "b"], gallery.ids
gallery.remove(["b"])  # for which there is room
assert gallery.ids == ["a"]
"""


def test_a_full_disk_leaves_the_gallery_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "gallery"
    image = FeaturePyramid([np.ones((2, 32, 32, 16), "f4")])
    with Gallery.create(path) as gallery:
        gallery.add(image, ["a", "b"])
    size = sizes(path)
    subprocess.run([sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(path)], check=True)
    assert sizes(path) == size, "what was written in part is cut off"
    with Gallery.open(path, "r+", verify=True) as gallery:
        assert gallery.ids == ["a"]
        gallery.add(image[:1], ["c"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write")
def test_a_read_only_folder_can_be_read_but_not_written(folder: Path) -> None:
    for path in (folder, *folder.iterdir()):
        path.chmod(0o500 if path == folder else 0o400)
    try:
        assert len(Gallery.open(folder, verify=True)) == 4
        with pytest.raises(StoreError, match="cannot be opened for writing: Permission denied"):
            Gallery.open(folder, "r+")
    finally:
        folder.chmod(0o700)
