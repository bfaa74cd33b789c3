"""The demonstration, whole."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from knnspect.data import elpv_split
from knnspect.demo import run_demo
from knnspect.errors import ParameterError


def test_the_demo_finds_the_defective_cells_and_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = io.StringIO()
    with pytest.warns(UserWarning, match="near-duplicates"):  # cells that look alike
        auroc = run_demo(tmp_path / "demo", 2, Console(file=printed, width=100))
    assert 0.94 <= auroc <= 1
    assert f"{auroc:.4f}" in printed.getvalue()
    assert "contact_sheet.png" in printed.getvalue()
    assert capsys.readouterr().out == ""

    split = elpv_split()
    names = {path.name for path in (*split.functional, *split.defective)}
    with (tmp_path / "demo/scores.csv").open(newline="") as table:
        scores = {row["id"]: float(row["score"]) for row in csv.DictReader(table)}
    assert set(scores) == names
    assert {file.name for file in (tmp_path / "demo/overlays").iterdir()} == names
    document = json.loads((tmp_path / "demo/scores.json").read_text())
    assert {row["id"]: row["score"] for row in document["images"]} == scores
    strongest = sorted(scores, key=lambda name: -scores[name])[:12]
    assert len({path.name for path in split.defective} & set(strongest)) >= 10

    with Image.open(tmp_path / "demo/contact_sheet.png") as sheet:
        sheet.load()
        assert sheet.format == "PNG"
        assert 600 <= sheet.width <= 3000
        assert 600 <= sheet.height <= 4000
        assert len(sheet.convert("RGB").resize((60, 60)).getcolors(4000) or []) > 100
    assert {file.name for file in (tmp_path / "demo").iterdir()} == {
        "contact_sheet.png",
        "overlays",
        "scores.csv",
        "scores.json",
    }


def test_the_demo_takes_networks_whose_weights_can_be_installed_alone(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(ParameterError, match="no weights package of resnet18 is installed"):
        run_demo(tmp_path / "demo", 0, console, "resnet18")
    assert not (tmp_path / "demo").exists()
