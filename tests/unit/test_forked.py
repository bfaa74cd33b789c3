"""Forked processes compute what their parent computes; none of them waits for ever.

The scripts run in processes of their own with two threads, as the threads of pytest's process must
not be forked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import knnspect.forked
from knnspect.errors import ForkError

#: Runs `check` in a forked child; its answer, or "hangs".
PRELUDE = """
import gc, json, multiprocessing, os, sys, warnings
import numpy as np, torch
import knnspect as ks
assert torch.get_num_threads() == 2
warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks with threads
rng = np.random.default_rng(0)
images = rng.integers(100, 120, (4, 64, 64, 3)).astype("u1")
context = multiprocessing.get_context("fork")
answers = {}

def forked(check):
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(check()))
    child.start()
    answer = ours.recv() if ours.poll(100) else "hangs"
    child.kill()
    child.join()
    return answer

def compare(name, check):
    expected = check()
    found = forked(check)
    answers[name] = found if found == "hangs" else found == expected

def scores(detector):
    return [(p.score, p.map.tobytes()) for p in detector.predict(images[:2])]
"""

SEARCHES = """
levels = [rng.random((6, 28, 28, 24), np.float32), rng.random((6, 7, 7, 40), np.float32)]
gallery = ks.Gallery()
gallery.add(ks.FeaturePyramid(levels))
query = ks.FeaturePyramid([level[:2] for level in levels])
for name in ("rust", "torch:cpu", "sklearn", "faiss:cpu"):
    def search():
        found = gallery.search(query, k=3, threads=2, backend=name)
        return found.sq_distances.tobytes(), found.cells.tobytes()
    compare(name, search)
"""

DETECTORS = """
backbone = ks.Backbone(image_size=64, patch_size=3)
patchcore = ks.PatchCore(backbone, coreset=0.1).fit(images)
cflow = ks.CFlow(backbone, max_epochs=1, coupling_blocks=1).fit(images)
compare("patchcore", lambda: scores(patchcore))
compare("cflow", lambda: scores(cflow))
compare("child of a child", lambda: forked(lambda: scores(patchcore)))

def fit():
    fresh = ks.SimpleNet(ks.Backbone(image_size=64, patch_size=3), max_epochs=1, hidden=16)
    return scores(fresh.fit(images))
compare("fit", fit)

def others():
    import threading
    found = []
    thread = threading.Thread(target=lambda: found.append(scores(patchcore)))
    thread.start()
    thread.join()
    return found[0]
answers["a thread of the child"] = forked(others) == scores(patchcore)

def mistake():
    try:
        patchcore.predict([np.zeros((3, 3, 7), "u1")])
    except ks.ShapeError as error:
        return str(error)
compare("an error", mistake)

halves = torch.from_numpy(rng.random((2, 3, 200, 200), np.float32)).bfloat16()

class Loader:
    def __iter__(self):
        yield torch.stack([halves[0], halves[1]])

def from_tensors():
    return [p.score for p in patchcore.predict(Loader())]
compare("a loader", from_tensors)

spade = ks.Spade(backbone, image_neighbors=1).fit(images, max_memory="8GB")

def let_go():
    global spade
    del spade
    gc.collect()
    return True

folder = spade.gallery_.path
answers["a temporary folder"] = forked(let_go) and folder.exists() and len(scores(spade)) == 2
"""

LOADERS = """
from torch.utils.data import DataLoader, Dataset

class Scores(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        torch.set_num_threads(2)  # a worker has 1
        return patchcore.predict(images[index : index + 1])[0].score

class Images(Scores):
    def __getitem__(self, index):
        return torch.from_numpy(images[index]).permute(2, 0, 1)

expected = [p.score for p in patchcore.predict(images)]

def judge():
    options = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 60}
    loader = DataLoader(Images(), batch_size=3, **options)
    answers["a loader of images"] = [p.score for p in patchcore.predict(loader)] == expected
    found = torch.cat(list(DataLoader(Scores(), batch_size=2, **options))).tolist()
    answers["workers that judge"] = found == expected
judge()
with context.Pool(2) as pool:
    found = pool.map_async(Scores().__getitem__, range(4)).get(60)
answers["a pool"] = found == expected
"""

NAMES = [
    *("rust", "torch:cpu", "sklearn", "faiss:cpu"),
    *("patchcore", "cflow", "child of a child", "fit", "a thread of the child", "an error"),
    *("a loader", "a temporary folder", "a loader of images", "workers that judge", "a pool"),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_finds_what_its_parent_finds() -> None:
    """To the bit, with as many threads, whatever it does and however it was forked."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            PRELUDE + SEARCHES + DETECTORS + LOADERS + "print(json.dumps(answers))",
        ],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(NAMES, True)


LATE = """
import multiprocessing, sys
import torch
torch.set_num_threads(2)
a = torch.rand(600, 600)
a @ a  # starts threads before knnspect is loaded

def child(pipe):
    import numpy as np, knnspect as ks
    images = np.random.default_rng(0).integers(100, 120, (3, 64, 64, 3)).astype("u1")
    spade = ks.Spade(ks.Backbone(image_size=64), image_neighbors=1).fit(images)
    pipe.send(len(spade.predict(images)))

context = multiprocessing.get_context("fork")
ours, theirs = context.Pipe()
process = context.Process(target=child, args=(theirs,))
process.start()
print(json.dumps(ours.recv() if ours.poll(100) else "hangs"))
process.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_may_load_knnspect_after_the_fork() -> None:
    command = [sys.executable, "-W", "ignore", "-c", "import json" + LATE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert json.loads(done.stdout) == 3


def test_elsewhere_functions_are_called_as_they_are() -> None:
    import threading

    assert knnspect.forked.run(threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        knnspect.forked.run(divmod, 1, 0)


def test_cuda_in_a_forked_child_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    knnspect.forked.check_cuda("cuda")
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    knnspect.forked.check_cuda("cpu")
    with pytest.raises(ForkError, match='by the method "spawn" or "forkserver"'):
        knnspect.forked.check_cuda("cuda")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_lock_that_another_thread_holds_is_free_in_a_forked_child() -> None:
    code = """
import os, threading
from knnspect.forked import lock
held, held_now, done = lock(), threading.Event(), threading.Event()
def hold():
    with held:
        held_now.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held_now.wait()
child = os.fork()
if child == 0:
    os._exit(0 if held.acquire(timeout=20) else 1)
status = os.waitpid(child, 0)[1]
assert held.locked()
done.set()
thread.join()
print(status)
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr
