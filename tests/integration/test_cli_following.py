"""Sequences on the command line: a part is followed, and judged once."""

from __future__ import annotations

import csv
import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from faces import normal_frames, the_faces, trained_locator
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect.detectors.following import joint_p_value

COLUMNS = ("number", "verdict", "p_value", "first", "last", "strongest")


@lru_cache
def frames() -> list[NDArray[np.uint8]]:
    """A good part that moves, three frames without one, and a part with a green mark."""
    faces = the_faces()
    ways = [(60.0 + 2 * step, 60.0 + 3 * step) for step in range(6)]
    good = [faces.pasted("grass", 3 * step, 1, at)[0] for step, at in enumerate(ways)]
    spoilt = []
    for frame, at in zip(good, ways, strict=True):
        spoilt.append(frame.copy())
        row, column = round(at[0]), round(at[1])
        spoilt[-1][row - 7 : row + 1, column - 12 : column - 3] = (0, 255, 0)
    return [*good, *[faces.ground("brick")] * 5, *spoilt]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    locator = trained_locator()
    normal = {**normal_frames(), **{f"n{n}": frames()[n] for n in range(6)}}
    found = {part.image_id for part in locator.locate_all(normal) if part.found}
    backbone = ks.Backbone(levels=(1, 2), image_size=64)
    detector = ks.Aligned(ks.PatchCore(backbone, coreset=1.0, sigma=1.0), locator=locator)
    detector.fit({id_: frame for id_, frame in normal.items() if id_ in found})
    path = tmp_path_factory.mktemp("following") / "face.ks"
    detector.save(path)
    return path


def rows_of(out: str) -> list[dict[str, str]]:
    return [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in out.splitlines()]


def test_a_video_gives_a_line_a_part(model: Path, run: Run) -> None:
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("imageio_ffmpeg")
    imageio.imwrite("clip.mp4", frames(), plugin="FFMPEG", fps=10, quality=9, macro_block_size=1)
    code, out, err = run("predict", model, "clip.mp4", "--output", "found", "--report")
    assert code == 0, err
    rows = rows_of(out)
    assert [row["number"] for row in rows] == ["1", "2"]
    assert rows[0]["verdict"] == "normal"
    assert rows[0]["first"] == "clip.mp4#0001"
    assert rows[1]["first"] >= "clip.mp4#0012"
    assert float(rows[1]["p_value"]) < float(rows[0]["p_value"])
    assert "of 2 parts anomalous at a false-alarm rate of " in err
    document = json.loads(Path("found/scores.json").read_text(encoding="utf-8"))
    assert [part["number"] for part in document["parts"]] == [1, 2]
    with Path("found/scores.csv").open(encoding="utf-8", newline="") as file:
        judged = {row["id"]: row for row in csv.DictReader(file)}
    assert list(judged) == [f"clip.mp4#{n:04d}" for n in range(1, 18)]
    for part, row in zip(document["parts"], rows, strict=True):
        assert part["frames"][0] == row["first"]
        assert part["frames"][-1] == row["last"]
        assert part["strongest_frame"] == row["strongest"]
        scores = {id_: float(judged[id_]["score"]) for id_ in part["frames"]}
        assert max(scores, key=scores.__getitem__) == row["strongest"]
        p_values = [float(judged[id_]["p_value"]) for id_ in part["frames"]]
        assert part["p_value"] == pytest.approx(joint_p_value(p_values), rel=1e-6)
    followed = {id_ for part in document["parts"] for id_ in part["frames"]}
    for id_, row in judged.items():
        assert (row["verdict"] == "not found") == (id_ not in followed)
    assert Path("found/report.html").stat().st_size > 10_000
    assert (Path("found") / document["images"][0]["overlay"]).is_file()


def test_a_numbered_folder_is_a_sequence_if_asked_for(model: Path, run: Run) -> None:
    folder = Path("line")
    folder.mkdir()
    for number, frame in enumerate(frames()[:11]):
        Image.fromarray(frame).save(folder / f"frame{number}.png")
    rate = ("--false-alarm-rate", "0.5", "--part-share", "1", "--missed", "2")
    code, out, err = run("predict", model, folder, "--output", folder / "found", "--follow", *rate)
    assert code == 0, err
    (row,) = rows_of(out)
    assert row["first"] == "frame0.png"
    assert "0 of 1 part anomalous at a false-alarm rate of 0.5" in err
    # What was written into the folder is no frame.
    again = ("predict", model, folder, "--output", folder / "found", "--follow", *rate)
    code, same, err = run(*again, "--fail-on-anomaly")
    assert code == 0, err
    assert same == out
    # Without --follow each frame is an image.
    code, out, err = run("predict", model, folder, "--output", "alone")
    assert code == 0, err
    assert "frame10.png" in out
    assert "parts" not in json.loads(Path("alone/scores.json").read_text(encoding="utf-8"))


def test_a_part_that_is_anomalous_ends_with_its_code(model: Path, run: Run) -> None:
    folder = Path("line")
    folder.mkdir()
    for number, frame in enumerate(frames()[-6:]):
        Image.fromarray(frame).save(folder / f"{number}.png")
    code, out, err = run(
        *("predict", model, folder, "--output", "found", "--follow", "--fail-on-anomaly"),
        *("--false-alarm-rate", "0.3", "--part-share", "0.5"),
    )
    assert code == 3, err
    assert rows_of(out)[0]["verdict"] == "anomalous"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--follow", "--missed", "-1"), "--missed: expected at least 0"),
        (("--follow", "--part-share", "1.5"), "--part-share: expected at most 1"),
        (("--follow", "--false-alarm-rate", "0.001"), "expected at least 0."),
        (("--missed", "2"), "--missed: goes with --follow, or a video"),
        (("--part-share", "0.2"), "--part-share: goes with --follow, or a video"),
    ],
)
def test_bad_options_are_refused(
    model: Path, run: Run, options: tuple[str, ...], expected: str
) -> None:
    Path("line").mkdir()
    Image.fromarray(frames()[0]).save("line/0.png")
    code, _, err = run("predict", model, "line", "--output", "found", *options)
    assert code == (1 if "--false-alarm-rate" in options else 2)
    assert expected in err.replace("\n", " ")


def test_models_that_follow_nothing_are_refused(tmp_path: Path, run: Run) -> None:
    spade = ks.Spade(ks.Backbone(levels=(1, 2), image_size=32)).fit(frames()[:3])
    spade.save(tmp_path / "spade.ks")
    Path("clip.mp4").write_bytes(b"")
    code, _, err = run("predict", "spade.ks", "clip.mp4", "--output", "found")
    assert code == 2
    assert "clip.mp4: the frames of a sequence are judged by a model that follows a part" in err
