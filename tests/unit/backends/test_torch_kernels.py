"""The kernels of the torch backend, and the search that uses them, without a GPU.

Triton interprets kernels where a variable says so before it is imported, so these tests run in a
process of their own. A program takes a millisecond there: features are few.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from knnspect.backends.torch.gpu_search import has_kernels

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def interpreted(code: str) -> str:
    """Run code in a process in which kernels are interpreted; return what it prints."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_distances_are_those_of_pytorch() -> None:
    code = """
import torch
from knnspect.backends.torch.kernels import sq_distances
from knnspect.backends.torch.rescore import rescore
from knnspect.backends.torch.upsampling import Grid

torch.manual_seed(0)
shapes = [(4, 8, 5), (2, 4, 130), (1, 2, 300)]
for upsample in ("bilinear", "block"):
    grid = Grid(shapes, upsample, torch.device("cpu"))
    gallery = [torch.randn(3, *shape) for shape in shapes]
    features = grid.features([torch.randn(1, *shape) for shape in shapes])[0]
    some = [torch.randint(n, (12,)) for n in (32, 3, 32)]
    found = sq_distances(features, grid, gallery, some)
    expected = rescore(features, grid, gallery, some)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    # An image is not at all far from itself.
    features = grid.features([level[1:2] for level in gallery])[0]
    cells = torch.arange(0, 32, 5)
    assert not sq_distances(features, grid, gallery, (cells, torch.ones_like(cells), cells)).any()
    assert sq_distances(features, grid, gallery, (cells[:0], cells[:0], cells[:0])).shape == (0,)
print("done")
"""
    assert interpreted(code) == "done"


def test_the_nearest_come_in_the_order_of_the_contract() -> None:
    code = """
import torch
from knnspect.backends.torch.kernels import nearest

inf = torch.inf
cells = torch.tensor([0] * 70 + [2, 2, 2])
distances = torch.arange(70, 0, -1).double().tolist() + [3.0, 1.0, 3.0]
keys = list(range(100, 170)) + [7, 9, 2]
found, of = nearest(4, 3, cells, torch.tensor(distances, dtype=torch.float64), torch.tensor(keys))
assert found.tolist() == [[1, 2, 3], [inf] * 3, [1, 3, 3], [inf] * 3], found
assert of.tolist() == [[169, 168, 167], [0] * 3, [9, 2, 7], [0] * 3], of
print("done")
"""
    assert interpreted(code) == "done"


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
def test_a_search_finds_what_the_core_finds(kind: str) -> None:
    code = f"""
import numpy as np, torch
import knnspect as ks
from knnspect.backends.torch import TorchBackend, filter

class WithKernels(TorchBackend):
    _rescores_on_device = _has_kernels = True

def some(seed, n):
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(n, *shape)) for shape in [(4, 4, 20), (2, 2, 130)]]
    change = dict(normal=np.asarray, ties=np.round, zeros=np.zeros_like)[{kind!r}]
    return ks.FeaturePyramid([change(value).astype("f4") for value in values])

gallery, query = ks.Gallery(), some(1, 1)
gallery.add(some(0, 3))
# All images together; one after the other; and more neighbours than there are blocks of rows.
for k, filter.PRODUCTS_ON_CPU in ((1, 2**24), (1, 1), (4, 2**24)):
    found = gallery.search(query, k, backend=WithKernels("cpu", dtype="bfloat16"))
    expected = gallery.search(query, k)
    np.testing.assert_array_equal(found.image_index, expected.image_index)
    np.testing.assert_array_equal(found.cells, expected.cells)
    np.testing.assert_allclose(found.sq_distances, expected.sq_distances, rtol=1e-6)
    assert found.stats.shares["core"] == ({kind!r} == "zeros")
    assert {kind!r} == "zeros" or k == 4 or found.stats.shares["float64"] < 0.4
print("done")
"""
    assert interpreted(code) == "done"


def test_what_cannot_be_compiled_is_said_once_and_done_without() -> None:
    cpu = torch.device("cpu")  # for which Triton compiles nothing
    has_kernels.cache_clear()
    with pytest.warns(UserWarning, match="kernels cannot be compiled for cpu .*without them"):
        assert not has_kernels(cpu)
    assert not has_kernels(cpu)
