"""Galleries in folders across fork: only the process that opened one changes it.

Each case forks in a process of its own, as pytest has threads.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

PRELUDE = """
import gc, os, sys
import numpy as np
import knnspect as ks

folder = sys.argv[1]

def images(n, value=1.0):
    return ks.FeaturePyramid([np.full((n, 4, 4, 3), value, "f4")])

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child failed"

def refusal(work):
    try:
        work()
    except ks.StoreError as error:
        return str(error)
    raise AssertionError("it was not refused")

gallery = ks.Gallery.create(folder)
gallery.add(images(2), ids=["a", "b"])
parent = os.getpid()
"""


def run(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("n_added", [1, 5])
def test_a_forked_child_changes_nothing(tmp_path: Path, n_added: int) -> None:
    """Of the parent's gallery; whichever of both lines in the journal would be the longer one."""
    code = f"""
ids = [f"from the child, image {{number}}" for number in range({n_added})]

def child():
    changes = [
        lambda: gallery.add(images(len(ids)), ids=ids),
        lambda: gallery.replace(images(1), ids=["a"]),
        lambda: gallery.remove(["a"]),
        gallery.compact,
    ]
    for change in changes:
        reason = refusal(change)
        assert reason.startswith(folder + ": ") and f"by process {{parent}}" in reason, reason
    assert gallery.mode == "r"

in_child(child)
assert gallery.mode == "r+"
gallery.add(images(1), ids=["p"])
gallery.close()
found = ks.Gallery.open(folder, verify=True)
assert found.ids == ["a", "b", "p"], found.ids
"""
    run(code, tmp_path / "g")


def test_a_forked_child_reads_and_its_end_leaves_the_parent_as_it_was(tmp_path: Path) -> None:
    code = """
def child():
    global gallery
    assert gallery.search(images(1), k=2).sq_distances.max() == 0
    assert ks.Gallery.open(folder).ids == ["a", "b"]
    assert f"open for writing by process {parent}" in refusal(lambda: ks.Gallery.open(folder, "r+"))
    gallery.close()
    assert gallery.ids == ["a", "b"], "it may still be read"
    del gallery
    gc.collect()

def other():
    reason = refusal(lambda: ks.Gallery.open(folder, "r+"))
    assert f"open for writing by process {parent}" in reason, reason

in_child(child)
in_child(other)
gallery.add(images(1), ids=["p"])
gallery.compact()
gallery.close()
assert ks.Gallery.open(folder, verify=True).ids == ["a", "b", "p"]
"""
    run(code, tmp_path / "g")


@pytest.mark.parametrize("end", ["gallery.close()", "del gallery; gc.collect()"])
def test_others_may_write_after_close_although_a_child_lives(tmp_path: Path, end: str) -> None:
    code = f"""
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    os.read(reading, 1)  # until the parent ends
    os._exit(0)
{end}
with ks.Gallery.open(folder, "r+") as again:
    again.add(images(1), ids=["p"])
in_child(lambda: ks.Gallery.open(folder, "r+").add(images(1), ids=["from another process"]))
assert ks.Gallery.open(folder).ids == ["a", "b", "from another process", "p"]
"""
    run(code, tmp_path / "g")


def test_a_child_may_open_what_the_parent_has_closed(tmp_path: Path) -> None:
    code = """
gallery.close()

def child():
    assert "not open for writing" in refusal(lambda: gallery.remove(["a"]))
    with ks.Gallery.open(folder, "r+") as mine:
        mine.remove(["a"])

in_child(child)
assert ks.Gallery.open(folder).ids == ["b"]
"""
    run(code, tmp_path / "g")


def test_a_change_that_a_thread_is_making_does_not_hang_the_child(tmp_path: Path) -> None:
    """The thread is not in the child, and never gives back what it has locked."""
    code = """
import threading
stop = threading.Event()

def change():
    while not stop.is_set():
        gallery.replace(images(40, 2.0), ids=many)

many = [f"{number:02}" for number in range(40)]
gallery.add(images(40), ids=many)
thread = threading.Thread(target=change)
thread.start()
try:
    for _ in range(10):
        in_child(lambda: refusal(lambda: gallery.remove(["a"])))
finally:
    stop.set()
    thread.join()
"""
    run(code, tmp_path / "g")


def test_a_temporary_folder_stays_when_a_forked_child_ends(tmp_path: Path) -> None:
    """Features that do not fit into memory are in one, which goes with the parent's detector."""
    code = """
from knnspect.normal_features import Run, extract

rng = np.random.default_rng(0)
pictures = rng.integers(0, 255, (2, 32, 32, 3)).astype("u1")
backbone = ks.Backbone(image_size=64)
learnt = extract(
    backbone, pictures, ks.Gallery(), Run(batch_size=1, n_workers=0, max_memory="100GB")
)
home = learnt.gallery.path
pid = os.fork()
if pid == 0:
    sys.exit(0)  # runs what is to be done at the end of a process
os.waitpid(pid, 0)
assert home.is_dir(), "the child has removed it"
learnt = None
gc.collect()
assert not home.exists(), "the parent has not"
"""
    run(code, tmp_path / "g")
