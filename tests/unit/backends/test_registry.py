"""Backends by name: ours, those of others, and those that cannot run."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from knnspect import BackendUnavailable, DTypeError, FeaturePyramid, Gallery, ParameterError
from knnspect.backends import available_backends, get_backend, registry, unavailable_backends

#: What a third party installs: its module, and what names it.
MODULE = """
from knnspect.backends import Capabilities, RustBackend
from knnspect.errors import BackendUnavailable

class Theirs(RustBackend):
    name = "theirs"
    def __init__(self, device="nowhere"):
        super().__init__()
        self.device = device

class Lonely(RustBackend):
    name = "lonely"
    def __init__(self):
        raise BackendUnavailable("backend 'lonely': buy a friend")
"""
ENTRY_POINTS = """
[knnspect.backends]
theirs = their_package:Theirs
lonely = their_package:Lonely
broken = their_package:Nobody
gone = no_such_package:Backend
rust = their_package:Theirs
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "their_package.py").write_text(MODULE)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    registry._make.cache_clear()
    yield
    registry._make.cache_clear()
    sys.modules.pop("their_package", None)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("third_party")
def test_backends_of_others_are_found_by_name() -> None:
    theirs = get_backend("theirs")
    assert (theirs.name, theirs.device) == ("theirs", "nowhere")  # type: ignore[attr-defined]
    assert get_backend("theirs") is theirs
    assert get_backend("theirs:the:moon").device == "the:moon"  # type: ignore[attr-defined]
    gallery = Gallery()
    gallery.add(FeaturePyramid([np.zeros((1, 2, 2, 3), "f4")]), ["a"])
    found = gallery.search(FeaturePyramid([np.ones((1, 2, 2, 3), "f4")]), backend="theirs")
    assert (found.sq_distances == 3).all()


@pytest.mark.usefixtures("third_party")
def test_ours_come_first_and_keep_their_names() -> None:
    names = available_backends()
    assert names[0] == "rust"
    assert names[-1] == "theirs"
    assert names.count("rust") == 1
    assert get_backend("rust").name == "rust"


@pytest.mark.usefixtures("third_party")
def test_a_broken_entry_point_is_a_backend_that_is_not_available() -> None:
    problems = unavailable_backends()
    assert problems["lonely"] == "backend 'lonely': buy a friend"
    for name, target in (("broken", "their_package:Nobody"), ("gone", "no_such_package:Backend")):
        assert f"backend {name!r}: its entry point {target!r} cannot be loaded" in problems[name]
        assert name not in available_backends()
        with pytest.raises(BackendUnavailable, match=target):
            get_backend(name)
        with pytest.raises(ImportError):  # which a caller may expect
            get_backend(name)


@pytest.mark.usefixtures("third_party")
def test_an_unknown_name_is_told_all_names() -> None:
    known = "'auto', 'rust', .*'broken', 'gone', 'lonely', 'theirs', got 'their'"
    with pytest.raises(ParameterError, match=f"backend: expected one of {known}"):
        get_backend("their")


def test_without_others_there_are_only_ours() -> None:
    assert "theirs" not in available_backends()
    assert set(available_backends()) | set(unavailable_backends()) >= {"rust", "faiss", "sklearn"}
    assert not set(available_backends()) & set(unavailable_backends())


@pytest.mark.parametrize("word", ["rust:cpu", "rust:", "sklearn:cuda:0"])
def test_a_device_for_a_backend_that_has_none_is_an_error(word: str) -> None:
    name = word.partition(":")[0]
    with pytest.raises(ParameterError, match=f"backend: '{name}' takes no device, got '{word}'"):
        get_backend(word)


@pytest.mark.parametrize("word", ["", ":", ":cpu", "Rust", "rust "])
def test_names_are_exact(word: str) -> None:
    with pytest.raises(ParameterError, match="backend: expected one of 'auto', 'rust'"):
        get_backend(word)


@pytest.mark.parametrize("name", available_backends())
def test_a_backend_shows_how_it_was_made(name: str) -> None:
    backend = get_backend(name)
    assert repr(backend).startswith(f"{type(backend).__name__}(")
    assert repr(pickle.loads(pickle.dumps(backend))) == repr(backend)


def test_a_backend_is_itself() -> None:
    backend = get_backend("auto")
    assert get_backend(backend) is backend is get_backend("rust")
    for wrong in (None, 3, object()):
        with pytest.raises(DTypeError, match="backend: expected a name or a Backend, got"):
            get_backend(wrong)  # type: ignore[arg-type]
