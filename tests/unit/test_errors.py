"""What errors say to programs: the path, the image, the level and the parameter."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import knnspect as ks
from knnspect import _core
from knnspect.data import read_image


def level(height: int = 2, value: float = 1.0) -> NDArray[np.float32]:
    return np.full((2, height, height, 3), value, np.float32)


def fields_of(kind: type[ks.KnnspectError], call: Callable[[], object]) -> dict[str, object]:
    """The fields that are set of the error that a call raises."""
    with pytest.raises(kind) as raised:
        call()
    return fields(raised.value)


def fields(error: ks.KnnspectError) -> dict[str, object]:
    names = ("path", "image", "level", "parameter")
    return {name: getattr(error, name) for name in names if getattr(error, name) is not None}


def gallery() -> _core.Gallery:
    made = _core.Gallery("bilinear", "float32")
    made.add([level()], ["a", "b"])
    return made


def test_an_error_of_the_core_names_the_parameter() -> None:
    found = fields_of(ks.ParameterError, lambda: _core.Gallery("nearest", "float32"))
    assert found == {"parameter": "upsample"}
    found = fields_of(ks.ParameterError, lambda: _core.Search(gallery(), [level()], 9, None, None))
    assert found == {"parameter": "k"}
    found = fields_of(ks.ParameterError, lambda: _core.Search(gallery(), [level()], 1, None, 0))
    assert found == {"parameter": "threads"}


def test_an_error_of_the_core_names_the_image() -> None:
    found = fields_of(ks.ParameterError, lambda: gallery().image("c"))
    assert found == {"parameter": "images", "image": "c"}
    found = fields_of(ks.ParameterError, lambda: gallery().add([level()], ["c", "b"]))
    assert found == {"parameter": "ids", "image": "b"}


def test_an_error_of_the_core_names_the_level() -> None:
    found = fields_of(ks.ShapeError, lambda: gallery().add([level(6), level(4)], ["c", "d"]))
    assert found == {"level": 1}
    found = fields_of(
        ks.DTypeError, lambda: gallery().add([level().astype(np.float64)], ["c", "d"])
    )
    assert found == {"level": 0}
    levels = [level(4), level(2)]
    levels[1][1] = np.nan
    found = fields_of(ks.ImageError, lambda: gallery().add(levels, ["c", "d"]))
    assert found == {"image": "d", "level": 1}


def test_an_error_of_the_core_names_the_file_and_in_it_the_image(tmp_path: Path) -> None:
    found = fields_of(ks.StoreError, lambda: _core.Store(tmp_path / "none", True))
    assert found == {"path": tmp_path / "none"}
    folder = _core.Gallery.create(tmp_path / "bottles", "bilinear", "float32")
    folder.add([level()], ["a", "b"])
    found = fields_of(ks.ParameterError, lambda: folder.add([level()], ["b", "c"]))
    assert found == {
        "path": tmp_path / "bottles",
        "parameter": "ids",
        "image": "b",
    }
    folder.close()
    (segment,) = (tmp_path / "bottles").glob("features-*")
    altered = bytearray(segment.read_bytes())
    altered[1] ^= 1
    segment.write_bytes(altered)
    found = fields_of(
        ks.StoreError, lambda: _core.Gallery.open(tmp_path / "bottles", False).verify()
    )
    assert found == {"path": tmp_path / "bottles", "image": "a"}


def test_the_fields_of_an_error_survive_its_pickle() -> None:
    with pytest.raises(ks.ParameterError) as raised:
        gallery().image("c")
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), fields(again)) == (str(raised.value), fields(raised.value))


def test_an_error_without_fields_has_none() -> None:
    assert fields(ks.ParameterError("seed: expected at least 0, got -1")) == {}


def test_an_error_of_a_detector_names_the_parameter() -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    spade = ks.Spade(ks.Backbone(image_size=32), sigma=-1)
    assert fields_of(ks.ParameterError, lambda: spade.fit(images)) == {"parameter": "sigma"}
    spade = ks.Spade(ks.Backbone(image_size=32), image_neighbors=1.5)  # type: ignore[arg-type]
    assert fields_of(ks.DTypeError, lambda: spade.fit(images)) == {"parameter": "image_neighbors"}
    spade = ks.Spade(ks.Backbone(image_size=32))
    found = fields_of(ks.ParameterError, lambda: spade.fit(images, batch_size=0))
    assert found == {"parameter": "batch_size"}


def test_an_error_of_an_image_names_its_file_and_its_id(tmp_path: Path) -> None:
    bad = tmp_path / "line" / "bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"no image")
    assert fields_of(ks.ImageError, lambda: read_image(bad)) == {"path": bad}
    backbone = ks.Backbone(image_size=32)
    found = fields_of(ks.ImageError, lambda: backbone.extract(tmp_path))
    assert found == {"path": bad, "image": "line/bad.png"}


def test_an_error_of_a_model_names_its_file(tmp_path: Path) -> None:
    missing = tmp_path / "none.ks"
    assert fields_of(ks.StoreError, lambda: ks.load(missing)) == {"path": missing}
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid([level()]))
    gallery.save(tmp_path / "gallery.ks")
    for load in (ks.load, ks.Coreset.open):
        found = fields_of(ks.StoreError, partial(load, tmp_path / "gallery.ks"))
        assert found == {"path": tmp_path / "gallery.ks"}
