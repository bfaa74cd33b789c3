"""A base install does all that needs no network, and says what the rest needs.

``python base_install.py MODEL`` runs where knnspect and its dependencies are installed, and none of
its extras; MODEL was saved where there is PyTorch. It ends with 1 at the first thing that is wrong.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import knnspect as ks

EXTRAS = (
    *("faiss", "imagecodecs", "matplotlib", "onnx", "onnxruntime", "safetensors", "sklearn"),
    *("timm", "torch", "zuko"),
)
TORCH = 'pip install "knnspect[torch]"'
#: Rooms that only an extra opens, and what is said at their doors.
ROOMS = {
    "knnspect.backends.torch": TORCH,
    "knnspect.detectors.heads.networks": TORCH,
    "knnspect.detectors.reconstruction.networks": TORCH,
    "knnspect.features.onnx": 'pip install "knnspect[onnx]"',
    "knnspect.features.torch": TORCH,
    "knnspect.locators.siam_mask.networks": TORCH,
    "knnspect.training": TORCH,
    "knnspect.testing.drawing": "No module named 'hypothesis'",
}
SECONDS = """
import time
import knnspect as ks
ks.Gallery, ks.Spade, ks.Backbone, ks.Calibration
print(time.process_time())  # which does not depend on what else the machine does
"""


def error_of(work: Callable[[], object], kind: type[ks.KnnspectError]) -> str:
    """What an error of this kind says, which `work` must raise."""
    try:
        work()
    except kind as error:
        return str(error)
    raise AssertionError(f"it worked, and should have raised a {kind.__name__}")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(["-S"] if sys.flags.no_site else []), "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def knnspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    return python("from knnspect.cli import main; main()", *arguments)


def extras_are_missing() -> None:
    assert [name for name in EXTRAS if find_spec(name) is not None] == []


def all_modules_can_be_imported() -> None:
    closed: dict[str, str] = {}
    for module in pkgutil.walk_packages(ks.__path__, "knnspect.", onerror=lambda _: None):
        try:
            import_module(module.name)
        except ImportError as error:
            closed[module.name] = str(error)
    assert closed.keys() == ROOMS.keys(), closed
    for name, words in ROOMS.items():
        assert words in closed[name], closed
    for name in ks.__all__:
        getattr(ks, name)


def a_gallery_is_filled_saved_opened_and_searched(folder: Path) -> None:
    rng = np.random.default_rng(0)
    levels = [rng.random((6, 14, 14, 8), np.float32), rng.random((6, 7, 7, 16), np.float32)]
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid(levels), ids=list("abcdef"))
    gallery.save(folder / "gallery.ks")
    opened = ks.Gallery.open(folder / "gallery.ks")
    query = ks.FeaturePyramid([level[2:3] for level in levels])
    assert opened.search(query, k=1).sq_distances.max() == 0
    message = error_of(lambda: opened.search(query, backend="torch"), ks.BackendUnavailable)
    assert message == f"backend 'torch' needs torch, which is not installed: {TORCH}"
    assert opened.search(query, backend="auto").sq_distances.max() == 0


def images_are_read_and_what_cannot_be_is_named(folder: Path) -> None:
    from knnspect.data import read_image

    grey = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(grey).save(folder / name)
        expected = np.float32(1) * grey[..., None] / np.float32(65535)
        assert np.allclose(read_image(folder / name), expected, rtol=0, atol=1e-7)
    Image.fromarray((grey >> 8).astype(np.uint8)).save(folder / "lzw.tif", compression="tiff_lzw")
    message = error_of(lambda: read_image(folder / "lzw.tif"), ks.ImageError)
    assert message.endswith('imagecodecs, which is not installed: pip install "knnspect[formats]"')


def normal_scores_are_calibrated_and_watched() -> None:
    scores = np.random.default_rng(1).normal(size=200)
    calibration = ks.Calibration(scores, scores, "validation")
    assert 0 < calibration.p_value(float(scores.max()) + 1) < 0.01


def detectors_are_made_and_say_what_they_need() -> None:
    images = np.zeros((3, 64, 64, 3), np.uint8)
    backbone = ks.Backbone(image_size=64)
    message = error_of(partial(backbone.extract, images), ks.MissingPackageError)
    assert message == f"a network of timm needs torch and timm, which are not installed: {TORCH}"
    for kind in (ks.Spade, ks.PatchCore, ks.AnomalyDINO, ks.SuperADD, ks.Rad, ks.SimpleNet):
        detector: Any = kind(backbone=backbone)
        assert detector.get_params()["backbone__image_size"] == 64
        message = error_of(partial(detector.fit, images), ks.MissingPackageError)
        assert message.endswith(f"not installed: {TORCH}"), message
    message = error_of(partial(ks.CFlow().fit, images), ks.MissingPackageError)
    assert message == f"CFlow needs torch and zuko, which are not installed: {TORCH}"


def figures_of_images_say_what_they_need() -> None:
    from knnspect import metrics

    message = error_of(partial(metrics.auroc, [0, 1], [0.1, 0.9]), ks.MissingPackageError)
    assert message.endswith('scikit-learn, which is not installed: pip install "knnspect[sklearn]"')


def the_command_line_works(folder: Path, model: Path) -> None:
    for arguments in (("--help",), ("--version",), ("methods",), ("fit", "--help")):
        done = knnspect(*arguments)
        assert done.returncode == 0, (arguments, done)
        assert done.stdout, arguments
    info = knnspect("info", str(model))
    assert info.returncode == 0, info
    assert "spade" in info.stdout.lower(), info
    (folder / "good").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "good" / "a.png")
    commands = (
        ("fit", str(folder / "good"), "--output", str(folder / "new.ks")),
        ("predict", str(model), str(folder / "good"), "--output", str(folder / "results")),
    )
    for command in commands:
        done = knnspect(*command)
        assert done.returncode == 1, done
        assert "Traceback" not in done.stderr, done.stderr
        assert TORCH in " ".join(done.stderr.split()), done.stderr
    assert not (folder / "new.ks").exists()
    demo = knnspect("demo", "--output", str(folder / "demo"))
    assert demo.returncode == 1, demo
    assert 'pip install "knnspect[demo]"' in " ".join(demo.stderr.split()), demo.stderr


def the_import_is_quick() -> None:
    seconds = min(float(python(SECONDS).stdout) for _ in range(3))
    print(f"Python starts and imports the public names in {seconds:.2f} s of its core")
    assert seconds < 1.5  # less than half of it, on a core that does nothing else


def main(model: Path) -> None:
    """Run all of it."""
    start = time.perf_counter()
    extras_are_missing()
    all_modules_can_be_imported()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        a_gallery_is_filled_saved_opened_and_searched(folder)
        images_are_read_and_what_cannot_be_is_named(folder)
        normal_scores_are_calibrated_and_watched()
        detectors_are_made_and_say_what_they_need()
        figures_of_images_say_what_they_need()
        the_command_line_works(folder, model)
    the_import_is_quick()
    print(f"a base install works ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
