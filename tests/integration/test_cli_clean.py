"""``knnspect clean``, and ``fit --clean``."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import Run

import knnspect as ks
from knnspect.data import elpv_split


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Solar cells with some defective ones, one of which has a name that is markup."""
    folder = tmp_path / "cells"
    folder.mkdir()
    split = elpv_split(n_train=45, n_functional=1, n_defective=5, seed=1)
    for file in split.train:
        shutil.copy(file, folder)
    for number, file in enumerate(split.defective):
        shutil.copy(file, folder / f"odd <b>{number}.png")
    return folder


OPTIONS = ("--image-size", "96")


class Page(HTMLParser):
    """The ids of a page's cards and what it would load."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.tags.add(tag)
        if tag == "article":
            self.ids.append(of["data-id"] or "")
        self.sources += [value for name in ("src", "href") if (value := of.get(name))]


def test_dropped_images_are_listed_shown_and_left_out(run: Run, cells: Path) -> None:
    code, out, err = run(
        "clean", cells, "--output", "drop.txt", "--report", "clean.html", "--clusters", 5, *OPTIONS
    )
    assert code == 0, err
    listed = Path("drop.txt").read_text().splitlines()
    assert listed == sorted(listed)
    assert sum(name.startswith("odd") for name in listed) >= 4
    assert f"drop.txt: {len(listed)} of 50 images are dropped" in err
    assert re.search(rf"dropped\W+{len(listed)}\b", out)
    assert "variance" in out
    page = Page(Path("clean.html"))
    assert set(listed) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "b" not in page.tags, "names are escaped"
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    text = Path("clean.html").read_text()
    assert f"{len(listed)} of 50 images dropped" in text
    assert "codes, 1" in text
    fitted = run("fit", cells, "--without", "drop.txt", "--output", "m.ks", *OPTIONS)
    assert fitted[0] == 0
    assert ks.load("m.ks").n_images_ == 50 - len(listed)


def test_fit_cleans_first_and_says_so(run: Run, cells: Path) -> None:
    Path("some.txt").write_text("odd <b>0.png\n")
    options = ("--clean", "--without", "some.txt", "--output", "m.ks", *OPTIONS)
    code, _, err = run("fit", cells, *options)
    assert code == 0, err
    listed = Path("m.ks.dropped.txt").read_text().splitlines()
    assert f"m.ks.dropped.txt: {len(listed)} of 49 images are dropped" in err
    assert listed
    assert "odd <b>0.png" not in listed
    assert ks.load("m.ks").n_images_ == 49 - len(listed)


def test_duad_says_what_it_dropped_by_itself(run: Run, cells: Path) -> None:
    duad = ("--method", "duad", "--output", "m.ks", "--max-epochs", "1", *OPTIONS)
    code, _, err = run("fit", cells, *duad, "--clusters", "5")
    assert code == 0, err
    listed = Path("m.ks.dropped.txt").read_text().splitlines()
    assert f"m.ks.dropped.txt: {len(listed)} of 50 images are dropped" in err
    assert ks.load("m.ks").n_images_ == 50 - len(listed)
    code, _, err = run("fit", cells, *duad, "--clean")
    assert code == 2
    assert "--clean: duad drops images of its own accord" in err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--clusters", "1"), 2, "clusters: expected at least 2, got 1"),
        (("--clusters", "51"), 2, "clusters: expected at most the number of images, 50, got 51"),
        (("--drop", "0"), 2, "drop: expected"),
        (("--drop", "1"), 2, "drop: expected"),
        (("--image-size", "big"), 2, "--image-size"),
        (("--report", "none/page.html"), 1, "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Run, cells: Path, options: tuple[str, str], code: int, words: str
) -> None:
    got, out, err = run("clean", cells, "--output", "d.txt", "--backbone", "pixels", *options)
    assert (got, out) == (code, "")
    assert words in err
    assert not Path("d.txt").exists()


def test_pixels_can_describe_images(run: Run, cells: Path) -> None:
    options = ("--backbone", "pixels", "--image-size", "16x20", "--clusters", "4", "--seed", "3")
    code, out, err = run("clean", cells, "--output", "drop.txt", *options)
    assert code == 0, err
    assert "50 images" in out
    assert Path("drop.txt").read_text()


def test_images_that_cannot_be_used_are_left_out_when_asked(run: Run, cells: Path) -> None:
    (cells / "bad.png").write_bytes(b"text")
    options = ("--output", "d.txt", "--report", "page.html", "--backbone", "pixels")
    code, _, err = run("clean", cells, *options)
    assert code == 1
    assert "bad.png" in err
    code, _, err = run("clean", cells, *options, "--skip-bad")
    assert code == 0, err
    assert "1 left out" in err
    assert "bad.png" in Path("page.html").read_text()
    fit = ("fit", cells, "--clean", "--skip-bad", "--output", "m.ks", *OPTIONS)
    code, _, err = run(*fit)
    assert code == 0, err
    assert err.count("left out image bad.png") == 1
