"""What every detector promises, whatever its method."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import knnspect as ks
from knnspect import Backbone, Detector, Prediction
from knnspect.data import elpv_split, read_image
from knnspect.errors import (
    DTypeError,
    ImageError,
    ImageWarning,
    NotFittedError,
    ParameterError,
    ShapeError,
    StoreError,
)

Images: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A detector to be tested: how it is made, and parameters that it has to refuse."""

    make: Callable[..., Detector]
    bad_parameters: tuple[tuple[str, Any, type[Exception]], ...]


def make_spade(backbone: Backbone, **parameters: Any) -> Detector:
    return ks.Spade(backbone, **{"image_neighbors": 4, **parameters})


def make_other_spade(backbone: Backbone, **parameters: Any) -> Detector:
    own = {"image_neighbors": 5, "pixel_neighbors": 3, "score": "map", "upsample": "block"}
    return ks.Spade(backbone, **{**own, "gallery_dtype": "int8", "sigma": 2.5, **parameters})


SPADE_BAD_PARAMETERS: tuple[tuple[str, Any, type[Exception]], ...] = (
    ("backbone", "efficientnet_lite0", DTypeError),
    ("image_neighbors", 0, ParameterError),
    ("image_neighbors", -3, ParameterError),
    ("image_neighbors", 2.0, DTypeError),
    ("image_neighbors", True, DTypeError),
    ("pixel_neighbors", 0, ParameterError),
    ("pixel_neighbors", "1", DTypeError),
    ("pixel_neighbors", 10**9, ParameterError),
    ("score", "pixel", ParameterError),
    ("score", None, ParameterError),
    ("upsample", "nearest", ParameterError),
    ("gallery_dtype", "float64", ParameterError),
    ("gallery_dtype", np.int8, ParameterError),
    ("sigma", -1.0, ParameterError),
    ("sigma", float("nan"), ParameterError),
    ("sigma", float("inf"), ParameterError),
    ("sigma", "4", DTypeError),
    ("backend", "abacus", ParameterError),
    ("backend", 3, DTypeError),
    ("threads", 0, ParameterError),
    ("threads", 1.5, DTypeError),
)


def make_patchcore(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)  # it compares with all images, however few
    return ks.PatchCore(backbone, **{"coreset": 0.05, **parameters})


def make_other_patchcore(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)
    own = {"coreset": 100, "projection": 20, "neighbors": 3, "seed": 4, "upsample": "block"}
    return ks.PatchCore(backbone, **{**own, "gallery_dtype": "float16", "sigma": 0, **parameters})


def make_patchcore_of_all(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)
    own = {"coreset": None, "neighbors": 5, "gallery_dtype": "int8"}
    return ks.PatchCore(backbone, **{**own, **parameters})


PATCHCORE_BAD_PARAMETERS: tuple[tuple[str, Any, type[Exception]], ...] = (
    ("backbone", "efficientnet_lite0", DTypeError),
    ("coreset", 0, ParameterError),
    ("coreset", 0.0, ParameterError),
    ("coreset", 1.01, ParameterError),
    ("coreset", -0.1, ParameterError),
    ("coreset", float("nan"), ParameterError),
    ("coreset", "all", DTypeError),
    ("coreset", True, DTypeError),
    ("coreset", 10**9, ParameterError),
    ("projection", 0, ParameterError),
    ("projection", 2.0, DTypeError),
    ("neighbors", 0, ParameterError),
    ("neighbors", 1.5, DTypeError),
    ("score", "pixel", ParameterError),
    ("upsample", "nearest", ParameterError),
    ("gallery_dtype", "float64", ParameterError),
    ("sigma", -1.0, ParameterError),
    ("sigma", "4", DTypeError),
    ("seed", -1, ParameterError),
    ("seed", None, DTypeError),
    ("backend", "abacus", ParameterError),
    ("threads", 0, ParameterError),
)


def make_cflow(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)
    return ks.CFlow(backbone, **{"max_epochs": 2, "coupling_blocks": 2, **parameters})


def make_other_cflow(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)
    own = {"max_epochs": 1, "patience": None, "validation_fraction": 0.4, "learning_rate": 1e-3}
    more = {"score": "image", "gallery_dtype": "float16", "sigma": 0.0, "seed": 5}
    return ks.CFlow(backbone, **{**own, **more, "mixed_precision": False, **parameters})


def make_simplenet(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)
    return ks.SimpleNet(backbone, **{"max_epochs": 2, "hidden": 32, **parameters})


def make_other_simplenet(backbone: Backbone, **parameters: Any) -> Detector:
    parameters.pop("image_neighbors", None)
    own = {"max_epochs": 2, "patience": 1, "hidden": 17, "noise": 0.7, "margin": 0.8}
    more = {"score": "map", "upsample": "block", "gallery_dtype": "int8", "sigma": 2.5, "seed": 5}
    return ks.SimpleNet(backbone, **{**own, **more, **parameters})


TRAINED_BAD_PARAMETERS: tuple[tuple[str, Any, type[Exception]], ...] = (
    ("backbone", "efficientnet_lite0", DTypeError),
    ("max_epochs", 0, ParameterError),
    ("max_epochs", 2.0, DTypeError),
    ("max_epochs", None, DTypeError),
    ("patience", 0, ParameterError),
    ("patience", "never", DTypeError),
    ("validation_fraction", 0, ParameterError),
    ("validation_fraction", 1.0, ParameterError),
    ("validation_fraction", "0.1", DTypeError),
    ("learning_rate", 0.0, ParameterError),
    ("learning_rate", -1, ParameterError),
    ("learning_rate", float("inf"), ParameterError),
    ("learning_rate", 1e30, ParameterError),
    ("mixed_precision", 1, DTypeError),
    ("mixed_precision", "bfloat16", DTypeError),
    ("score", "pixel", ParameterError),
    ("gallery_dtype", "float64", ParameterError),
    ("sigma", -1.0, ParameterError),
    ("seed", -1, ParameterError),
    ("seed", 0.5, DTypeError),
)
CFLOW_BAD_PARAMETERS: tuple[tuple[str, Any, type[Exception]], ...] = (
    *TRAINED_BAD_PARAMETERS,
    ("coupling_blocks", 0, ParameterError),
)
SIMPLENET_BAD_PARAMETERS: tuple[tuple[str, Any, type[Exception]], ...] = (
    *TRAINED_BAD_PARAMETERS,
    ("hidden", 0, ParameterError),
    ("hidden", 8.0, DTypeError),
    ("noise", 0, ParameterError),
    ("noise", "0.1", DTypeError),
    ("margin", -0.5, ParameterError),
    ("upsample", "nearest", ParameterError),
)

CASES = {
    "spade": Case(make_spade, SPADE_BAD_PARAMETERS),
    "spade with other parameters": Case(make_other_spade, ()),
    "patchcore": Case(make_patchcore, PATCHCORE_BAD_PARAMETERS),
    "patchcore with other parameters": Case(make_other_patchcore, ()),
    "patchcore of all": Case(make_patchcore_of_all, ()),
    "cflow": Case(make_cflow, CFLOW_BAD_PARAMETERS),
    "cflow with other parameters": Case(make_other_cflow, ()),
    "simplenet": Case(make_simplenet, SIMPLENET_BAD_PARAMETERS),
    "simplenet with other parameters": Case(make_other_simplenet, ()),
}


@pytest.fixture(scope="module", params=CASES)
def make(request: pytest.FixtureRequest) -> Callable[..., Detector]:
    return CASES[request.param].make


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(image_size=64, device="cpu")


@pytest.fixture(scope="module")
def normal() -> Images:
    return {path.name: path for path in elpv_split(n_train=8).train}


@pytest.fixture(scope="module")
def queries() -> Images:
    """Images of many sizes, most of them not square."""
    split = elpv_split(n_train=8, n_functional=3, n_defective=4)
    first, *others = [read_image(path) for path in (*split.functional, *split.defective)]
    sizes = [(300, 200), (64, 64), (31, 77), (7, 300), (150, 149), (1, 1)]
    cropped = {f"{h} x {w}": o[:h, :w] for o, (h, w) in zip(others, sizes, strict=True)}
    return {"whole": first, **cropped}


@pytest.fixture(scope="module")
def fitted(make: Callable[..., Detector], backbone: Backbone, normal: Images) -> Detector:
    return make(backbone).fit(normal)


@pytest.fixture(scope="module")
def predictions(fitted: Detector, queries: Images) -> list[Prediction]:
    return fitted.predict(queries)


@pytest.fixture(scope="module")
def model(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.ks"
    fitted.save(path)
    return path


def assert_identical(one: list[Prediction], other: list[Prediction]) -> None:
    assert [p.id for p in one] == [p.id for p in other]
    for a, b in zip(one, other, strict=True):
        assert a.score == b.score, a.id
        assert np.array_equal(a.map, b.map), a.id
        assert a.images == b.images
        assert (a.neighbors is None) == (b.neighbors is None)
        if a.neighbors is not None and b.neighbors is not None:
            assert np.array_equal(a.neighbors.sq_distances, b.neighbors.sq_distances)
            assert np.array_equal(a.neighbors.images, b.neighbors.images)
            assert np.array_equal(a.neighbors.cells, b.neighbors.cells)


class TestPredictions:
    def test_come_one_per_image_in_order_with_maps_of_its_size(
        self, predictions: list[Prediction], queries: Images
    ) -> None:
        assert [p.id for p in predictions] == list(queries)
        for prediction, image in zip(predictions, queries.values(), strict=True):
            assert prediction.map.shape == image.shape[:2]
            assert prediction.map.dtype == np.float32
            assert np.isfinite(prediction.map).all()
            assert prediction.map.min() >= 0
            assert type(prediction.score) is float
            assert prediction.score > 0

    def test_differ_from_image_to_image(self, predictions: list[Prediction]) -> None:
        assert len({p.score for p in predictions}) == len(predictions)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
    def test_do_not_depend_on_the_batch_to_the_bit(
        self,
        fitted: Detector,
        queries: Images,
        predictions: list[Prediction],
        batch_size: int,
    ) -> None:
        assert_identical(fitted.predict(queries, batch_size=batch_size), predictions)

    def test_of_an_image_alone_are_the_same_to_the_bit(
        self, fitted: Detector, queries: Images, predictions: list[Prediction]
    ) -> None:
        alone = [fitted.predict({id_: image})[0] for id_, image in queries.items()]
        assert_identical(alone, predictions)

    def test_do_not_depend_on_the_order_of_images(
        self, fitted: Detector, queries: Images, predictions: list[Prediction]
    ) -> None:
        backwards = fitted.predict(dict(reversed(queries.items())), batch_size=3)
        assert_identical(backwards[::-1], predictions)

    @pytest.mark.parametrize("threads", [1, 2, 5])
    def test_do_not_depend_on_the_threads_of_the_search(
        self,
        make: Callable[..., Detector],
        backbone: Backbone,
        normal: Images,
        queries: Images,
        fitted: Detector,
        predictions: list[Prediction],
        threads: int,
    ) -> None:
        if not hasattr(fitted, "threads"):
            with pytest.raises(TypeError, match="threads"):
                make(backbone, threads=threads)
            return  # it does not search; of networks see unit/detectors/test_trained.py
        detector = make(backbone, threads=threads).fit(normal)
        assert_identical(detector.predict(queries), predictions)

    @pytest.mark.parametrize("n_workers", [0, 3])
    def test_do_not_depend_on_the_workers(
        self,
        make: Callable[..., Detector],
        backbone: Backbone,
        normal: Images,
        queries: Images,
        predictions: list[Prediction],
        n_workers: int,
    ) -> None:
        detector = make(backbone).fit(normal, n_workers=n_workers)
        assert_identical(detector.predict(queries, n_workers=n_workers), predictions)

    def test_do_not_depend_on_the_order_or_the_batches_of_training_images(
        self,
        make: Callable[..., Detector],
        backbone: Backbone,
        normal: Images,
        queries: Images,
        predictions: list[Prediction],
        fitted: Detector,
    ) -> None:
        shuffled = dict(sorted(normal.items(), key=lambda item: item[0][::-1]))
        assert list(shuffled) != list(normal)
        detector = make(backbone).fit(shuffled, batch_size=3)
        assert_identical(detector.predict(queries), predictions)
        assert detector.normal_map_max_ == fitted.normal_map_max_

    def test_are_the_same_after_another_fit(
        self,
        make: Callable[..., Detector],
        backbone: Backbone,
        normal: Images,
        queries: Images,
        predictions: list[Prediction],
    ) -> None:
        detector = make(backbone, image_neighbors=2)
        detector.fit(dict(list(normal.items())[:3]))
        assert detector.predict(queries)[0].score != predictions[0].score
        detector = make(backbone)
        detector.fit(dict(list(queries.items())[:6]))
        assert detector.fit(normal) is detector
        assert_identical(detector.predict(queries), predictions)

    def test_leave_the_detector_as_it_was(
        self, fitted: Detector, queries: Images, predictions: list[Prediction], model: Path
    ) -> None:
        assert_identical(fitted.predict(queries), predictions)
        assert_identical(fitted.predict(queries), predictions)
        fitted.save(model.with_name("again.ks"))
        assert model.with_name("again.ks").read_bytes() == model.read_bytes()

    def test_leave_the_images_as_they_were(self, fitted: Detector, queries: Images) -> None:
        before = {id_: image.copy() for id_, image in queries.items()}
        for image in queries.values():
            image.setflags(write=False)
        fitted.predict(queries)
        assert all(np.array_equal(queries[id_], before[id_]) for id_ in queries)

    def test_come_one_by_one_from_iter_predict(
        self, fitted: Detector, queries: Images, predictions: list[Prediction]
    ) -> None:
        iterator = fitted.iter_predict(queries, batch_size=2)
        first = next(iterator)
        assert_identical([first, *iterator], predictions)

    def test_are_refused_before_fit(
        self, make: Callable[..., Detector], backbone: Backbone, queries: Images, tmp_path: Path
    ) -> None:
        detector = make(backbone)
        with pytest.raises(NotFittedError, match="call fit"):
            detector.predict(queries)
        with pytest.raises(NotFittedError, match="call fit"):
            detector.iter_predict(queries)
        with pytest.raises(NotFittedError, match="call fit"):
            detector.save(tmp_path / "model.ks")
        assert list(tmp_path.iterdir()) == []


class TestSavedModels:
    def test_predict_the_same_to_the_bit(
        self, model: Path, queries: Images, predictions: list[Prediction], fitted: Detector
    ) -> None:
        loaded = ks.load(model)
        assert type(loaded) is type(fitted)
        assert_identical(loaded.predict(queries), predictions)
        assert loaded.normal_map_max_ == fitted.normal_map_max_

    def test_are_the_same_when_saved_again(self, model: Path, tmp_path: Path) -> None:
        ks.load(model).save(tmp_path / "again.ks")
        assert (tmp_path / "again.ks").read_bytes() == model.read_bytes()

    def test_replace_the_file_that_was_there(
        self, fitted: Detector, model: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.ks"
        path.write_text("something else, and longer" * 10**6)
        fitted.save(path)
        fitted.save(str(path))
        assert path.read_bytes() == model.read_bytes()
        assert list(tmp_path.iterdir()) == [path]

    def test_may_be_replaced_while_they_are_in_use(
        self, model: Path, queries: Images, predictions: list[Prediction], tmp_path: Path
    ) -> None:
        path = tmp_path / "model.ks"
        path.write_bytes(model.read_bytes())
        loaded = ks.load(path)
        loaded.save(path)
        assert_identical(loaded.predict(queries), predictions)
        assert path.read_bytes() == model.read_bytes()

    @pytest.mark.parametrize("place", ["no/such/folder.ks", "a file/model.ks", "a folder"])
    def test_cannot_be_written_everywhere(
        self, fitted: Detector, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "a file").touch()
        (tmp_path / "a folder").mkdir()
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(StoreError, match=place):
            fitted.save(tmp_path / place)
        assert sorted(tmp_path.rglob("*")) == before

    def test_keep_the_old_file_when_the_disk_is_full(
        self, fitted: Detector, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.ks"
        path.write_text("the old one")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores SIGXFSZ, so that the write fails as it does without space.
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
        try:
            with pytest.raises(StoreError, match=r"model\.ks: cannot be written"):
                fitted.save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_text() == "the old one"
        assert list(tmp_path.iterdir()) == [path]

    def test_are_refused_on_a_device_that_is_not_there(self, model: Path) -> None:
        with pytest.raises(ParameterError, match="device: 'nope'"):
            ks.load(model, device="nope")


def test_models_predict_the_same_in_another_process_and_another_place(
    backbone: Backbone, normal: Images, queries: Images, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    np.savez(tmp_path / "there" / "queries.npz", **queries)
    expected = {}
    for number, case in enumerate(CASES.values()):
        detector = case.make(backbone).fit(normal)
        expected[str(number)] = detector.predict(queries)
        detector.save(tmp_path / "here" / str(number))
        (tmp_path / "here" / str(number)).rename(tmp_path / "there" / str(number))
    code = (
        "import sys, numpy as np, knnspect as ks\n"
        "images = dict(np.load('queries.npz'))\n"
        "for name in sys.argv[1:]:\n"
        "    found = ks.load(name).predict(images)\n"
        "    np.savez(name, scores=[p.score for p in found], **{p.id: p.map for p in found})\n"
    )
    subprocess.run([sys.executable, "-c", code, *expected], cwd=tmp_path / "there", check=True)
    for name, predictions in expected.items():
        with np.load(tmp_path / "there" / f"{name}.npz") as found:
            assert found["scores"].tolist() == [p.score for p in predictions]
            assert all(np.array_equal(found[p.id], p.map) for p in predictions)


class TestDamagedModels:
    def test_altered_in_one_byte_are_refused(self, model: Path, tmp_path: Path) -> None:
        contents = bytearray(model.read_bytes())
        header = 8 + int.from_bytes(contents[:8], "little")
        places = [0, 7, 8, 9, *range(20, header, 997), header, len(contents) // 2, -1]
        path = tmp_path / "altered.ks"
        for place in places:
            contents[place] ^= 1
            path.write_bytes(contents)
            contents[place] ^= 1
            with pytest.raises(StoreError, match=r"altered\.ks"):
                ks.load(path)

    def test_cut_off_or_longer_are_refused(self, model: Path, tmp_path: Path) -> None:
        contents, path = model.read_bytes(), tmp_path / "cut.ks"
        for n_bytes in (0, 1, 7, 8, 9, 500, 5000, len(contents) // 2, len(contents) - 1):
            path.write_bytes(contents[:n_bytes])
            with pytest.raises(StoreError, match=r"cut\.ks"):
                ks.load(path)
        path.write_bytes(contents + b"\0")
        with pytest.raises(StoreError, match=r"cut\.ks"):
            ks.load(path)

    def test_of_a_newer_format_are_refused(self, model: Path, tmp_path: Path) -> None:
        newer, n_versions = re.subn(
            rb'"format_version":"\d"', b'"format_version":"9"', model.read_bytes()
        )
        assert n_versions == 1
        (tmp_path / "newer.ks").write_bytes(newer)
        with pytest.raises(StoreError, match=r"newer\.ks: .*newer knnspect.*9"):
            ks.load(tmp_path / "newer.ks")


def write_gallery(path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.save(path)


def write_unknown_kind(path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.core.save(path, "oracle", {"config": "{}"}, {})


def write_unusable_settings(path: Path) -> None:
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
    gallery.core.save(path, "spade", {"config": json.dumps({"backbone": {}})}, {})


class Evil:
    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


OTHER_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "cannot be opened"),
    "a folder": (lambda path: path.mkdir(), "expected a detector, it is a folder"),
    "a gallery": (write_gallery, "expected a detector, the file holds a gallery"),
    "an unknown detector": (write_unknown_kind, "oracle"),
    "settings that lack everything": (write_unusable_settings, "is damaged"),
    "safetensors": (
        lambda path: save_file({"a": np.zeros(3, "f4")}, path),
        "not one that knnspect wrote",
    ),
    "a PNG": (lambda path: Image.new("L", (9, 9)).save(path, "PNG"), "not a knnspect file"),
    "a checkpoint": (lambda path: torch.save({"a": torch.zeros(3)}, path), "other.ks"),
    "a pickle": (
        lambda path: path.write_bytes(pickle.dumps(Evil(path.with_name("made")), protocol=2)),
        "other.ks",
    ),
    "text": (lambda path: path.write_text("{}\n" * 50), "other.ks"),
}


@pytest.mark.parametrize("kind", OTHER_FILES)
def test_a_file_that_is_no_model_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.ks"
    write, message = OTHER_FILES[kind]
    write(path)
    with pytest.raises(StoreError, match=message) as raised:
        ks.load(path)
    assert "other.ks" in str(raised.value)
    assert not (tmp_path / "made").exists()


def bad_folder(folder: Path, good: Path, contents: bytes) -> Path:
    for name in ("a.png", "c.png", "d.png"):
        (folder / name).write_bytes(good.read_bytes())
    (folder / "bad.png").write_bytes(contents)
    return folder


GREY = np.full((9, 8), 100, np.uint8)

#: Images that nobody can use: how they are made in a folder, the error, what it says.
BAD_IMAGES: dict[str, tuple[Callable[[Path, Path], Any], type[Exception], str]] = {
    "a folder that is missing": (lambda folder, _: folder / "gone", ImageError, "gone"),
    "an empty folder": (lambda folder, _: folder, ImageError, "got none"),
    "a folder of text": (
        lambda folder, _: [(folder / "a.txt").write_text("a"), folder][-1],
        ImageError,
        "got none",
    ),
    "text called .png": (
        lambda folder, good: bad_folder(folder, good, b"text\n" * 30),
        ImageError,
        r"bad\.png",
    ),
    "a truncated image": (
        lambda folder, good: bad_folder(folder, good, good.read_bytes()[:3000]),
        ImageError,
        r"bad\.png",
    ),
    "an image of 0 bytes": (
        lambda folder, good: bad_folder(folder, good, b""),
        ImageError,
        r"bad\.png.*0 bytes",
    ),
    "an empty list": (lambda *_: [], ImageError, "at least one image"),
    "an empty path": (lambda *_: "", ImageError, "empty"),
    "the same file twice": (lambda _, good: [good, good], ImageError, "two with this id"),
    "a number": (lambda *_: 5, DTypeError, "int"),
    "a single array": (lambda *_: GREY, ShapeError, r"\[image\]"),
    "values up to 255 as floats": (lambda *_: [GREY.astype("f4")], ImageError, r"\[0, 1\]"),
    "not a number": (lambda *_: [np.full((4, 4), np.nan)], ImageError, "000000.*NaN"),
    "no pixels": (lambda *_: [np.zeros((0, 4), "u1")], ShapeError, "pixels"),
    "a list of numbers": (lambda *_: [1, 2], DTypeError, "int"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_images_that_cannot_be_used_are_named(
    kind: str,
    backbone: Backbone,
    normal: Images,
    make: Callable[..., Detector],
    fitted: Detector,
    tmp_path: Path,
) -> None:
    images, error, message = BAD_IMAGES[kind]
    given = images(tmp_path, next(iter(normal.values())))
    detector = make(backbone, image_neighbors=1)
    with pytest.raises(error, match=message):
        detector.fit(given)
    with pytest.raises(NotFittedError):
        detector.predict(GREY[None])
    with pytest.raises(error, match=message):
        fitted.predict(given)


def test_file_names_that_are_not_unicode_can_be_used(
    make: Callable[..., Detector],
    backbone: Backbone,
    normal: Images,
    fitted: Detector,
    tmp_path: Path,
) -> None:
    for index, path in enumerate(normal.values()):
        name = b"pr\xfcfling%d.png" % index  # Latin-1
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(path.read_bytes())
    detector = make(backbone).fit(tmp_path)
    detector.save(tmp_path / "model.ks")
    found = ks.load(tmp_path / "model.ks").predict(tmp_path)
    assert all("fling" in p.id and p.id.encode() for p in found)
    expected = fitted.predict(normal)
    assert sorted(p.score for p in found) == sorted(p.score for p in expected)


def test_a_generator_can_be_used_once(
    make: Callable[..., Detector], backbone: Backbone, normal: Images
) -> None:
    def batches() -> Iterator[Any]:
        for path in normal.values():
            yield read_image(path)[None]

    generator = batches()
    detector = make(backbone)
    detector.fit(generator)
    with pytest.raises(ImageError, match=r"without any|read already"):
        detector.fit(generator)


def test_bad_images_are_left_out_when_asked(
    make: Callable[..., Detector], backbone: Backbone, normal: Images, queries: Images
) -> None:
    damaged = {**normal, "odd": np.full((3, 3), 7.0)}
    detector = make(backbone)
    with pytest.warns(ImageWarning, match="odd"):
        detector.fit(damaged, skip_bad=True)
    expected = make(backbone).fit(normal).predict(queries)
    assert_identical(detector.predict(queries), expected)
    with pytest.warns(ImageWarning, match="odd"):
        found = detector.predict({"odd": np.full((3, 3), 7.0), **queries}, skip_bad=True)
    assert_identical(found, expected)


def test_a_fit_that_fails_leaves_what_was_learnt_before(
    make: Callable[..., Detector], backbone: Backbone, normal: Images, queries: Images
) -> None:
    detector = make(backbone).fit(normal)
    expected = detector.predict(queries)
    with pytest.raises(ImageError, match="odd"):
        detector.fit({"fine": queries["whole"], "odd": np.full((3, 3), 7.0)}, batch_size=1)
    assert_identical(detector.predict(queries), expected)


def changed(backbone: Backbone, value: float) -> Backbone:
    """The same backbone with every weight set to `value`."""
    settings, tensors = backbone.state()
    filled = {name: np.full_like(tensor, value) for name, tensor in tensors.items()}
    return Backbone.from_state(settings, filled)


def test_constant_features_are_refused(
    make: Callable[..., Detector], backbone: Backbone, normal: Images
) -> None:
    with pytest.raises(ImageError, match="level 0 are the same at every cell of every image"):
        make(changed(backbone, 0.0)).fit(normal)


def test_features_that_are_not_finite_are_refused_with_the_image(
    make: Callable[..., Detector], backbone: Backbone, normal: Images
) -> None:
    damaged = changed(backbone, np.nan)
    with pytest.raises(ImageError, match=next(iter(normal))):
        make(damaged).fit(normal)
    detector = make(backbone).fit(normal)
    detector.backbone = damaged
    with pytest.raises(ImageError, match="the query"):
        detector.predict({"the query": GREY})


def test_one_image_is_enough(
    make: Callable[..., Detector], backbone: Backbone, queries: Images, tmp_path: Path
) -> None:
    detector = make(backbone, image_neighbors=1).fit([queries["whole"]])
    assert np.isnan(detector.normal_map_max_)
    detector.save(tmp_path / "one.ks")
    loaded = ks.load(tmp_path / "one.ks")
    assert np.isnan(loaded.normal_map_max_)
    assert_identical(loaded.predict(queries), detector.predict(queries))


@pytest.mark.parametrize(
    ("case", "name", "value", "error"),
    [(case, *bad) for case, about in CASES.items() for bad in about.bad_parameters],
)
def test_a_parameter_outside_its_values_is_named(
    case: str,
    name: str,
    value: Any,
    error: type[Exception],
    backbone: Backbone,
    normal: Images,
    tmp_path: Path,
) -> None:
    given: dict[str, Any] = {"backbone": backbone, name: value}
    detector = CASES[case].make(**given)
    with pytest.raises(error, match=name):
        detector.fit(normal)
    with pytest.raises(NotFittedError):
        detector.predict(GREY[None])
    with pytest.raises(NotFittedError):
        detector.save(tmp_path / "model.ks")


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("batch_size", 0, ParameterError),
        ("batch_size", 2.5, DTypeError),
        ("n_workers", -1, ParameterError),
    ],
)
def test_an_option_outside_its_values_is_named(
    fitted: Detector, option: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=option):
        fitted.predict([GREY], **{option: value})
    with pytest.raises(error, match=option):
        fitted.fit([GREY], **{option: value})


def test_more_neighbours_than_images_mean_all_of_them_with_a_warning_if_they_were_asked_for(
    backbone: Backbone, normal: Images, queries: Images, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="image_neighbors=9 exceeds .* using all 8"):
        detector = ks.Spade(backbone, image_neighbors=9).fit(normal)
    assert (detector.image_neighbors, detector.image_neighbors_) == (9, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = ks.Spade(backbone, image_neighbors=8).fit(normal).predict(queries)
        by_default = ks.Spade(backbone).fit(normal)
    assert (by_default.image_neighbors, by_default.image_neighbors_) == (50, 8)
    assert_identical(by_default.predict(queries), expected)
    assert_identical(detector.predict(queries), expected)
    detector.save(tmp_path / "model.ks")
    assert_identical(ks.load(tmp_path / "model.ks").predict(queries), expected)
