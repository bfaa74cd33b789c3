"""Check how the files of the Rust crates use each other.

Every ``use`` and every ``crate::`` or ``super::`` path of every file is resolved to the file that
defines what it names; tests, in a file or in a ``tests.rs``, are not counted. The check fails where

- files use each other in a circle,
- a file uses one of a higher layer, or one beside it in a layer whose parts are independent,
- a ``mod.rs`` holds more than a table of contents,
- a crate defines two types of one name,
- a file has more than 400 lines.

Run by ``make lint``; writes one line a finding, and exits with 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# From top to bottom: a file may use files of its own room, and of the rooms below it. Rooms in one
# line are independent of each other.
LAYERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "core": (
        ("lib",),
        ("select",),
        ("search",),
        ("gallery",),
        ("bounds",),
        ("kernels",),
        ("pyramid",),
        ("quantize", "storage", "parallel"),
        ("cancel", "names"),
        ("error",),
    ),
    "python": (
        ("lib",),
        ("coreset", "merge", "picking", "search"),
        ("gallery",),
        ("store",),
        ("arrays", "interrupt", "results", "windows"),
        ("errors",),
    ),
}

#: Lines that a file may have.
MOST_LINES = 400

_TYPE = re.compile(r"^\s*(?:pub(?:\([^)]*\))? )?(?:unsafe )?(?:struct|enum|trait|type) (\w+)", re.M)
_USE = re.compile(r"^\s*(pub(?:\([^)]*\))? )?use ([^;]+);", re.M)
_PATH = re.compile(r"(?<![\w:$])((?:crate|self|super(?:::super)*)(?:::\w+)+)")
# What may stand in a table of contents besides comments: modules and what is offered of them.
_CONTENTS = re.compile(r"(?:pub(?:\([^)]*\))? )?(?:use [^;]+|mod \w+);|#!?\[[^\]]*\]")


def code_of(text: str) -> str:
    """Return a file's code without comments, strings and the tests at its end."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r'b?"(?:\\.|[^"\\])*"', '""', text, flags=re.S)
    return text.split("#[cfg(test)]\nmod tests", 1)[0]


def paths_of(tree: str) -> Iterator[tuple[str, str]]:
    """Return ``(path, name)`` of all that a ``use`` brings in, with braces expanded."""
    tree = " ".join(tree.split())
    brace = tree.find("{")
    if brace < 0:
        path, _, name = tree.partition(" as ")
        yield path.strip(), (name or path.rsplit("::", 1)[-1]).strip()
        return
    prefix, inner = tree[:brace], tree[brace + 1 : tree.rindex("}")]
    depth, part = 0, ""
    for character in [*inner, ","]:
        if character == "," and depth == 0:
            if part.strip():
                yield from paths_of(prefix + part.strip())
            part = ""
            continue
        depth += (character == "{") - (character == "}")
        part += character


class Crate:
    """The files of one crate, by the path of their modules."""

    def __init__(self, source: Path) -> None:
        self.files: dict[tuple[str, ...], str] = {}
        self.names: dict[tuple[str, ...], Path] = {}
        for path in sorted(source.rglob("*.rs")):
            if path.name == "tests.rs":
                continue
            module = path.relative_to(source).with_suffix("").parts
            if module[-1] in {"mod", "lib"}:
                module = module[:-1]
            self.files[module] = code_of(path.read_text(encoding="utf-8"))
            self.names[module] = path
        self.offered = {module: dict(self._offered(module)) for module in self.files}

    def _offered(self, module: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for visible, tree in _USE.findall(self.files[module]):
            if visible:
                for path, name in paths_of(tree):
                    yield name, self._absolute(module, path.split("::"))

    def _absolute(self, module: tuple[str, ...], parts: list[str]) -> tuple[str, ...]:
        if parts[0] == "crate":
            return tuple(parts[1:])
        at, rest = module, parts
        while rest and rest[0] in {"self", "super"}:
            at = at[:-1] if rest[0] == "super" else at
            rest = rest[1:]
        return (*at, *rest)

    def resolve(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the module whose file defines what a path from the crate's root names."""
        module: tuple[str, ...] = ()
        for index, part in enumerate(path):
            if (*module, part) in self.files:
                module = (*module, part)
            elif part in self.offered[module]:
                target = self.offered[module][part]
                return None if target == path else self.resolve((*target, *path[index + 1 :]))
            else:
                break
        return module if module or not path else ()

    def uses(self, module: tuple[str, ...]) -> set[tuple[str, ...]]:
        """Return the modules that a file uses, itself and tables of contents left out."""
        code = self.files[module]
        found: list[tuple[str, ...]] = []
        for _, tree in _USE.findall(code):
            for path, name in paths_of(tree):
                parts = [part for part in path.split("::") if part not in {"*", "self"}]
                if parts and (parts[0] in {"crate", "super"} or (*module, parts[0]) in self.files):
                    target = self._absolute(module, parts)
                    found.append(target)
                    name = parts[-1] if name == "self" else name
                    # Of a module that is named alone, what is taken from it says which file it is.
                    taken = re.findall(rf"(?<![\w:]){name}((?:::\w+)+)", code)
                    if target in self.files:
                        found += [(*target, *rest.split("::")[1:]) for rest in taken]
        for path in _PATH.findall(_USE.sub("", code)):
            found.append(self._absolute(module, path.split("::")))
        resolved = {self.resolve(path) for path in found}
        return {target for target in resolved if target and target != module}


def circles(graph: dict[tuple[str, ...], set[tuple[str, ...]]]) -> list[list[tuple[str, ...]]]:
    """Return the groups of modules that use each other, directly or through others."""

    def reached(start: tuple[str, ...]) -> set[tuple[str, ...]]:
        seen: set[tuple[str, ...]] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {
        tuple(sorted(other for other in graph if other in reach[module] and module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return [list(group) for group in sorted(groups)]


def findings(source: Path, layers: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Return what is wrong with a crate, a line each."""
    crate = Crate(source)
    height = {room: -at for at, rooms in enumerate(layers) for room in rooms}
    tables = {module for module, path in crate.names.items() if path.name == "mod.rs"}
    graph = {module: crate.uses(module) for module in crate.files if module not in tables}
    for group in circles(graph):
        yield f"{source}: a circle: {' <-> '.join('/'.join(module) for module in group)}"
    for module, used in sorted(graph.items()):
        room = module[0] if module else "lib"
        if room not in height:
            yield f"{crate.names[module]}: the room {room!r} is in no layer"
            continue
        for other in sorted(used):
            other_room = other[0]
            if room != other_room and height.get(other_room, 1) >= height[room]:
                yield f"{crate.names[module]}: {room} uses {'/'.join(other)}, which is not below it"
    for module in sorted(tables):
        if rest := _CONTENTS.sub("", crate.files[module]).strip():
            line = rest.splitlines()[0]
            yield f"{crate.names[module]}: more than a table of contents: {line}"
    yield from long_files(source)
    defined: dict[str, Path] = {}
    for module, code in sorted(crate.files.items()):
        for name in _TYPE.findall(re.sub(r"(?s)\b(?:impl|trait) .*?\n}\n", _without_items, code)):
            if name in defined:
                yield f"{crate.names[module]}: {name} is also defined in {defined[name]}"
            defined.setdefault(name, crate.names[module])


def long_files(source: Path) -> Iterator[str]:
    """Return the files that are too long to be read, a line each."""
    for path in sorted(source.rglob("*.rs")):
        n_lines = len(path.read_text(encoding="utf-8").splitlines())
        if n_lines > MOST_LINES:
            yield f"{path}: {n_lines} lines, expected at most {MOST_LINES}"


def _without_items(block: re.Match[str]) -> str:
    """Return the first line of a block: its associated types are no types of the crate."""
    return block.group().split("\n", 1)[0] + "\n"


def main(root: Path) -> int:
    """Check both crates; return the exit code."""
    found = [
        line for crate, layers in LAYERS.items() for line in findings(root / crate / "src", layers)
    ]
    for line in found:
        sys.stderr.write(f"{line}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent))
