"""Exported models judge as their originals do, where nothing but the extra `onnx` is installed.

``python onnx_install.py FOLDER``, which `models.py` wrote where there is PyTorch. It ends with 1 at
the first thing that is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import knnspect as ks

MISSING = ("onnx", "safetensors", "sklearn", "timm", "torch", "zuko")
#: The largest difference of a score, as a share of it.
LARGEST = 1e-4


def extras_are_missing() -> None:
    found = {name: spec.origin for name in MISSING if (spec := find_spec(name)) is not None}
    assert found == {}, found


def exported_models_say_what_their_originals_say(folder: Path) -> None:
    expected = json.loads((folder / "exported" / "expected.json").read_text())
    assert expected
    for name, of_original in expected.items():
        found = ks.load(folder / "exported" / f"{name}.ks").predict(folder / "images")
        scores = np.array([one.score for one in found])
        difference = np.abs(scores / of_original["scores"] - 1).max()
        assert difference < LARGEST, (name, difference)
        verdicts = [one.verdict for one in found]
        assert verdicts == of_original["verdicts"], (name, verdicts, of_original["verdicts"])
        assert {"normal", "anomalous"} == set(verdicts), (name, verdicts)
        print(f"{name}: {len(found)} verdicts are the same, scores differ by {difference:.1e}")


def the_command_line_judges(folder: Path) -> None:
    model = folder / "exported" / "patchcore.ks"
    with tempfile.TemporaryDirectory() as results:
        python = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
        code = "from knnspect.cli import main; main()"
        arguments = ["predict", str(model), str(folder / "images"), "--output", results]
        done = subprocess.run(
            [*python, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (Path(results) / "scores.json").exists()


def main(folder: Path) -> None:
    """Run all of it."""
    start = time.perf_counter()
    extras_are_missing()
    exported_models_say_what_their_originals_say(folder)
    the_command_line_judges(folder)
    print(f"exported models work ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
