"""The check of which Rust file uses which: it finds what it is there to find, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUST = Path(__file__).parents[2] / "rust"
LAYERS = (("lib",), ("search",), ("gallery", "files"), ("error",))


@pytest.fixture(scope="module")
def layers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rust_layers", RUST / "layers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def crate(folder: Path, **files: str) -> Path:
    """Write a crate in which each file uses the one below it; ``files`` replace or add some."""
    written = {
        "lib": "mod error;\nmod gallery;\nmod search;\npub use gallery::Gallery;\n",
        "error": "pub struct Error;\n",
        "gallery": "use crate::error::Error;\n\npub struct Gallery;\n",
        "search/mod": "//! A search.\n\nmod driver;\n\npub use driver::{search, Options};\n",
        "search/driver": "use crate::Gallery;\n\npub struct Options;\n\npub fn search() {}\n",
        **{name.replace("__", "/"): text for name, text in files.items()},
    }
    for name, text in written.items():
        path = folder / f"{name}.rs"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_crates_of_this_repository_pass(layers: ModuleType) -> None:
    assert layers.main(RUST) == 0


def test_uses_that_all_point_down_pass(layers: ModuleType, tmp_path: Path) -> None:
    assert list(layers.findings(crate(tmp_path), LAYERS)) == []


def test_a_circle_is_found_through_tables_of_contents_and_paths_in_code(
    layers: ModuleType, tmp_path: Path
) -> None:
    upward = "use crate::search;\n\npub struct Gallery;\n\nfn f() { search::search(); }\n"
    found = list(layers.findings(crate(tmp_path, gallery=upward), LAYERS))
    assert any("a circle: gallery <-> search/driver" in line for line in found), found
    assert any("gallery uses search/driver, which is not below it" in line for line in found)


def test_a_use_within_braces_that_points_up_or_aside_is_found(
    layers: ModuleType, tmp_path: Path
) -> None:
    files = {
        "error": "use crate::{\n    gallery::{self, Gallery},\n};\n\npub struct Error;\n",
        "gallery": "pub struct Gallery;\n",
        "files": "pub fn f() -> crate::gallery::Gallery {}\n",
    }
    found = list(layers.findings(crate(tmp_path, **files), LAYERS))
    assert [line.split(": ", 1)[1] for line in found] == [
        "error uses gallery, which is not below it",
        "files uses gallery, which is not below it",
    ]


def test_comments_strings_and_tests_are_not_counted(layers: ModuleType, tmp_path: Path) -> None:
    error = (
        "// use crate::gallery::Gallery;\n"
        "/// See [`crate::search::search`].\n"
        'pub struct Error;\n\nconst TEXT: &str = "crate::search::search";\n\n'
        "#[cfg(test)]\nmod tests {\n    use crate::Gallery;\n    struct Options;\n}\n"
    )
    assert list(layers.findings(crate(tmp_path, error=error), LAYERS)) == []


def test_a_table_of_contents_with_code_and_a_type_of_two_meanings_are_found(
    layers: ModuleType, tmp_path: Path
) -> None:
    files = {
        "search__mod": "mod driver;\n\npub use driver::search;\n\npub fn more() {}\n",
        "gallery": "pub enum Options {}\n\npub struct Gallery;\n",
    }
    found = list(layers.findings(crate(tmp_path, **files), LAYERS))
    assert any("more than a table of contents: pub fn more() {}" in line for line in found), found
    assert any("Options is also defined in" in line for line in found), found


def test_a_long_file_is_found_its_tests_in_another_are_no_part(
    layers: ModuleType, tmp_path: Path
) -> None:
    long = "pub fn f() {}\n" * 300
    tests = "use crate::gallery::Gallery;\n" * 300
    assert list(layers.findings(crate(tmp_path, error=long, error__tests=tests), LAYERS)) == []
    found = list(layers.findings(crate(tmp_path, error=long * 2), LAYERS))
    assert found == [f"{tmp_path / 'error.rs'}: 600 lines, expected at most 400"]


def test_a_room_without_a_layer_is_named(layers: ModuleType, tmp_path: Path) -> None:
    found = list(layers.findings(crate(tmp_path, other="pub fn f() {}\n"), LAYERS))
    assert found == [f"{tmp_path / 'other.rs'}: the room 'other' is in no layer"]
