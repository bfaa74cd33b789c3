"""Predictions depend on the images alone, and come in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from knnspect.errors import DTypeError, NotFittedError, ParameterError
from knnspect.testing.checks import Checks
from knnspect.testing.detectors.case import (
    DetectorCase,
    expect_same_normal,
    expect_same_predictions,
)
from knnspect.testing.expectations import expect, expect_equal, raises
from knnspect.testing.files import no_files, temporary_folder
from knnspect.views import Variants

__all__ = ["CHECKS", "GREY"]

CHECKS: Checks[DetectorCase] = Checks()
GREY = np.full((9, 8), 100, np.uint8)


@CHECKS.add()
def predictions_come_one_per_image_in_order_with_maps_of_its_size(case: DetectorCase) -> None:
    queries = case.material.queries
    expect_equal("ids", [p.id for p in case.predictions], list(queries))
    for prediction, image in zip(case.predictions, queries.values(), strict=True):
        where = f"image {prediction.id!r}: "
        expect_equal(f"{where}shape of the map", prediction.map.shape, image.shape[:2])
        expect_equal(f"{where}dtype of the map", prediction.map.dtype, np.dtype(np.float32))
        expect(np.isfinite(prediction.map).all(), f"{where}the map is not finite")
        expect(prediction.map.min() >= 0, f"{where}expected a map of at least 0")
        expect_equal(f"{where}type of the score", type(prediction.score), float)
        expect(prediction.score > 0, f"{where}expected a score above 0, got {prediction.score}")


@CHECKS.add()
def predictions_differ_from_image_to_image(case: DetectorCase) -> None:
    scores = [p.score for p in case.predictions]
    expect_equal("number of different scores", len(set(scores)), len(scores))


@CHECKS.add(batch_size=[1, 2, 3, 16])
def predictions_do_not_depend_on_the_batch_to_the_bit(case: DetectorCase, batch_size: int) -> None:
    found = case.fitted.predict(case.material.queries, batch_size=batch_size)
    expect_same_predictions(f"batches of {batch_size}", found, case.predictions)


@CHECKS.add()
def predictions_of_an_image_alone_are_the_same_to_the_bit(case: DetectorCase) -> None:
    queries = case.material.queries
    alone = [case.fitted.predict({id_: image})[0] for id_, image in queries.items()]
    expect_same_predictions("images alone", alone, case.predictions)


@CHECKS.add()
def predictions_do_not_depend_on_the_order_of_images(case: DetectorCase) -> None:
    backwards = dict(reversed(case.material.queries.items()))
    found = case.fitted.predict(backwards, batch_size=3)
    expect_same_predictions("images backwards", found[::-1], case.predictions)


@CHECKS.add(threads=[1, 2, 5])
def predictions_do_not_depend_on_the_threads_of_the_search(
    case: DetectorCase, threads: int
) -> None:
    if "threads" not in case.kind.parameters:
        with raises(TypeError, "threads", "a parameter that the detector lacks"):
            case.make(threads=threads)
        return  # it does not search
    detector = case.make(threads=threads).fit(case.material.normal)
    found = detector.predict(case.material.queries)
    expect_same_predictions(f"{threads} threads", found, case.predictions)


@CHECKS.add(n_workers=[0, 3])
def predictions_do_not_depend_on_the_workers(case: DetectorCase, n_workers: int) -> None:
    detector = case.fit(n_workers=n_workers)
    found = detector.predict(case.material.queries, n_workers=n_workers)
    expect_same_predictions(f"{n_workers} workers", found, case.predictions)


@CHECKS.add()
def predictions_do_not_depend_on_the_order_or_the_batches_of_training_images(
    case: DetectorCase,
) -> None:
    normal = case.material.normal
    shuffled = dict(sorted(normal.items(), key=lambda item: item[0][::-1]))
    expect(list(shuffled) != list(normal), "names of normal images: backwards in the same order")
    detector = case.make().fit(shuffled, batch_size=3)
    found = detector.predict(case.material.queries)
    expect_same_predictions("another order of training images", found, case.predictions)
    expect_same_normal(detector, case.fitted)


@CHECKS.add()
def predictions_are_the_same_after_another_fit(case: DetectorCase) -> None:
    normal, queries = case.material.normal, case.material.queries
    detector = case.make(n_images=3).fit(dict(list(normal.items())[:3]))
    score = detector.predict(queries)[0].score
    expect(score != case.predictions[0].score, "the score does not depend on the normal images")
    detector = case.make()
    detector.fit(dict(list(queries.items())[:6]))
    expect(detector.fit(normal) is detector, "fit: expected the detector itself")
    expect_same_predictions("another fit", detector.predict(queries), case.predictions)


@CHECKS.add()
def predictions_leave_the_detector_as_it_was(case: DetectorCase) -> None:
    for _ in range(2):
        found = case.fitted.predict(case.material.queries)
        expect_same_predictions("the same again", found, case.predictions)
    saved = case.saved
    case.fitted.predict(case.material.queries)
    with temporary_folder() as folder:
        case.fitted.save(folder / "again.ks")
        same = (folder / "again.ks").read_bytes() == saved
    expect(same, "the file of the detector is another one after predictions")


@CHECKS.add()
def predictions_leave_the_images_as_they_were(case: DetectorCase) -> None:
    queries = case.material.queries
    before = {id_: image.copy() for id_, image in queries.items()}
    for image in queries.values():
        image.setflags(write=False)
    case.fitted.predict(queries)
    for id_, image in queries.items():
        np.testing.assert_array_equal(image, before[id_], id_)


@CHECKS.add()
def an_image_that_is_judged_in_variants_has_no_higher_score(case: DetectorCase) -> None:
    if "query_variants" not in case.kind.parameters:
        return  # it judges images as they are
    found, alone = (
        case.copied().set_params(query_variants=variants).predict(case.material.queries)
        for variants in (Variants(rotations=2), None)
    )
    for one, other in zip(found, alone, strict=True):
        where, rounding = f"image {one.id!r}: ", 1 + 1e-5
        is_less = one.score <= other.score * rounding
        expect(is_less, f"{where}score: expected at most {other.score!r}, got {one.score!r}")
        expect((one.map <= other.map * rounding).all(), f"{where}the map is higher")


@CHECKS.add()
def predictions_come_one_by_one_from_iter_predict(case: DetectorCase) -> None:
    iterator = case.fitted.iter_predict(case.material.queries, batch_size=2)
    first = next(iterator)
    expect_same_predictions("iter_predict", [first, *iterator], case.predictions)


@CHECKS.add()
def predictions_are_refused_before_fit(case: DetectorCase) -> None:
    detector, queries = case.make(), case.material.queries
    with raises(NotFittedError, "call fit", "predict"):
        detector.predict(queries)
    with raises(NotFittedError, "call fit", "iter_predict"):
        detector.iter_predict(queries)
    with no_files() as folder, raises(NotFittedError, "call fit", "save"):
        detector.save(folder / "model.ks")


def _options() -> list[tuple[str, Any, type[Exception]]]:
    return [
        ("batch_size", 0, ParameterError),
        ("batch_size", 2.5, DTypeError),
        ("n_workers", -1, ParameterError),
    ]


@CHECKS.add(option=_options())
def an_option_outside_its_values_is_named(
    case: DetectorCase, option: tuple[str, Any, type[Exception]]
) -> None:
    name, value, error = option
    with raises(error, name, "predict"):
        case.fitted.predict([GREY], **{name: value})
    with raises(error, name, "fit"):
        case.copied().fit([GREY], **{name: value})
