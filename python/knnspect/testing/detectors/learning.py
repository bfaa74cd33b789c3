"""Learning: what images are taken, what is refused, and that a failure changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

from knnspect.data import read_image
from knnspect.errors import DTypeError, ImageError, ImageWarning, NotFittedError, ShapeError
from knnspect.testing.checks import Check, Checks
from knnspect.testing.detectors.case import DetectorCase, expect_same_predictions
from knnspect.testing.detectors.predictions import GREY
from knnspect.testing.expectations import expect, expect_equal, raises, warns
from knnspect.testing.files import no_files, temporary_folder

__all__ = ["CHECKS", "bad_values"]

CHECKS: Checks[DetectorCase] = Checks()


def _bad_folder(folder: Path, good: Path, contents: bytes) -> Path:
    for name in ("a.png", "c.png", "d.png"):
        (folder / name).write_bytes(good.read_bytes())
    (folder / "bad.png").write_bytes(contents)
    return folder


def _of_text(folder: Path, _: Path) -> Path:
    (folder / "a.txt").write_text("a")
    return folder


#: Images that nobody can use: how they are made in a folder, the error, what it says.
_BAD_IMAGES: dict[str, tuple[Callable[[Path, Path], Any], type[Exception], str]] = {
    "a folder that is missing": (lambda folder, _: folder / "gone", ImageError, "gone"),
    "an empty folder": (lambda folder, _: folder, ImageError, "got none"),
    "a folder of text": (_of_text, ImageError, "got none"),
    "text called .png": (
        lambda folder, good: _bad_folder(folder, good, b"text\n" * 30),
        ImageError,
        r"bad\.png",
    ),
    "a truncated image": (
        lambda folder, good: _bad_folder(folder, good, good.read_bytes()[:3000]),
        ImageError,
        r"bad\.png",
    ),
    "an image of 0 bytes": (
        lambda folder, good: _bad_folder(folder, good, b""),
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
#: An image that is refused.
_ODD = np.full((3, 3), 7.0)


@CHECKS.add(images=_BAD_IMAGES)
def images_that_cannot_be_used_are_named(case: DetectorCase, images: str) -> None:
    make, error, message = _BAD_IMAGES[images]
    with temporary_folder() as folder:
        given = make(folder, next(iter(case.material.normal.values())))
        detector = case.make(n_images=1)
        with raises(error, message, "fit"):
            detector.fit(given)
        with raises(NotFittedError, what="predict after a fit that failed"):
            detector.predict(GREY[None])
        with raises(error, message, "predict"):
            case.fitted.predict(given)


@CHECKS.add()
def file_names_that_are_not_unicode_can_be_used(case: DetectorCase) -> None:
    if sys.platform in ("win32", "darwin"):
        raise SkipTest("file names are unicode on this system")
    normal = case.material.normal
    with temporary_folder() as folder:
        for index, path in enumerate(normal.values()):
            name = b"pr\xfcfling%d.png" % index  # Latin-1
            Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(path.read_bytes())
        detector = case.make().fit(folder)
        detector.save(folder / "model.ks")
        found = case.load(folder / "model.ks").predict(folder)
        expect(all("fling" in p.id and p.id.encode() for p in found), "an id that is no text")
        expected = case.fitted.predict(normal)
        expect_equal("scores", sorted(p.score for p in found), sorted(p.score for p in expected))


@CHECKS.add()
def a_generator_can_be_used_once(case: DetectorCase) -> None:
    def batches() -> Iterator[Any]:
        for path in case.material.normal.values():
            yield read_image(path)[None]

    generator = batches()
    detector = case.make()
    detector.fit(generator)
    with raises(ImageError, r"without any|read already", "the same generator again"):
        detector.fit(generator)


@CHECKS.add()
def bad_images_are_left_out_when_asked(case: DetectorCase) -> None:
    queries = case.material.queries
    detector = case.make()
    with warns(ImageWarning, "odd"):
        detector.fit({**case.material.normal, "odd": _ODD}, skip_bad=True)
    expect_same_predictions("learnt without", detector.predict(queries), case.predictions)
    with warns(ImageWarning, "odd"):
        found = detector.predict({"odd": _ODD, **queries}, skip_bad=True)
    expect_same_predictions("judged without", found, case.predictions)


@CHECKS.add()
def a_fit_that_fails_leaves_what_was_learnt_before(case: DetectorCase) -> None:
    detector, queries = case.copied(), case.material.queries
    with raises(ImageError, "odd", "fit"):
        detector.fit({"fine": queries["whole"], "odd": _ODD}, batch_size=1)
    expect_same_predictions("after a failure", detector.predict(queries), case.predictions)


@CHECKS.add()
def constant_features_are_refused(case: DetectorCase) -> None:
    images: Any = case.material.normal
    detector = case.make() if case.takes_pixels else case.make(backbone=case.material.of_zeros)
    if case.takes_pixels:
        images = np.full((4, 40, 40), 7, np.uint8)
    with raises(ImageError, "level 0 are the same at every cell of every image", "fit"):
        detector.fit(images)


@CHECKS.add()
def features_that_are_not_finite_are_refused_with_the_image(case: DetectorCase) -> None:
    if case.takes_pixels:
        raise SkipTest("pixels are finite")
    with raises(ImageError, next(iter(case.material.normal)), "fit"):
        case.make(backbone=case.material.of_nans).fit(case.material.normal)
    detector = case.copied()
    detector.backbone = case.material.of_nans
    with raises(ImageError, "the query", "predict"):
        detector.predict({"the query": GREY})


@CHECKS.add()
def one_image_is_enough_or_refused(case: DetectorCase) -> None:
    queries = case.material.queries
    detector = case.make(n_images=1)
    if case.kind.fewest_images > 1:
        with raises(ImageError, f"needs at least {case.kind.fewest_images} normal images", "fit"):
            detector.fit([queries["whole"]])
        return
    detector.fit([queries["whole"]])
    expect(np.isnan(detector.normal_map_max_), "normal_map_max_ of one image: expected NaN")
    with temporary_folder() as folder:
        detector.save(folder / "one.ks")
        loaded = case.load(folder / "one.ks")
        expect(np.isnan(loaded.normal_map_max_), "normal_map_max_ of the model: expected NaN")
        found, expected = loaded.predict(queries), detector.predict(queries)
        expect_same_predictions("the model of one image", found, expected)


def a_parameter_outside_its_values_is_named(
    case: DetectorCase, name: str, value: Any, error: type[Exception]
) -> None:
    detector = case.make(**{name: value})
    with raises(error, name, "fit"):
        detector.fit(case.material.normal)
    with raises(NotFittedError, what="predict"):
        detector.predict(GREY[None])
    with no_files() as folder, raises(NotFittedError, what="save"):
        detector.save(folder / "model.ks")


def bad_values(case: DetectorCase) -> Iterator[Check[DetectorCase]]:
    """Yield a check for each value that a constraint refuses, or that the case says is bad."""
    bad = [
        (name, value, error)
        for name, declared in case.kind.parameters.items()
        for value, error in declared.constraint.bad_values()
        if not (value is None and declared.is_made)  # then it means the default
    ]
    for name, value, error in {repr(bad[:2]): bad for bad in (*bad, *case.bad)}.values():
        arguments = {"name": name, "value": value, "error": error}
        yield Check(a_parameter_outside_its_values_is_named, arguments)
