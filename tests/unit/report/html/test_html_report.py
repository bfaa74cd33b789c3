"""What the page says, and that it needs nothing beside it."""

from __future__ import annotations

import copy
import itertools
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reports import BAD_NAME, fitted, texture, write_report

import knnspect as ks
from knnspect.errors import ParameterError
from knnspect.report.html import HtmlReport
from knnspect.report.html.pictures import map_layer


class Page(HTMLParser):
    """The elements of a page, with their attributes and the text in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.elements
            if name == tag and wanted.items() <= found.items()
        ]


@pytest.fixture(scope="module")
def detector() -> ks.Spade:
    return fitted()


@pytest.fixture(scope="module")
def page(detector: ks.Spade, tmp_path_factory: pytest.TempPathFactory) -> Page:
    images = {
        "good.png": texture(100),
        BAD_NAME: texture(101, defect=True),
        "deep/second.png": texture(102, defect=True),
    }
    return Page(write_report(detector, images, tmp_path_factory.mktemp("page") / "report.html"))


def test_names_are_text_and_never_markup(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert BAD_NAME in [card["data-id"] for card in page.all("article")]
    assert BAD_NAME in page.text
    assert "Judged by model of <stripes>" in page.text


def test_the_page_refers_to_nothing_outside_itself(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name, "#")
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert "default-src 'none'" in policy


def test_images_have_verdict_score_and_p_value_those_that_score_most_come_first(
    page: Page, detector: ks.Spade
) -> None:
    cards = page.all("article")
    assert [card["data-verdict"] for card in cards] == ["anomalous", "anomalous", "normal"]
    scores = [float(card["data-score"]) for card in cards]
    assert scores == sorted(scores, reverse=True)
    assert detector.calibration_ is not None
    p_value = detector.calibration_.p_value(scores[0])
    assert f"score {scores[0]:.4g} p-value {p_value:.3g}" in page.text


def test_what_is_promised_is_said_in_words(page: Page) -> None:
    assert "At a false-alarm rate of 10 %, at most 10 of 100 normal images" in page.text
    assert "12 normal images left out one by one" in page.text
    assert "threshold" in page.all("svg", role="img")[0]["aria-label"]


def test_each_region_is_outlined_and_shown_beside_the_nearest_normal_place(page: Page) -> None:
    assert "Region 1" in page.text
    assert "Nearest: normal" in page.text
    outlines = page.all("svg", **{"class": "outlines"})
    assert len(outlines) == 2
    normal = page.all("image", id="normal-0")
    assert normal[0]["href"].startswith("data:image/jpeg;base64,")
    drawn = page.all("use", href="#normal-0")
    assert len(drawn) % 2 == 0, "enlarged, and where it lies"
    assert drawn[0]["transform"] == "scale(64 64)"
    assert "The model keeps no picture" not in page.text
    assert {outline["viewbox"] for outline in outlines} == {"0 0 64 64"}


def test_without_thumbnails_the_page_says_that_there_are_none(
    detector: ks.Spade, tmp_path: Path
) -> None:
    bare = copy.copy(detector)
    bare.thumbnails = 0
    page = Page(write_report(bare, {"a.png": texture(101, True)}, tmp_path / "report.html"))
    assert not page.all("use")
    assert "The model keeps no picture of the nearest normal image." in page.text
    assert "Nearest: normal" in page.text


def test_every_picture_has_a_text_or_is_a_layer_of_one_that_has(page: Page) -> None:
    for image in page.all("img"):
        assert bool(image["alt"]) == (image["class"] == "picture")
    for drawing in page.all("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"


def test_headings_do_not_skip_a_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_without_calibration_the_page_says_what_is_missing(tmp_path: Path) -> None:
    detector = fitted(1)
    text = write_report(detector, {"a.png": texture(5, defect=True)}, tmp_path / "report.html")
    page = Page(text)
    assert "No verdicts." in page.text
    assert "calibrate it with normal images that were not learnt from" in page.text
    assert page.all("article")[0]["data-verdict"] == ""
    assert "Strongest place" in page.text
    assert not page.all("input", name="filter")


def test_detectors_without_normal_cells_have_a_page_without_evidence(tmp_path: Path) -> None:
    backbone = ks.Backbone("efficientnet_lite0", levels=(1,), image_size=32, device="cpu")
    detector = ks.SimpleNet(backbone, max_epochs=1)
    normal = np.stack([texture(seed) for seed in range(8)])
    detector.fit(normal)
    report = HtmlReport(detector, "network")
    for prediction in detector.iter_predict({"a": texture(9, defect=True)}, keep_pictures=True):
        assert prediction.picture is not None
        report.add(prediction, prediction.picture)
    report.write(tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "simplenet" in page.text
    assert "Nearest:" not in page.text


def test_of_many_images_those_with_the_largest_scores_are_shown(
    detector: ks.Spade, tmp_path: Path
) -> None:
    images = {f"{seed}.png": texture(seed, defect=seed in (203, 205)) for seed in range(200, 208)}
    page = Page(write_report(detector, images, tmp_path / "report.html", most_images=2))
    assert {card["data-id"] for card in page.all("article")} == {"203.png", "205.png"}
    assert "Shown are the 2 images with the largest scores; scores.csv has all 8." in page.text


def test_a_page_without_an_image_is_an_error(detector: ks.Spade, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="expected at least one that was judged"):
        HtmlReport(detector, "m").write(tmp_path / "report.html")


def test_pictures_are_reduced(detector: ks.Spade, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8)
    page = Page(write_report(detector, {"large.png": image}, tmp_path / "report.html"))
    data = page.all("img", **{"class": "picture"})[0]["src"].partition(",")[2]
    with Image.open(BytesIO(b64decode(data))) as picture:
        assert picture.size == (512, 398)


def test_of_a_map_reduced_for_the_page_no_peak_is_lost() -> None:
    map_ = np.zeros((1000, 1200), np.float32)
    map_[517, 803] = 4
    data = map_layer(map_, scale=5, above=3).partition(",")[2]
    with Image.open(BytesIO(b64decode(data))) as layer:
        alpha = np.asarray(layer.convert("RGBA"))[..., 3]
    assert (alpha > 100).any()
    assert (alpha > 0).mean() < 0.01


def test_a_map_without_any_value_has_a_page(detector: ks.Spade, tmp_path: Path) -> None:
    """Nothing is divided by the largest value of nothing."""
    bare = copy.copy(detector)
    bare.calibration_, bare.normal_map_max_ = None, float("nan")
    write_report(bare, {"a.png": texture(0)}, tmp_path / "report.html")
