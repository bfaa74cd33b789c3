"""Exporting models on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from forging import with_changes
from networks import random_network, save
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.exporting import Agreement, compare, export

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Solar cells to learn from, others to compare with, and normal ones to calibrate with."""
    root = tmp_path_factory.mktemp("cells")
    split = elpv_split(n_train=12, n_functional=23, n_defective=3)
    parts = {
        "normal": split.train,
        "test": [*split.functional[:3], *split.defective],
        "held": split.functional[3:],
    }
    for part, files in parts.items():
        (root / part).mkdir()
        for number, file in enumerate(files):
            cell = Image.fromarray(np.array(read_image(file)[..., 0]))
            cell.resize((80, 80)).save(root / part / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def model(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "cells.ks"
    backbone = ks.Backbone(levels=(1, 2), image_size=64, device="cpu")
    ks.PatchCore(backbone, coreset=0.3).fit(cells / "normal").save(path)
    return path


def test_what_is_written_judges_as_the_model(run: Run, cells: Path, model: Path) -> None:
    code, said, errors = run("export", model, cells / "test", "--output", "out.ks")
    assert code == 0, errors
    assert "6 of 6 are the same" in said
    assert said.endswith("out.ks: judges without PyTorch, by 6 images as before\n")
    found = compare(ks.load(model), ks.load("out.ks"), cells / "test")
    assert max(found.features, found.scores, found.maps) < 1e-4
    assert "differ by up to 0.0e+00" not in said  # they are two networks
    assert run("info", "out.ks")[1].count("onnx") == 1


def test_images_that_cannot_be_used_are_left_out_and_said_once(
    run: Run, cells: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "a.png").write_bytes((cells / "test" / "00.png").read_bytes())
    (tmp_path / "some" / "b.png").write_bytes(b"no image")
    arguments = ("export", model, tmp_path / "some", "--output", "out.ks")
    code, _, errors = run(*arguments)
    assert code == 1
    assert "b.png" in errors
    assert not Path("out.ks").exists()
    code, said, errors = run(*arguments, "--skip-bad")
    assert code == 0
    assert said.endswith("by 1 images as before, 1 left out\n")
    assert errors.count("left out image") == 1


def test_a_model_that_was_exported_is_not_exported_again(
    run: Run, cells: Path, model: Path
) -> None:
    assert run("export", model, cells / "test", "--output", "one.ks")[0] == 0
    code, _, errors = run("export", "one.ks", cells / "test", "--output", "two.ks")
    assert code == 2
    assert "an ONNX graph already" in errors
    assert not Path("two.ks").exists()


def test_the_model_itself_is_not_replaced(run: Run, cells: Path, model: Path) -> None:
    before = model.read_bytes()
    code, _, errors = run("export", model, cells / "test", "--output", model)
    assert code == 1
    assert "is the model itself" in errors
    assert model.read_bytes() == before


def test_nothing_is_written_if_the_network_cannot_be_exported(
    run: Run, cells: Path, model: Path, tmp_path: Path
) -> None:
    weights = save(random_network("test_vit").state_dict(), tmp_path / "vit.safetensors")
    backbone = ks.Backbone("test_vit", (1,), 64, weights, resize="shorter", device="cpu")
    ks.Spade(backbone).fit(cells / "normal" / "00.png").save(tmp_path / "shorter.ks")
    code, _, errors = run("export", "shorter.ks", cells / "test", "--output", "out.ks")
    assert code == 2
    assert "cannot be exported" in errors
    assert not Path("out.ks").exists()


def test_models_that_differ_are_told_apart(cells: Path, model: Path, tmp_path: Path) -> None:
    detector = ks.load(model)
    assert isinstance(detector, ks.PatchCore)
    other = export(detector)
    # As a graph that averages otherwise would: the same shapes, other features.
    blurred = ks.Backbone(levels=(1, 2), image_size=64, device="cpu", patch_size=3)
    other.backbone = blurred
    found = compare(detector, other, cells / "test")
    assert found.features > 0.01
    with pytest.raises(ks.DisagreementError, match=r"differs: features by .* expected at most 0.0"):
        found.check()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Agreement(3, 1e-6, 2e-3, 0, (), True), "scores by 0.002 of their size"),
        (Agreement(3, 1e-6, 0, float("nan"), (), True), "maps by nan of their size"),
        (Agreement(3, 1e-6, 0, 0, ("a", "b"), True), "2 of 3 images have another verdict: a, b"),
    ],
)
def test_each_difference_is_named(found: Agreement, message: str) -> None:
    with pytest.raises(ks.DisagreementError, match=message):
        found.check()


def test_a_format_of_a_newer_version_is_named(
    run: Run, cells: Path, model: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer.ks"
    config = {"backbone": {**settings_of(model), "format": "onnx7"}}
    newer.write_bytes(with_changes(model, "config", config))
    code, _, errors = run("predict", newer, cells / "test", "--output", "results")
    assert code == 1
    assert (
        "expected torch, onnx, onnx-file, got 'onnx7', which a newer version may know"
        in " ".join(errors.split())
    )


def settings_of(model: Path) -> dict[str, object]:
    return ks.load(model).backbone.state()[0]


def test_a_model_in_a_folder_is_written_to_a_file_with_its_corrections(
    run: Run, cells: Path, tmp_path: Path
) -> None:
    backbone = ks.Backbone(levels=(1, 2), image_size=64, device="cpu")
    ks.Spade(backbone).fit(cells / "normal", folder=tmp_path / "model").save(tmp_path / "model")
    detector = ks.load("model")
    assert isinstance(detector, ks.Spade)
    detector.add(cells / "test" / "00.png")
    defect = cells / "test" / "04.png"
    detector.reject(detector.predict(defect)[0], "crack")
    assert run("export", "model", cells / "test", "--output", "out.ks")[0] == 0
    exported = ks.load("out.ks")
    assert isinstance(exported, ks.Spade)
    assert list(map(repr, exported.history_)) == list(map(repr, detector.history_))
    one, two = detector.predict(defect)[0], exported.predict(defect)[0]
    assert one.known_defect is not None
    assert two.known_defect is not None
    assert one.known_defect.name == two.known_defect.name == "crack"
    # What is made of a model that is corrected in its folder has no say there.
    other = export(detector)
    assert detector.is_corrected_in_place
    assert not other.is_corrected_in_place
    other.rollback(0)
    assert len(ks.load("model").history_) == 2  # type: ignore[attr-defined]


def test_int8_is_compared_and_calibrated_anew(run: Run, cells: Path, model: Path) -> None:
    code, said, errors = run(
        *("export", model, cells / "test", "--output", "out.ks", "--int8"),
        *("--normal", cells / "held"),
    )
    assert code == 0, errors
    assert said.endswith(
        "out.ks: judges without PyTorch in int8, calibrated by 20 normal images held out: "
        "false-alarm rates from 0.0476\n"
    )
    assert "in float32" in said
    assert "of 6 are the same" in said.split("onnx in int8")[1]
    detector, other = ks.load(model), ks.load("out.ks")
    assert other.calibration_ is not None
    assert other.calibration_.kind == "held out"
    found = compare(detector, other, cells / "test")
    assert found.has_verdicts
    assert 1e-3 < found.features < 0.5  # rounded, and the same network still
    assert 1e-4 < found.scores < 0.2
    assert Path("out.ks").stat().st_size < model.stat().st_size - 5e6
    assert "int8" in run("info", "out.ks")[1]
    # What was learnt is the same, and is compared with features in int8.
    one, two = detector.scores(cells / "test"), other.scores(cells / "test")
    assert np.corrcoef(one, two)[0, 1] > 0.95


def test_int8_without_normal_images_gives_no_verdicts_and_says_so(
    run: Run, cells: Path, tmp_path: Path
) -> None:
    backbone = ks.Backbone(levels=(1, 2), image_size=64, device="cpu")
    spade = ks.Spade(backbone).fit(cells / "normal")
    assert spade.calibration_ is not None
    spade.add(cells / "test" / "00.png")
    spade.save(tmp_path / "spade.ks")
    arguments = ("export", "spade.ks", cells / "test", "--output", "out.ks", "--int8")
    code, said, errors = run(*arguments)
    assert code == 0, errors
    assert said.endswith("judges without PyTorch in int8, not calibrated (knnspect calibrate)\n")
    assert "none: the model has none" in said
    exported = ks.load("out.ks")
    assert "one that was quantized" in exported.uncalibrated
    assert [one.kind for one in exported.history_] == ["add"]  # type: ignore[attr-defined]
    assert run("calibrate", "out.ks", cells / "held")[0] == 0
    assert ks.load("out.ks").uncalibrated == ""


@pytest.mark.parametrize(
    ("options", "folder", "message", "exit_code"),
    [
        ((), "held", "--normal: goes with --int8", 2),
        (("--int8",), "normal", "12 of the 12 calibration images were learnt from", 1),
    ],
)
def test_what_does_not_calibrate_is_refused_and_nothing_is_written(
    run: Run,
    cells: Path,
    model: Path,
    options: tuple[str, ...],
    folder: str,
    message: str,
    exit_code: int,
) -> None:
    code, _, errors = run(
        "export", model, cells / "test", "--output", "out.ks", "--normal", cells / folder, *options
    )
    assert code == exit_code
    assert message in " ".join(errors.split())
    assert not Path("out.ks").exists()
