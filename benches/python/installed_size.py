"""What an installation takes: bytes, seconds, and seconds of the first import.

python benches/python/installed_size.py dist/knnspect-….whl [--torch]

For each set of extras the wheel is installed into a fresh environment, from the package registry
without a cache; pip itself is not counted. pip compiles what it installs; without that the bytes
are those of "without_bytecode". With ``--torch`` also PyTorch, which takes gigabytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write_result

#: What is installed, and what a process imports that uses it.
SETS = {
    "base": ("", "import knnspect as ks; ks.Gallery, ks.Spade, ks.load"),
    "base + onnx": (
        "[onnx]",
        "import knnspect as ks, onnxruntime; ks.Gallery, ks.Spade, ks.load",
    ),
    "base + formats": ("[formats]", "import knnspect as ks, imagecodecs; ks.Gallery, ks.load"),
    "base + torch": ("[torch]", "import knnspect as ks, torch, timm; ks.Gallery, ks.load"),
}
#: What comes with every environment.
NOT_COUNTED = ("pip", "setuptools", "_distutils_hack", "distutils-precedence.pth", "pkg_resources")
LARGEST = 12


def mb(n_bytes: int) -> float:
    """Return MB, of 10^6 bytes."""
    return round(n_bytes / 1e6, 1)


def bytes_of(path: Path, bytecode: bool = True) -> int:
    """Return the bytes of the files under a path."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(
        file.stat().st_size
        for file in files
        if file.is_file() and (bytecode or file.suffix != ".pyc")
    )


def measure(wheel: Path, extras: str, imports: str) -> dict[str, Any]:
    """Install into an environment of its own, and measure."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        start = time.perf_counter()
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"{wheel}{extras}"],
            check=True,
        )
        seconds = time.perf_counter() - start
        first = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([python, "-c", imports], check=True)
            first.append(time.perf_counter() - start)
        (site,) = Path(folder).glob("lib/python*/site-packages")
        entries = [
            entry
            for entry in site.iterdir()
            if entry.name not in NOT_COUNTED and not entry.name.startswith(("pip-", "setuptools-"))
        ]
        parts = {entry.name: bytes_of(entry) for entry in entries}
        largest = sorted(parts, key=lambda name: -parts[name])[:LARGEST]
        return {
            "mb": mb(sum(parts.values())),
            "mb_without_bytecode": mb(sum(bytes_of(entry, bytecode=False) for entry in entries)),
            "seconds_to_install": round(seconds, 1),
            "seconds_to_import": round(min(first), 2),
            "largest_mb": {name: mb(parts[name]) for name in largest},
        }


def main() -> None:
    """Measure each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {"wheel_mb": mb(options.wheel.stat().st_size)}
    for name, (extras, imports) in SETS.items():
        if name != "base + torch" or options.torch:
            figures[name] = measure(options.wheel.resolve(), extras, imports)
            print(name, figures[name], flush=True)
    write_result("installed_size", figures)


if __name__ == "__main__":
    main()
