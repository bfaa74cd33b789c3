"""The surface of the Rust core, and what importing the package loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import knnspect
from knnspect import DTypeError, FeaturePyramid, Gallery, ParameterError, ShapeError, _core
from knnspect.backends import RustBackend, available_backends, get_backend
from knnspect.errors import StoreError


def pyramid(n: int = 2) -> FeaturePyramid:
    rng = np.random.default_rng(0)
    return FeaturePyramid([rng.random((n, 4, 4, 3), "f4"), rng.random((n, 2, 2, 5), "f4")])


def run(code: str) -> str:
    """What a new interpreter prints; warnings are errors there, too."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, knnspect; print([m for m in ('numpy', 'torch', 'timm') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_searching_a_gallery_loads_no_torch(tmp_path: Path) -> None:
    gallery = Gallery()
    gallery.add(pyramid(), ["a", "b"])
    gallery.save(tmp_path / "saved")
    code = f"""
import sys
import numpy as np
import knnspect
gallery = knnspect.Gallery.open({str(tmp_path / "saved")!r})
query = gallery.pyramid(["b"])
gallery.add(query, ["c"])
found = gallery.search(query, k=2)
assert found.images[0, 3, 3].tolist() == ["b", "c"], found.images
gallery.save({str(tmp_path / "other")!r})
print([m for m in ("torch", "timm", "PIL", "sklearn", "scipy", "rich") if m in sys.modules])
"""
    assert run(code) == "[]"


def test_the_public_names_are_all_there() -> None:
    assert knnspect.__version__ == _core.__version__
    light = ["FeaturePyramid", "Gallery", "Neighbors", "KnnspectError", "ShapeError", "StoreError"]
    assert set(light) < set(dir(knnspect)) == set(knnspect.__all__)
    for name in light:
        assert getattr(knnspect, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Galery'"):
        knnspect.Galery  # type: ignore[attr-defined]  # noqa: B018


def test_every_instruction_set_can_be_forced() -> None:
    names = _core.instruction_sets()
    assert names[0] == "portable"
    assert len(set(names)) == len(names)
    gallery = Gallery()
    gallery.add(pyramid())
    for name in names:
        assert gallery.search(pyramid(1), backend=RustBackend(instruction_set=name)).k == 1
    for name in ("sse", "", "AVX2"):
        with pytest.raises(ParameterError, match=rf'instruction_set: .*portable.*got "{name}"'):
            gallery.search(pyramid(1), backend=RustBackend(instruction_set=name))


def test_backends_are_found_by_name() -> None:
    assert "rust" in available_backends()
    for name in ("auto", *available_backends()):
        assert get_backend(name).name in available_backends()
    with pytest.raises(ParameterError, match=r"backend: expected one of 'auto', 'rust'.*got 'gpu'"):
        get_backend("gpu")


def test_the_core_checks_what_it_is_given() -> None:
    core = _core.Gallery("bilinear", "float32")
    good = np.zeros((1, 4, 4, 2), "f4")
    with pytest.raises(ShapeError, match="at least one level"):
        core.add([], ["a"])
    with pytest.raises(ShapeError, match=r"level 1: expected \(n_images, height, .* \[2, 2\]"):
        core.add([good, np.zeros((2, 2), "f4")], ["a"])
    with pytest.raises(ShapeError, match="level 1 has 2 images, level 0 has 1"):
        core.add([good, np.zeros((2, 2, 2, 1), "f4")], ["a"])
    with pytest.raises(ShapeError, match="level 0: expected a C-contiguous array"):
        core.add([good[:, ::2]], ["a"])
    with pytest.raises(DTypeError, match="level 0: expected float32 or float16, got float64"):
        core.add([good.astype("f8")], ["a"])
    with pytest.raises(ShapeError, match=r"level 1 is 3 x 2: .* 4 x 4"):
        core.add([good, np.zeros((1, 3, 2, 1), "f4")], ["a"])
    with pytest.raises(ShapeError, match=r"level 0: .* at least 1, got 0 x 4 x 2"):
        core.add([good[:, :0]], ["a"])
    assert len(core) == 0
    assert core.shapes == []
    core.add([good], ["a"])
    with pytest.raises(ParameterError, match="threads: expected at least 1, got 0"):
        _core.Search(core, [good], 1, None, 0)
    with pytest.raises(ParameterError, match=r"k must be between 1 and .*, got 0"):
        _core.Search(core, [good], 0, None, None)
    search = _core.Search(core, [good], 1, None, None)
    two = np.zeros((2, 4, 4, 2), "f4")
    message = "the query is 2 images of 4x4x2, the search is for 1 of 4x4x2"
    with pytest.raises(ShapeError, match=message):
        search.search([two], None, "auto")
    with pytest.raises(ShapeError, match=message):
        search.search_image([two], 0)
    for ask in (search.ranks, search.serials, lambda image: search.search_image([good], image)):
        with pytest.raises(ParameterError, match="image: expected one of 1 query images, got 1"):
            ask(1)


def test_tensors_and_metadata_come_back_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ks"
    core = _core.Gallery("block", "float16")
    core.add(list(pyramid().levels), ["a", "b"])
    tensors = {
        "f8": np.linspace(0, 1, 6).reshape(2, 3),
        "f4": np.linspace(0, 1, 6).astype("f4").reshape(3, 2).T,  # in another order
        "f2": np.array(7, "f2"),
        "i8": np.arange(-2, 2),
        "none": np.zeros((0, 3)),
    }
    core.save(path, "model", {"note": 'ä "quoted" \\ \n'}, tensors)
    store = _core.Store(path, True)
    assert store.kind == "model"
    assert store.metadata["note"] == 'ä "quoted" \\ \n'
    assert set(store.names) == {*tensors, "gallery.level0", "gallery.level1"}
    for name, tensor in tensors.items():
        read = store.tensor(name)
        assert read.dtype == tensor.dtype
        np.testing.assert_array_equal(read, tensor)
        assert read.shape == tensor.shape
    with pytest.raises(StoreError, match=r'model\.ks.*no tensor "other"'):
        store.tensor("other")
    with pytest.raises(DTypeError, match=r'tensor "bad": expected .*, got int32'):
        core.save(path, "model", {}, {"bad": np.zeros(3, "i4")})
    assert _core.Gallery.from_store(store).ids == ["a", "b"]


def test_the_metadata_cannot_forge_the_format(tmp_path: Path) -> None:
    core = _core.Gallery("block", "float32")
    core.add(list(pyramid().levels), ["a", "b"])
    path = tmp_path / "model.ks"
    core.save(
        path, "model", {"format": "x", "format_version": "9", "kind": "y", "checksum": "z"}, {}
    )
    store = _core.Store(path, True)
    assert store.kind == "model"
    assert store.metadata["format"] == "knnspect"
    assert len(store.metadata["checksum"]) == 64
