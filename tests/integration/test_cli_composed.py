"""What goes before a detector, on the command line: a locator, regions, lights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from command_line import Run
from numpy.typing import NDArray
from PIL import Image

SIZE, SIDE = (96, 128), 48
SMALL = ("--image-size", "64", "--levels", "1,2")
FINDING = ("--image-size", "128", "--turns", "1", "--smallest", "1", "--largest", "1")


def face(seed: int, defective: bool) -> NDArray[np.uint8]:
    whole: NDArray[np.uint8] = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    pixels = np.asarray(Image.fromarray(whole[10:202, 130:322]).reduce(4))
    changed = pixels.astype(np.int16) + np.random.default_rng(seed).integers(-12, 13)
    if defective:
        changed[20:30, 25:35] = 0
    return changed.clip(0, 255).astype(np.uint8)


def write(file: Path, seed: int, defective: bool = False, empty: bool = False) -> None:
    frame = np.full((*SIZE, 3), 116, np.uint8)
    top, left = np.random.default_rng(1000 + seed).integers(2, (46, 78))
    if not empty:
        frame[top : top + SIDE, left : left + SIDE] = face(seed, defective)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(file)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    for n in range(8):
        write(tmp_path / f"data/train/good/{n}.png", n)
    for n in range(8, 11):
        write(tmp_path / f"data/test/good/{n}.png", n)
    for n in range(11, 14):
        write(tmp_path / f"data/test/hole/{n}.png", n, defective=True)
    Image.fromarray(face(50, False)).save(tmp_path / "template.png")
    return tmp_path / "data"


@pytest.fixture
def locator(frames: Path, run: Run) -> Path:
    code, out, err = run(
        *("fit-locator", "template.png", "--box", f"0,0,{SIDE},{SIDE}", "--output", "face.ks"),
        *FINDING,
    )
    assert code == 0, err
    assert out.startswith("face.ks: finds a part of 48 x 48 pixels from a score of 0.250 on; not")
    assert frames.is_dir()
    return Path("face.ks")


def test_a_locator_is_calibrated_by_frames(frames: Path, run: Run) -> None:
    code, out, err = run(
        *("fit-locator", "template.png", "--box", f"0,0,{SIDE},{SIDE}", "--output", "face.ks"),
        *("--frames", frames / "train/good", *FINDING),
    )
    assert code == 0, err
    assert "calibrated by 8 normal images" in out
    code, out, err = run("info", "face.ks")
    assert code == 0, err
    assert "golden_template" in out


def test_a_network_that_draws_masks_is_a_locator_alike(frames: Path, run: Run) -> None:
    code, out, err = run(
        *("fit-locator", "template.png", "--method", "siam_mask", "--output", "face.ks"),
        *("--box", f"0,0,{SIDE},{SIDE}", "--masks", "template", "--parts", "template.png"),
        *("--turn", "0", "--width", "16", "--pairs", "32", "--max-epochs", "1"),
        *("--least-score", "0.0001"),
    )
    assert code == 0, err
    assert out.startswith("face.ks: finds a part of 48 x 48 pixels from a score of 0.000 on")
    code, out, err = run("info", "face.ks")
    assert code == 0, err
    assert "siam_mask" in out
    code, out, err = run(
        *("fit", frames / "train/good", "--output", "part.ks", *SMALL, "--locator", "face.ks")
    )
    assert code == 0, err
    code, out, err = run("predict", "part.ks", frames / "test/good", "--output", "found")
    assert code == 0, err
    assert len(rows("found")) == 3
    code, _, err = run(
        *("fit-locator", "template.png", "--output", "b.ks", "--box", "0,0,8,8", "--parts", "x")
    )
    assert code == 2
    assert "--parts: is an option of siam_mask, the method is golden_template" in err


def rows(folder: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(folder, "scores.json").read_text())["images"]
    return found


def test_a_part_is_located_learnt_and_judged(frames: Path, locator: Path, run: Run) -> None:
    code, out, err = run(
        *("fit", frames / "train/good", "--output", "part.ks", "--method", "patchcore", *SMALL),
        *("--locator", locator),
    )
    assert code == 0, err
    assert "learnt from 8 images" in out
    assert "calibrated by 8 normal images" in out

    code, out, err = run("info", "part.ks")
    assert code == 0, err
    assert "aligned" in out
    assert "patchcore, learnt from 8 images" in out

    write(frames / "test/empty/0.png", 0, empty=True)
    code, out, err = run(
        "predict", "part.ks", frames / "test", "--output", "found", "--report", "--maps", "npy"
    )
    assert code == 0, err
    scores = {row["id"]: row for row in rows("found")}
    assert scores["empty/0.png"]["verdict"] == "not found"
    assert scores["empty/0.png"]["score"] is None
    assert not scores["empty/0.png"]["part"]["found"]
    assert "inf\tempty/0.png" in out
    for n in range(11, 14):
        row = scores[f"hole/{n}.png"]
        top, left = np.random.default_rng(1000 + n).integers(2, (46, 78))
        assert row["verdict"] == "anomalous"
        assert abs(row["row"] - top - 25) < 8
        assert abs(row["column"] - left - 30) < 8
        assert np.load(Path("found", row["map"])).shape == SIZE
    assert all(scores[f"good/{n}.png"]["score"] < row["score"] for n in range(8, 11))
    with Path("found/scores.csv").open() as table:
        assert {row["verdict"] for row in csv.DictReader(table)} >= {"anomalous", "not found"}
    page = Path("found/report.html").read_text()
    assert page.count('<article class="card') == 7
    assert ">not found</strong>" in page
    assert "Of these without the part" in page

    code, out, err = run("predict", "part.ks", frames / "test/empty", "--output", "b", "--report")
    assert code == 0, err
    assert (
        run("predict", "part.ks", frames / "test/empty", "--output", "b", "--fail-on-anomaly")[0]
        == 3
    )


def test_it_is_calibrated_anew(frames: Path, locator: Path, run: Run) -> None:
    run("fit", frames / "train/good", "--output", "part.ks", *SMALL, "--locator", locator)
    code, out, err = run("calibrate", "part.ks", frames / "test/good")
    assert code == 0, err
    assert "calibrated by 3 normal images held out" in out


def test_it_is_evaluated(frames: Path, locator: Path, run: Run) -> None:
    write(frames / "test/hole/99.png", 0, empty=True)
    code, _, err = run(
        *("evaluate", frames, "--json", "figures.json", "--method", "patchcore", *SMALL),
        *("--locator", locator),
    )
    assert code == 0, err
    figures = json.loads(Path("figures.json").read_text())
    assert figures["image_auroc"] == 1
    assert figures["method"] == "aligned"


def test_what_goes_with_a_locator_alone_is_refused_without(frames: Path, run: Run) -> None:
    common = ("fit", frames / "train/good", "--output", "part.ks", *SMALL)
    for option, value in (("--part-margin", "0.1"), ("--not-found", "error")):
        code, _, err = run(*common, option, value)
        assert (code, err) == (2, f"knnspect: {option}: goes with --locator\n")
    code, _, err = run(*common, "--locator", "none.ks")
    assert code == 1
    assert "none.ks: cannot be opened" in err


def test_what_a_composed_model_cannot_is_refused(frames: Path, locator: Path, run: Run) -> None:
    common = ("fit", frames / "train/good", "--output", "part.ks", *SMALL, "--locator", locator)
    trained = ("--checkpoint", "a", "--method", "simplenet")
    for options in (("--max-memory", "2GB"), trained, ("--clean",)):
        code, _, err = run(*common, *options)
        assert code == 2
        assert f"{options[0]}: does not go with" in err
    assert run(*common)[0] == 0
    images = frames / "test/good"
    for command in (
        ("add", "part.ks", images),
        ("remove", "part.ks", "0.png"),
        ("reject", "part.ks", images, "--name", "hole"),
        ("export", "part.ks", images, "--output", "out.ks"),
        ("watch", "part.ks", images),
        ("bench", images, "--model", "part.ks"),
    ):
        code, _, err = run(*command)
        assert code == 2, (command, err)
        assert "part.ks: is composed of several detectors" in err, command


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Faces of one place, of which some have a hole in their right half."""
    for n in range(8):
        write_face(tmp_path / f"parts/train/good/{n}.png", n)
    write_face(tmp_path / "parts/test/good/8.png", 3)
    write_face(tmp_path / "parts/test/hole/9.png", 9, defective=True)
    boxes = {"left": [0, 0, SIDE, 22], "right": [0, 22, SIDE, SIDE]}
    regions = {"size": [SIDE, SIDE], "regions": boxes}
    (tmp_path / "regions.json").write_text(json.dumps(regions))
    return tmp_path / "parts"


def write_face(file: Path, seed: int, defective: bool = False) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(face(seed, defective)).save(file)


@pytest.mark.parametrize("cut", [False, True])
def test_regions_are_learnt_and_judged(parts: Path, run: Run, cut: bool) -> None:
    code, _, err = run(
        *("fit", parts / "train/good", "--output", "halves.ks", "--regions", "regions.json"),
        *(("--cut-regions",) if cut else ()),
        *SMALL,
    )
    assert code == 0, err
    code, out, err = run("info", "halves.ks")
    assert code == 0, err
    assert "region left" in out
    assert "view right" in out
    code, _, err = run("predict", "halves.ks", parts / "test", "--output", "found", "--report")
    assert code == 0, err
    scores = {row["id"]: row for row in rows("found")}
    views = scores["hole/9.png"]["views"]
    assert views["right"]["verdict"] == scores["hole/9.png"]["verdict"] == "anomalous"
    assert views["right"]["p_value"] <= views["left"]["p_value"]
    assert scores["good/8.png"]["verdict"] == "normal"
    page = Path("found/report.html").read_text()
    assert page.count('<table class="views">') == 2
    assert "; right" in page


def test_regions_of_a_located_part(frames: Path, locator: Path, parts: Path, run: Run) -> None:
    code, _, err = run(
        *("evaluate", frames, "--method", "patchcore", *SMALL, "--json", "figures.json"),
        *("--locator", locator, "--regions", "regions.json"),
    )
    assert code == 0, err
    assert json.loads(Path("figures.json").read_text())["image_auroc"] == 1
    assert parts.is_dir()


def test_regions_that_are_none_are_refused(parts: Path, run: Run) -> None:
    common = ("fit", parts / "train/good", "--output", "halves.ks", *SMALL)
    code, _, err = run(*common, "--cut-regions")
    assert (code, err) == (2, "knnspect: --cut-regions: goes with --regions\n")
    code, _, err = run(*common, "--regions", "none.json")
    assert code == 2
    assert "--regions: none.json: expected a dict of masks by names, a folder of masks" in err
    outside = {"a": [0, 0, SIDE + 1, 4]}
    Path("regions.json").write_text(json.dumps({"size": [SIDE, SIDE], "regions": outside}))
    code, _, err = run(*common, "--regions", "regions.json")
    assert code == 2
    assert "region a: expected a box within 48 x 48 pixels" in err
    code, _, err = run(*common, "--regions", "regions.json", "--method", "padim")
    assert code == 2


@pytest.fixture
def lit(tmp_path: Path) -> Path:
    """Faces in two lights; each defect is seen in one of them."""

    def write_part(name: str, seed: int, seen_in: str = "") -> None:
        for light in ("top", "side"):
            write_face(tmp_path / f"lit/{name}_{light}.png", seed, light == seen_in)

    for n in range(8):
        write_part(f"train/good/{n}", n)
    for n in range(8, 11):
        write_part(f"test/good/{n}", n - 8)
    write_part("test/hole/11", 11, "top")
    write_part("test/hole/12", 12, "side")
    return tmp_path / "lit"


def test_parts_in_several_lights_are_learnt_and_judged(lit: Path, run: Run) -> None:
    code, out, err = run(
        *("fit", lit / "train/good", "--output", "lit.ks", "--method", "patchcore", *SMALL),
        *("--lights", "{part}_{light}.png"),
    )
    assert code == 0, err
    assert "learnt from 8 images" in out
    code, out, err = run("info", "lit.ks")
    assert code == 0, err
    assert "view top" in out
    assert "{part}_{light}.png" in out
    code, out, err = run("predict", "lit.ks", lit / "test", "--output", "found", "--report")
    assert code == 0, err
    scores = {row["id"]: row for row in rows("found")}
    assert sorted(scores) == ["good/10", "good/8", "good/9", "hole/11", "hole/12"]
    assert scores["hole/11"]["view"] == "top"
    assert scores["hole/12"]["view"] == "side"
    verdicts = {id_: row["verdict"] for id_, row in scores.items()}
    assert verdicts == {id_: "anomalous" if "hole" in id_ else "normal" for id_ in scores}
    assert out.count("\n") == 5
    assert Path("found/overlays/hole/12.png").is_file()
    page = Path("found/report.html").read_text()
    assert page.count('<article class="card') == 5
    assert page.count('<th scope="row"><bdi>side</bdi></th>') == 5


def test_a_light_that_is_missing_is_named(lit: Path, run: Run) -> None:
    common = ("fit", lit / "train/good", "--output", "lit.ks", *SMALL)
    lights = ("--lights", "{part}_{light}.png")
    assert run(*common, *lights, "--missing-light", "warn")[0] == 0
    (lit / "test/hole/12_side.png").unlink()
    code, _, err = run("predict", "lit.ks", lit / "test", "--output", "found")
    assert code == 0, err
    assert "part hole/12: has no picture in the light side: it is judged by top alone" in err
    assert run(*common, *lights)[0] == 0
    code, _, err = run("predict", "lit.ks", lit / "test", "--output", "found")
    assert code == 1
    assert "part hole/12: has no picture in the light side, of side, top" in err
    code, _, err = run("predict", "lit.ks", lit / "test", "--output", "found", "--skip-bad")
    assert code == 0
    assert "left out image hole/12" in err
    code, _, err = run(*common, "--missing-light", "warn")
    assert (code, err) == (2, "knnspect: --missing-light: goes with --lights\n")
    code, _, err = run(*common, "--lights", "{part}.png")
    assert code == 2
    assert "--lights: expected a pattern with a part and a light" in err


def test_parts_in_several_lights_are_evaluated(lit: Path, run: Run) -> None:
    code, _, err = run(
        *("evaluate", lit, "--method", "patchcore", *SMALL, "--json", "figures.json"),
        *("--lights", "{part}_{light}.png"),
    )
    assert code == 0, err
    figures = json.loads(Path("figures.json").read_text())
    assert figures["image_auroc"] == 1
    assert (figures["train_images"], figures["test_images"]) == (8, 5)
    assert figures["undefined"]["pixel_auroc"] == "a part has several pictures"
    assert figures["kinds"]["hole"]["images"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "expected either --box or --mask"),
        (("--box", "1,2,3"), "--box: expected TOP,LEFT,BOTTOM,RIGHT"),
        (("--box", "0,0,480,48"), "expected one within the template's 48 x 48 pixels"),
        (("--box", "0,0,48,48", "--turns", "0"), "turns: expected at least 1"),
        (("--box", "0,0,48,48", "--method", "eyes"), "--method: expected one of golden_template"),
    ],
)
def test_a_locator_says_what_it_expects(
    frames: Path, run: Run, options: tuple[str, ...], words: str
) -> None:
    code, _, err = run("fit-locator", "template.png", "--output", "face.ks", *options)
    assert code == 2
    assert words in err
    assert not Path("face.ks").exists()
    assert frames.is_dir()
