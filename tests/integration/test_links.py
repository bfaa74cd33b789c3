"""Links, FIFOs and devices in the place of files of ours: refused, at once, and left alone.

What opens them runs in a process of its own that the kernel ends, as a call that waits for a FIFO
could not be interrupted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("POSIX files", allow_module_level=True)

PRELUDE = """
import json, os, shutil, signal, socket, sys
from pathlib import Path
import numpy as np
import knnspect as ks
from knnspect.model_files import write_model
from knnspect.normal_features.folder import make_folder
from knnspect.training.checkpoint import Checkpoint
from knnspect.model_files.inspect import contents

signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(100)
base = Path(sys.argv[1])
victim = base / "victim"
victim.write_text("precious\\n" * 10)
image = ks.FeaturePyramid([np.zeros((1, 4, 4, 3), "f4")])

def gallery(folder):
    with ks.Gallery.create(folder) as made:
        made.add(image, ids=["a"])

def change(folder):
    with ks.Gallery.open(folder, "r+") as opened:
        opened.add(image, ids=["b"])

def build(folder):
    folder.mkdir()
    gallery(folder / "gallery")
    (folder / "settings.json").write_text("{}")
    write_model(folder, "spade", {}, ({}, {}), {})

def checkpoint(folder):
    folder.mkdir()
    Checkpoint(folder / "checkpoint", {}).write({}, {})

def of_build(folder):
    return Checkpoint(folder / "checkpoint", {}, follow_links=False)

#: What is there, which file of it becomes something else, and what opens it.
CASES = {
    "journal, to read": (gallery, "journal", ks.Gallery.open),
    "journal, to write": (gallery, "journal", change),
    "journal, info": (gallery, "journal", lambda folder: list(contents(folder, True))),
    "segment, to read": (gallery, "features-00000001", ks.Gallery.open),
    "segment, to write": (gallery, "features-00000001", change),
    "lock": (gallery, "lock", change),
    "settings": (build, "settings.json", lambda folder: make_folder(folder, {})),
    "model": (build, "model", ks.load),
    "model, info": (build, "model", lambda folder: list(contents(folder, True))),
    "model, to write": (
        build, "model", lambda folder: write_model(folder, "spade", {}, ({}, {}), {})
    ),
    "checkpoint": (checkpoint, "checkpoint", lambda folder: of_build(folder).read()),
    "checkpoint, to write": (
        checkpoint, "checkpoint", lambda folder: of_build(folder).write({}, {})
    ),
}

def link(path):
    path.symlink_to(victim)

def good_link(path):
    shutil.copy(path.with_name("kept"), base / "kept")
    path.symlink_to(base / "kept")

def listening(path):
    os.chdir(path.parent)  # names of sockets are short
    socket.socket(socket.AF_UNIX).bind(path.name)

KINDS = {
    "a symbolic link": link,
    "a symbolic link to what was there": good_link,
    "a symbolic link to nothing": lambda path: path.symlink_to(base / "nothing"),
    "a symbolic link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "a folder": os.mkdir,
    "a socket": listening,
}

found = {}
for case, (make, name, use) in CASES.items():
    for kind, put in KINDS.items():
        folder = base / f"{case} {kind}".replace(" ", "-").replace(",", "")
        make(folder)
        (folder / name).rename(folder / "kept")
        put(folder / name)
        before = sorted(base.iterdir()), victim.read_bytes()
        kept = (base / "kept").read_bytes() if (base / "kept").exists() else None
        try:
            use(folder)
        except ks.KnnspectError as error:
            found[f"{case}: {kind}"] = f"{type(error).__name__}: {error}"
        except BaseException as error:
            found[f"{case}: {kind}"] = f"foreign {type(error).__name__}: {error}"
        else:
            found[f"{case}: {kind}"] = "accepted"
        assert before == (sorted(base.iterdir()), victim.read_bytes()), (case, kind)
        assert kept is None or kept == (base / "kept").read_bytes(), (case, kind)
print(json.dumps(found))
"""


def test_what_is_not_a_regular_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 12 * 7
    for case, outcome in found.items():
        kind = " ".join(case.partition(": ")[2].split()[: 3 if "link" in case else 2])
        assert outcome.startswith("StoreError: "), (case, outcome)
        assert f"is {kind}" in outcome, (case, outcome)


WRITE_NEXT_SEGMENT = """
import os, sys
import numpy as np
import knnspect as ks

folder, victim, how = sys.argv[1:]
image = ks.FeaturePyramid([np.zeros((1, 4, 4, 3), "f4")])
gallery = ks.Gallery.create(folder)
if how == "symlink":
    os.symlink(victim, folder + "/features-00000001")
else:
    os.link(victim, folder + "/features-00000001")
try:
    gallery.add(image, ids=["a"])
    print("added")
except ks.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["symlink", "hard link"])
def test_the_next_segment_overwrites_nothing(tmp_path: Path, how: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    command = [sys.executable, "-c", WRITE_NEXT_SEGMENT, str(tmp_path / "g"), str(victim), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert victim.read_text() == "precious"
    if how == "symlink":
        assert "features-00000001 is a symbolic link" in done.stdout
    else:
        assert done.stdout == "added\n", "a file of its own took the place"


WRITE_TO_HARD_LINKS = """
import os, sys
import numpy as np
import knnspect as ks

folder, name = sys.argv[1:]
image = ks.FeaturePyramid([np.zeros((1, 4, 4, 3), "f4")])
with ks.Gallery.create(folder) as gallery:
    gallery.add(image, ids=["a"])
os.link(f"{folder}/{name}", f"{folder}.other")
before = open(f"{folder}.other", "rb").read()
try:
    with ks.Gallery.open(folder, "r+") as gallery:
        gallery.add(image, ids=["b"])
    print("added")
except ks.StoreError as error:
    print(error)
assert open(f"{folder}.other", "rb").read() == before
assert ks.Gallery.open(folder, verify=True).ids == ["a"]
"""


@pytest.mark.parametrize("name", ["journal", "features-00000001", "lock"])
def test_a_file_with_another_name_is_not_changed(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", WRITE_TO_HARD_LINKS, str(tmp_path / "g"), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert f"{name} has another name (a hard link)" in done.stdout


def test_a_lock_with_other_contents_is_not_overwritten(tmp_path: Path) -> None:
    code = (
        "import sys, knnspect as ks\n"
        "ks.Gallery.create(sys.argv[1]).close()\n"
        "open(sys.argv[1] + '/lock', 'w').write('precious\\n' * 10)\n"
        "try: ks.Gallery.open(sys.argv[1], 'r+')\n"
        "except ks.StoreError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "g")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "its file lock has other contents" in done.stdout
    assert (tmp_path / "g" / "lock").read_text() == "precious\n" * 10
