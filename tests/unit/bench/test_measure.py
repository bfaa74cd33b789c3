"""What a run tells of its rivals, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import knnspect as ks
from knnspect import bench
from knnspect.backends import Capabilities, RustBackend
from knnspect.bench import (
    BenchReport,
    DetectorCase,
    Labelled,
    SearchCase,
    fitted_case,
    run_bench,
    save_chart,
    synthetic_case,
    synthetic_pyramid,
    tables,
)
from knnspect.data import MVTecDataset, elpv_split

SHAPES = [(8, 8, 5), (4, 4, 7)]


class Stub(RustBackend):
    """The Rust core, with something added to what it finds."""

    name = "stub"

    def __init__(self, is_exact: bool = True, seconds: float = 0.0) -> None:
        super().__init__()
        self.capabilities = Capabilities("rows", ("cpu",), ("float32",), is_exact=is_exact)
        self._seconds = seconds
        self.n_searches = 0

    def search(self, *arguments: Any) -> ks.Neighbors:
        self.n_searches += 1
        time.sleep(self._seconds)
        return self.alter(super().search(*arguments))

    def alter(self, found: ks.Neighbors) -> ks.Neighbors:
        return found


class Wrong(Stub):
    """Cell (4, 5) is said to be one part in a thousand farther."""

    def alter(self, found: ks.Neighbors) -> ks.Neighbors:
        distances = found.sq_distances.copy()
        distances[:, 4, 5] *= 1.001
        return replace(found, sq_distances=distances)


class Approximate(Stub):
    """Finds the right cells in all rows but the lowest quarter."""

    def alter(self, found: ks.Neighbors) -> ks.Neighbors:
        cells = found.cells.astype(int)
        cells[:, 6:, :, :, 0] = (cells[:, 6:, :, :, 0] + 1) % 8
        return replace(found, cells=cells)


class Greedy(Stub):
    """Has no room for the gallery."""

    def search(self, *arguments: Any) -> ks.Neighbors:
        raise MemoryError("40 GB of rows")


@pytest.fixture(scope="module")
def case() -> SearchCase:
    return synthetic_case(SHAPES, n_images=3, n_queries=2, k=2)


def quick(case: bench.Case, backends: Any, **options: Any) -> BenchReport:
    return run_bench(case, backends, **{"batch_sizes": [3], "repeats": 2, "pause": 0, **options})


def test_times_are_those_of_the_work(case: SearchCase) -> None:
    slow = Stub(seconds=0.03)
    report = quick(case, {"rust": "rust", "slow": slow})
    # Cold and once more, compared on each query, warm, then timed alone and in batches.
    assert slow.n_searches == 2 + 2 + 1 + 2 * 2 + 2
    figures = report.backends["slow"]
    assert figures.n_times == 4
    assert 30 <= figures.ms["p50"] <= figures.ms["p95"] <= figures.ms["p99"] < 1000
    assert figures.cold_ms >= 30
    assert figures.warm_ms >= 30
    assert 1 < figures.images_per_s["3"] < 100
    assert report.backends["rust"].ms["p50"] < 30
    assert figures.stages["matching"] == figures.ms


def test_a_backend_that_is_wrong_is_refused_before_anything_is_timed(case: SearchCase) -> None:
    wrong = Wrong()
    with pytest.raises(ks.DisagreementError, match=r"'abacus' .* image 000000, cell \(4, 5\)"):
        quick(case, {"abacus": wrong, "rust": "rust"})
    assert wrong.n_searches == 3
    with pytest.raises(ks.DisagreementError, match="'abacus'"):
        quick(case, {"rust": "rust", "abacus": Wrong()})


def test_an_approximate_backend_is_measured(case: SearchCase) -> None:
    report = quick(case, {"rust": "rust", "ann": Approximate(is_exact=False)})
    assert report.backends["ann"].recall == pytest.approx(0.75, abs=0.03)
    assert not report.backends["ann"].is_exact
    assert report.backends["rust"].recall == 1
    # The same answers are refused of one that says it is exact.
    with pytest.raises(ks.DisagreementError, match=r"cell \(6, 0\)"):
        quick(case, {"ann": Approximate()})


def test_a_backend_without_memory_is_told_and_left_out(case: SearchCase) -> None:
    report = quick(case, {"greedy": Greedy(), "rust": "rust"})
    assert list(report.backends) == ["rust"]
    assert "40 GB of rows" in report.unavailable["greedy"]
    with pytest.raises(MemoryError, match=r"greedy: .*40 GB"):
        quick(case, {"greedy": Greedy()})


def test_all_that_can_run_are_the_default(
    case: SearchCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnspect.bench.measure.available_backends", lambda: ["rust"])
    monkeypatch.setattr(
        "knnspect.bench.measure.unavailable_backends", lambda: {"abacus": "buy one"}
    )
    report = quick(case, None)
    assert (list(report.backends), report.unavailable) == (["rust"], {"abacus": "buy one"})
    assert quick(case, ["rust"]).unavailable == {}


def test_memory_that_a_search_takes_is_seen(case: SearchCase) -> None:
    class Hungry(Stub):
        def search(self, *arguments: Any) -> ks.Neighbors:
            self.held = np.ones(8_000_000)
            time.sleep(0.02)
            return super().search(*arguments)

    figures = quick(case, {"hungry": Hungry(), "rust": "rust"}).backends
    if figures["hungry"].host_peak_bytes:  # the system tells
        assert 60e6 < figures["hungry"].host_added_bytes < figures["hungry"].host_peak_bytes
        assert figures["rust"].host_added_bytes < 30e6


def test_a_report_is_json_with_all_that_was_measured(case: SearchCase) -> None:
    document = quick(case, ["rust"], threads=1).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert set(document) == {
        "case",
        "settings",
        "machine",
        "gallery_bytes",
        "backends",
        "unavailable",
        "auto",
    }
    assert document["auto"]["backend"] == "rust"
    assert document["settings"] == {
        "threads": 1,
        "repeats": 2,
        "batch_sizes": [3],
        "pause_ms": 0,
    }
    assert document["case"]["levels"] == [list(shape) for shape in SHAPES]
    assert document["gallery_bytes"] == 4 * 3 * (8 * 8 * 5 + 4 * 4 * 7)
    assert {"cpu", "cores", "knnspect"} <= set(document["machine"])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"backends": ["abacus"]}, "abacus"),
        ({"backends": []}, "backends"),
        ({"backends": ["rust", "rust"]}, "twice"),
        ({"repeats": 0}, "repeats"),
        ({"threads": 0}, "threads"),
        ({"batch_sizes": [0]}, "batch_sizes"),
    ],
)
def test_bad_arguments_are_named(case: SearchCase, options: dict[str, Any], word: str) -> None:
    with pytest.raises(ks.ParameterError, match=word):
        quick(case, **{"backends": ["rust"], **options})


def test_synthetic_features_are_smooth_seeded_and_of_one_kind() -> None:
    pyramid = synthetic_pyramid(2, [(32, 32, 6), (8, 8, 9)], seed=3)
    assert pyramid.shapes == [(32, 32, 6), (8, 8, 9)]
    again = synthetic_pyramid(2, [(32, 32, 6), (8, 8, 9)], seed=3)
    other = synthetic_pyramid(2, [(32, 32, 6), (8, 8, 9)], seed=4)
    for level, same, different in zip(pyramid.levels, again.levels, other.levels, strict=True):
        np.testing.assert_array_equal(level, same)
        assert np.abs(level - different).max() > 0.1
        # Both seeds share most of what they show; white noise would not.
        assert np.corrcoef(level.ravel(), different.ravel())[0, 1] > 0.5
    fine = pyramid.levels[0]
    assert np.abs(np.diff(fine, axis=1)).mean() < 0.5 * fine.std()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [((0, SHAPES), "n_images"), ((1, []), "shapes"), ((1, [(8, 8, 0)]), r"shapes\[0\]")],
)
def test_shapes_that_cannot_be_are_named(arguments: Any, word: str) -> None:
    with pytest.raises(ks.ParameterError, match=word):
        synthetic_pyramid(*arguments)
    with pytest.raises(ks.ShapeError, match="divide"):
        synthetic_pyramid(1, [(8, 8, 3), (3, 3, 3)])


def test_a_k_that_is_too_large_is_named() -> None:
    with pytest.raises(ks.ParameterError, match="k: expected at most the 128 cells of 2 images"):
        synthetic_case(SHAPES, n_images=2, n_queries=1, k=129)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> MVTecDataset:
    root = tmp_path_factory.mktemp("dataset")
    split = elpv_split(n_train=5, n_functional=4, n_defective=0)
    folders = ["train/good"] * 5 + ["test/good"] * 2 + ["test/spot"] * 2
    for path, folder in zip([*split.train, *split.functional], folders, strict=True):
        (root / folder).mkdir(parents=True, exist_ok=True)
        pixels = np.array(Image.open(path))
        if folder == "test/spot":
            pixels[60:130, 170:240] = 0
            mask = np.zeros_like(pixels)
            mask[60:130, 170:240] = 255
            (root / "ground_truth/spot").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "ground_truth/spot" / path.name)
        Image.fromarray(pixels).save(root / folder / path.name)
    return MVTecDataset(root)


@pytest.fixture(scope="module")
def judging(dataset: MVTecDataset) -> DetectorCase:
    spade = ks.Spade(ks.Backbone(image_size=64, device="cpu"), image_neighbors=3, score="image")
    return fitted_case(spade, [image.path for image in dataset.test], dataset.train, 3)


class TestDetectors:
    """From real images to their maps."""

    def test_stages_add_up_to_the_total(self, judging: DetectorCase) -> None:
        stages = judging.run([0, 1, 0], "rust", None)
        total = stages.pop("total")
        assert list(stages) == ["decode", "features", "retrieval", "matching", "map"]
        assert all(seconds > 0 for seconds in stages.values())
        assert 0.5 * total < sum(stages.values()) <= total

    def test_searches_are_those_of_the_detector(
        self, judging: DetectorCase, dataset: MVTecDataset
    ) -> None:
        assert len(judging) == 3
        predictions = {p.id: p for p in judging.detector.predict([i.path for i in dataset.test])}
        for index, id_ in enumerate(judging.ids):
            expected = predictions[id_].neighbors
            assert expected is not None
            found = judging.search(index, "rust", 1)
            np.testing.assert_array_equal(found.sq_distances, expected.sq_distances)
            np.testing.assert_array_equal(found.images, expected.images)

    def test_a_backend_that_changes_nothing_changes_no_area(
        self, judging: DetectorCase, dataset: MVTecDataset
    ) -> None:
        class Reversed(Stub):
            """Says of the farthest cells that they are the nearest."""

            def alter(self, found: ks.Neighbors) -> ks.Neighbors:
                return replace(found, sq_distances=found.sq_distances.max() - found.sq_distances)

        rivals = {"same": Stub(), "reversed": Reversed(is_exact=False)}
        report = quick(judging, rivals, repeats=1, dataset=dataset)
        same, other = (report.backends[name] for name in rivals)
        assert same.accuracy is not None
        assert same.change == dict.fromkeys(same.accuracy, 0.0)
        assert same.accuracy["pixel_auroc"] > 0.9
        assert other.accuracy is not None
        assert other.change is not None
        assert other.change["pixel_auroc"] < -0.3
        assert other.change["pixel_auroc"] == (
            other.accuracy["pixel_auroc"] - same.accuracy["pixel_auroc"]
        )
        assert other.change["image_auroc"] == 0  # of pooled features, which no backend searches
        text = rendered(report)
        assert "change of pixel AUROC" in text
        assert f"{other.change['pixel_auroc']:+.5f}" in text

    def test_areas_that_are_not_defined_are_left_out(
        self, judging: DetectorCase, dataset: MVTecDataset, tmp_path: Path
    ) -> None:
        shutil.copytree(dataset.root, tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy/ground_truth")
        with pytest.warns(ks.DatasetWarning, match="pixel_auroc is not defined: "):
            labelled = Labelled(MVTecDataset(tmp_path / "copy"))
        report = quick(judging, {"same": Stub()}, repeats=1, dataset=labelled)
        assert report.backends["same"].accuracy is not None
        assert list(report.backends["same"].accuracy) == ["image_auroc", "map_max_auroc"]
        assert "no mask" in report.case["undefined"]["pixel_auroc"]
        assert "pixel AUROC" not in rendered(report)
        assert "change of map AUROC" in rendered(report)

    def test_normal_images_are_held_out_where_there_are_no_others(
        self, dataset: MVTecDataset
    ) -> None:
        spade = ks.Spade(ks.Backbone(image_size=64, device="cpu"), image_neighbors=2)
        case = fitted_case(spade, dataset.train, n_queries=9)
        assert (len(case), case.about["gallery_images"]) == (2, 3)
        assert not set(case.ids) & set(case.target.ids)  # type: ignore[union-attr]
        with pytest.raises(ks.ImageError, match="at least two"):
            fitted_case(spade, dataset.train[:1])

    def test_patchcore_has_no_retrieval(self, dataset: MVTecDataset, tmp_path: Path) -> None:
        backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
        case = fitted_case(ks.PatchCore(backbone, coreset=30), dataset.train, n_queries=2)
        report = quick(case, ["rust"], repeats=1)
        assert list(report.backends["rust"].stages) == ["decode", "features", "matching", "map"]
        assert "30 rows" in bench.describe_case(report.case)


def rendered(report: BenchReport) -> str:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(report):
        console.print(table)
    return console.export_text()


@pytest.fixture(scope="module")
def report(case: SearchCase) -> BenchReport:
    names = ["rust", "faiss:cuda:0", "torch:cuda:0", "sklearn", "a.third.party's"]
    return quick(case, {name: Stub(seconds=0.001 * place) for place, name in enumerate(names)})


def test_tables_have_every_backend_and_fit_80_columns(report: BenchReport) -> None:
    lines = rendered(report).splitlines()
    assert max(map(len, lines)) <= 80
    for name in report.backends:
        assert sum(name in line for line in lines) == 1
    assert "…" not in "".join(lines)
    assert f"{report.backends['rust'].ms['p50']:.2f}" in "".join(lines)


def test_a_chart_is_a_picture_that_is_replaced_whole(report: BenchReport, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    path.write_text("the old one")
    save_chart(report, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 800
        colors = picture.convert("RGB").getcolors(picture.width * picture.height)
        assert colors is not None
        assert max(n for n, color in colors if color == (0xD5, 0x5E, 0)) > 1000  # the bars
    assert [file.name for file in tmp_path.iterdir()] == ["chart.png"]


def test_a_chart_without_matplotlib_says_what_to_do(
    report: BenchReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnspect.bench.chart.find_spec", lambda name: None)
    with pytest.raises(ks.KnnspectError, match=r'pip install "knnspect\[bench\]"'):
        save_chart(report, tmp_path / "chart.png")
