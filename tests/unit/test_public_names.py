"""What ``import knnspect`` offers, and what it costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import knnspect


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", knnspect.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(knnspect, name)
    if name == "__version__":
        assert isinstance(value, str)
        return
    assert value.__name__ == name
    assert value.__module__.startswith("knnspect.")
    assert value.__doc__


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from knnspect import *", names)
    assert set(knnspect.__all__) <= set(names)


def test_dir_lists_the_public_names() -> None:
    assert dir(knnspect) == sorted(knnspect.__all__)
    assert len(set(knnspect.__all__)) == len(knnspect.__all__)


def test_type_checkers_are_told_the_same_names() -> None:
    stub = ast.parse(Path(knnspect.__file__).with_suffix(".pyi").read_text())
    imported = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(imported) == knnspect.__all__
    for name, home in imported.items():
        assert home is not None
        assert getattr(import_module(home), name) is getattr(knnspect, name)


def test_every_error_is_of_the_family_and_public() -> None:
    from knnspect import errors

    for name in errors.__all__:
        if not name.endswith("Warning"):
            assert issubclass(getattr(knnspect, name), knnspect.KnnspectError)


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'knnspect' has no attribute 'Spaed'"):
        _ = knnspect.Spaed  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Spaed"):
        exec("from knnspect import Spaed")


def test_the_import_loads_neither_numpy_nor_torch() -> None:
    heavy = ["numpy", "torch", "timm", "PIL", "scipy", "sklearn", "rich", "typer", "safetensors"]
    code = (
        f"import sys, json, knnspect; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    )
    assert json.loads(run(code)) == []


def test_a_gallery_needs_numpy_alone() -> None:
    code = (
        "import sys, numpy as np, knnspect as ks\n"
        "gallery = ks.Gallery()\n"
        "pyramid = ks.FeaturePyramid([np.ones((1, 2, 2, 3), 'f4')])\n"
        "gallery.add(pyramid)\n"
        "assert gallery.search(pyramid).sq_distances.max() == 0\n"
        "heavy = ('torch', 'timm', 'PIL', 'scipy', 'sklearn', 'rich', 'typer')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    assert run(code).strip() == "[]"


def test_detectors_and_locators_load_no_scipy_before_they_need_it() -> None:
    code = (
        "import sys, knnspect.detectors; print([n for n in ('torch', 'scipy') if n in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_the_import_takes_less_than_150_ms() -> None:
    code = "import time; s = time.perf_counter(); import knnspect; print(time.perf_counter() - s)"
    assert min(float(run(code)) for _ in range(5)) < 0.15
