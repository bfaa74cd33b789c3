"""``knnspect judge-unlabelled``: images that are scored by each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from PIL import Image

import knnspect as ks
from knnspect.data import elpv_split

SMALL = ("--image-size", "64")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six solar cells, one of which has a hole."""
    folder = tmp_path_factory.mktemp("unlabelled") / "cells"
    (folder / "a").mkdir(parents=True)
    for index, file in enumerate(elpv_split(6, 0, 0, seed=1).train):
        image = np.array(Image.open(file))
        if index == 2:
            image[60:200, 80:220] = 255
        Image.fromarray(image).save(folder / "a" / f"{index}.png")
    return folder


def test_it_writes_what_predict_writes_without_decisions(run: Run, cells: Path) -> None:
    code, out, err = run("judge-unlabelled", cells, "--output", "found", "--maps", "npy", *SMALL)
    assert code == 0, err
    lines = [line.split("\t") for line in out.splitlines()]
    assert [id_ for _, id_ in lines] == [f"a/{i}.png" for i in range(6)]
    assert "found: 6 images, compared with each other; scores are relative to them" in err
    scoring = ks.MutualScoring().set_params(backbone__image_size=64)
    expected = scoring.compare(cells)
    document = json.loads(Path("found/scores.json").read_text())
    assert [row["score"] for row in document["images"]] == expected.scores.tolist()
    assert max(document["images"], key=lambda row: row["score"])["id"] == "a/2.png"
    assert document["method"] == "mutual"
    assert document["share"] == 0.05
    assert document["median_score"] == np.median(expected.scores)
    assert document["threshold"] is document["normal_map_max"] is None
    for row, prediction in zip(document["images"], expected, strict=True):
        assert row["verdict"] is row["relative"] is None
        np.testing.assert_array_equal(np.load(Path("found", row["map"])), prediction.map)
        with Image.open(Path("found", row["overlay"])) as overlay:
            assert overlay.size == (300, 300)
    assert len(Path("found/scores.csv").read_text().splitlines()) == 7


def test_overlays_have_one_scale(run: Run, cells: Path) -> None:
    """A usual image is not tinted as the one with a hole is."""
    assert run("judge-unlabelled", cells, "--output", "found", *SMALL)[0] == 0

    def tint(name: str) -> float:
        with Image.open(Path("found/overlays/a", name)) as overlay:
            pixels = np.asarray(overlay.convert("RGB"), np.float64)
        return float((pixels.max(axis=2) - pixels.min(axis=2)).max())

    assert tint("2.png") > 1.2 * np.median([tint(f"{i}.png") for i in range(6)])


def test_options_of_its_class_are_taken(run: Run, cells: Path) -> None:
    Path("options.toml").write_text("[judge-unlabelled]\nshare = 0.5\nimage_size = 64\n")
    code, out, _ = run("judge-unlabelled", cells, "--output", "a", "--config", "options.toml")
    assert code == 0
    _, same, _ = run("judge-unlabelled", cells, "--output", "b", "--share", "0.5", *SMALL)
    assert out == same
    code, _, err = run("judge-unlabelled", cells, "--output", "c", "--share", "2")
    assert code == 2
    assert "share: expected at most 1" in err


def test_one_image_is_refused(run: Run, cells: Path) -> None:
    code, _, err = run("judge-unlabelled", cells / "a/0.png", "--output", "one", *SMALL)
    assert code == 1
    assert "expected at least two to score by each other" in err
    assert not Path("one/scores.json").exists()
