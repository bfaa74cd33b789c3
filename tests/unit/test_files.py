"""Files: written whole, with the mode they had, and read only where they are files of ours."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import knnspect as ks
from knnspect.errors import DTypeError, KnnspectError, StoreError
from knnspect.files import check_path, parse_json, read_json, replace_file
from knnspect.training.checkpoint import Checkpoint

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX files")


def pyramid(n: int = 2) -> ks.FeaturePyramid:
    return ks.FeaturePyramid([np.random.default_rng(0).random((n, 4, 4, 3), "f4")])


def gallery(n: int = 2) -> ks.Gallery:
    gallery = ks.Gallery()
    gallery.add(pyramid(n))
    return gallery


#: All that writes a file in one step.
WRITERS: dict[str, Callable[[Path], object]] = {
    "any file": lambda path: replace_file(path, b"new"),
    "a gallery": lambda path: gallery().save(path),
    "a coreset": lambda path: gallery().coreset(3).save(path),
    "a checkpoint": lambda path: Checkpoint(path, {}).write({}, {}),
    "a drift monitor": lambda path: ks.DriftMonitor([1.0]).save(path),
}
EVERY_WRITER = pytest.mark.parametrize("kind", WRITERS)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@POSIX
@EVERY_WRITER
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_a_file_that_is_replaced_passes_on_its_mode(kind: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(kept)
    WRITERS[kind](path)
    assert path.read_bytes() != b"old"
    assert mode(path) == kept


@POSIX
@EVERY_WRITER
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_what_the_umask_leaves(kind: str, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        WRITERS[kind](tmp_path / "file")
    finally:
        os.umask(before)
    assert mode(tmp_path / "file") == 0o666 & ~umask


@POSIX
def test_compacting_keeps_the_mode_of_the_journal(tmp_path: Path) -> None:
    with ks.Gallery.create(tmp_path / "g") as changed:
        changed.add(pyramid(), ["a", "b"])
        (tmp_path / "g" / "journal").chmod(0o640)
        changed.remove(["a"])
        changed.compact()
    assert mode(tmp_path / "g" / "journal") == 0o640


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives away")
@EVERY_WRITER
def test_a_file_that_is_replaced_passes_on_its_owner(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    WRITERS[kind](path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@POSIX
@EVERY_WRITER
def test_a_link_that_the_user_names_stays_and_its_file_is_replaced(
    kind: str, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    WRITERS[kind](link)
    assert link.is_symlink()
    assert target.read_bytes() != b"old"


@POSIX
@EVERY_WRITER
@pytest.mark.parametrize("what", ["FIFO", "device", "folder"])
def test_what_is_not_a_file_is_not_replaced(kind: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    if what == "FIFO":
        os.mkfifo(path)
    elif what == "device":
        path = Path("/dev/null")
    else:
        path.mkdir()
    before = path.stat()
    with pytest.raises(StoreError, match=f"expected a regular file, {path.name} is a {what}"):
        WRITERS[kind](path)
    assert path.stat().st_ino == before.st_ino
    assert [file.name for file in tmp_path.iterdir() if file != path] == []


SAVE_FOR_EVER = """
import os, sys
import numpy as np
import knnspect as ks

gallery = ks.Gallery()
gallery.add(ks.FeaturePyramid([np.zeros((8, 64, 64, 256), "f4")]))
while True:
    gallery.save(sys.argv[1])
"""


def temporary(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".knnspect-")]


def saving(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that saves, and wait until it is in the middle of it."""
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(path)])
    end = time.monotonic() + 60
    while not temporary(path.parent) and process.poll() is None:
        assert time.monotonic() < end, "it does not begin"
        time.sleep(0.001)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


@POSIX
@EVERY_WRITER
def test_what_a_killed_save_has_left_is_removed_by_the_next(kind: str, tmp_path: Path) -> None:
    for _ in range(20):  # until it was killed in the middle
        with saving(tmp_path / "killed") as process:
            process.kill()
        if temporary(tmp_path):
            break
    assert len(temporary(tmp_path)) == 1
    (tmp_path / ".knnspect-notes").mkdir()  # no file of ours
    WRITERS[kind](tmp_path / "another")
    assert [path.name for path in temporary(tmp_path)] == [".knnspect-notes"]
    assert (tmp_path / "another").exists()


@POSIX
def test_what_another_process_is_saving_is_left_alone(tmp_path: Path) -> None:
    process = saving(tmp_path / "other")
    try:
        stop(process)
        while not any(path.stat().st_size for path in temporary(tmp_path)):
            process.send_signal(signal.SIGCONT)  # it was stopped between two of its saves
            time.sleep(0.005)
            stop(process)
        kept = temporary(tmp_path)
        for write in WRITERS.values():
            write(tmp_path / "mine")
        assert temporary(tmp_path) == kept
        process.send_signal(signal.SIGCONT)
        while kept[0].exists():
            time.sleep(0.005)
        assert ks.Gallery.open(tmp_path / "other").shapes == [(64, 64, 256)]
    finally:
        process.kill()
        process.wait()


NESTED = "[" * 100_000 + "]" * 100_000
BAD_JSON: dict[str, str | bytes] = {
    "nothing": "",
    "half": '{"a":',
    "deep": NESTED,
    "open": "[" * 100_000,
    "deep enough to be read": "[" * 200 + "]" * 200,
    "objects": '{"a":' * 50_000,
    "long numbers": "9" * 10_000,
    "twice": '{"a": 1, "a": 2}',
    "twice, within": '{"b": [{"a": 1, "a": 2}]}',
    "no text": b"\xff\xfe\x00",
    "no Unicode": b'"\xff"',
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_bad_json_is_one_error_with_the_file(kind: str, tmp_path: Path) -> None:
    text = BAD_JSON[kind]
    with pytest.raises(StoreError, match=r"^a\.ks: is damaged: its settings cannot be read") as e:
        parse_json(text, "a.ks", "its settings")
    assert len(str(e.value)) < 400
    path = tmp_path / "settings.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreError, match="is damaged"):
        read_json(path)


def test_json_of_ours_is_read(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, "ä\ud800"], "b": {"c": True}}
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert read_json(tmp_path / "a.json") == value


def test_a_file_that_is_too_long_to_be_ours_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)  # without taking room
    with pytest.raises(StoreError, match="expected at most 16777216 bytes"):
        read_json(tmp_path / "a.json")


BAD_PATHS: dict[str, str] = {
    "too long": "x" * 300,
    "much too long": "x/" * 5000 + "x",
    "a null character": "a\0b",
    "a surrogate that is no byte": "a\ud800b",
}
#: All that takes a path.
TAKERS: dict[str, Callable[[str], object]] = {
    "Gallery.open": ks.Gallery.open,
    "Gallery.open to write": lambda path: ks.Gallery.open(path, "r+"),
    "Gallery.create": ks.Gallery.create,
    "Gallery.save": lambda path: gallery().save(path),
    "Coreset.open": ks.Coreset.open,
    "Coreset.save": lambda path: gallery().coreset(3).save(path),
    "load": ks.load,
    "Checkpoint.write": lambda path: Checkpoint(path, {}).write({}, {}),
    "replace_file": lambda path: replace_file(path, b""),
    "read_json": lambda path: read_json(Path(path)),
}


@pytest.mark.parametrize("path", BAD_PATHS.values(), ids=BAD_PATHS)
@pytest.mark.parametrize("taker", TAKERS)
def test_a_path_that_no_file_can_have_is_one_error(
    taker: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError):
        TAKERS[taker](path)
    assert list(tmp_path.iterdir()) == []


@POSIX
def test_a_path_that_is_not_unicode_can_be_used(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    gallery().save(path)
    assert len(ks.Gallery.open(path)) == 2
    ks.Gallery.create(path.with_name(os.fsdecode(b"\xff"))).close()
    with pytest.raises(KnnspectError):
        ks.load(path)


def test_other_types_are_no_paths() -> None:
    for other in (None, 3, b"bytes", ["a"]):
        with pytest.raises(DTypeError, match="folder: expected a path, got"):
            check_path(other, "folder")


def test_uris_of_this_machine_are_paths(tmp_path: Path) -> None:
    folder = tmp_path / "solar cells"
    with ks.ShardedGallery.create(folder.as_uri(), shards=[(tmp_path / "a b").as_uri()]) as made:
        made.add(pyramid())
    for uri in (folder.as_uri(), f"file://localhost{tmp_path}/solar%20cells"):
        opened = ks.Gallery.open(uri)
        assert opened.path == folder
    assert (tmp_path / "a b" / "journal").exists()
    # Not URIs.
    assert check_path("a:b") == Path("a:b")
    assert check_path("C://x") == Path("C://x")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://bucket/cells", "got s3: files are memory-mapped, so mount it"),
        ("file://other-host/data/cells", "got a file of other-host: .*mount it"),
    ],
)
def test_uris_of_elsewhere_are_refused(uri: str, words: str, tmp_path: Path) -> None:
    for use in (
        ks.Gallery.open,
        ks.load,
        ks.ShardedGallery.create,
        lambda one: ks.ShardedGallery.create(tmp_path / "g", shards=[one]),
    ):
        with pytest.raises(StoreError, match=words):
            use(uri)
