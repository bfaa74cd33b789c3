"""Write the licences of the crates that are compiled into the module to rust/LICENSES.txt.

``cargo metadata`` says which crates these are, for the platforms of the wheels; macros, and what
builds or tests need alone, are not compiled in. ``--check`` writes nothing, and exits with 1 if the
file is not what would be written. Run by ``make lint``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "rust" / "LICENSES.txt"
CRATE = "knnspect-python"
#: What files with licences are called, however they are capitalized.
NAMES = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")
PLATFORMS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)
HEADER = """\
knnspect is licensed under the Apache License, Version 2.0; see LICENSE.

Its compiled module also holds the Rust standard library (MIT or Apache-2.0, https://www.rust-lang.org)
and the crates below. Each licence text follows the crates whose packages bring it. This file is
written by rust/licenses.py.
"""


def compiled_in() -> list[dict[str, Any]]:
    """Return the packages of other people's crates that end up in the module, by name."""
    text = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--locked"]
        + [f"--filter-platform={platform}" for platform in PLATFORMS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    metadata = json.loads(text)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    open_ = [id_ for id_, package in packages.items() if package["name"] == CRATE]
    found: set[str] = set()
    while open_:
        id_ = open_.pop()
        if id_ in found or any("proc-macro" in t["kind"] for t in packages[id_]["targets"]):
            continue
        found.add(id_)
        open_ += [
            dependency["pkg"]
            for dependency in nodes[id_]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
    others = [packages[id_] for id_ in found if packages[id_]["source"] is not None]
    return sorted(others, key=lambda package: (package["name"], package["version"]))


def texts_of(package: dict[str, Any]) -> list[str]:
    """Return the licence texts in a package."""
    folder = Path(package["manifest_path"]).parent
    files = sorted(file for file in folder.iterdir() if file.name.upper().startswith(NAMES))
    return [_clean(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def _clean(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def document() -> str:
    """Return the text of the file.

    Raises
    ------
    SystemExit
        If a package brings no licence text.
    """
    crates: dict[str, list[str]] = {}
    bodies: dict[str, str] = {}
    packages = compiled_in()
    bare = []
    for package in packages:
        texts = texts_of(package)
        if not texts:
            bare.append(package["name"])
        for text in texts:
            # Line breaks and indentation differ from copy to copy.
            key = hashlib.sha256(" ".join(text.split()).encode()).hexdigest()
            bodies.setdefault(key, text)
            crates.setdefault(key, []).append(f"{package['name']} {package['version']}")
    if bare:
        sys.exit(f"no licence text in the packages of {', '.join(bare)}")
    table = "\n".join(
        f"  {package['name']} {package['version']}: {package['license']}" for package in packages
    )
    rule = "=" * 100
    parts = [
        f"{rule}\n{', '.join(crates[key])}\n{rule}\n\n{bodies[key]}\n"
        for key in sorted(crates, key=lambda key: crates[key])
    ]
    return "\n".join([HEADER, table + "\n", *parts])


def main() -> None:
    """Write the file, or compare it."""
    text = document()
    if sys.argv[1:] == ["--check"]:
        if not OUTPUT.exists() or OUTPUT.read_text(encoding="utf-8") != text:
            sys.exit(f"{OUTPUT.relative_to(ROOT)} is out of date: run python rust/licenses.py")
    else:
        OUTPUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
