"""No module imports another one that imports it, be it for types alone; files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import knnspect

ROOT = Path(knnspect.__file__).parent


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}


def imports_of(file: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it, those for type checkers included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {other for other in imports_of(file) if other in FILES and other != name}
        for name, file in FILES.items()
    }
    assert len(graph["knnspect.detectors.nearest.spade"]) > 5
    # It names all that is public, for type checkers, and imports it when it is asked for.
    del graph["knnspect"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


#: Files of methods, which are to stay short: what they share is in a base.
LIMITS = {"nearest": 200, "heads": 120, "reconstruction": 150}


def test_files_stay_short_enough_to_be_read() -> None:
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in FILES.values()
    }
    assert {name: n for name, n in lengths.items() if n > 400} == {}
    for room, limit in LIMITS.items():
        methods = {
            name: n
            for name, n in lengths.items()
            if name.startswith(f"detectors/{room}/") and Path(name).stem != "base"
        }
        of_room = {name: n for name, n in methods.items() if name.count("/") == 2}
        assert len(of_room) > 1
        assert {name: n for name, n in of_room.items() if n > limit} == {}
