"""A folder of packages in which nothing is installed but knnspect and what it depends on."""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import knnspect

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def base_distributions(*extras: str) -> set[str]:
    """Return the names of what a base install, or one with extras, brings, however indirectly."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    open_ = [(Requirement(text), "") for text in texts]
    while open_:
        requirement, extra = open_.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if name not in found:
            found.add(name)
            needs = map(Requirement, distribution(name).requires or ())
            open_ += [(need, extra) for need in needs for extra in ("", *requirement.extras)]
    return found


def link_base(folder: Path, *extras: str) -> None:
    """Fill a folder with links to the packages of a base install, or of one with extras."""
    (folder / "knnspect").symlink_to(Path(knnspect.__file__).parent)
    for name in base_distributions(*extras):
        installed = distribution(name)
        tops = {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
