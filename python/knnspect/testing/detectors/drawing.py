"""Methods that draw images: what they draw, and that a seed decides it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.testing.checks import Checks
from knnspect.testing.detectors.case import DetectorCase, expect_same_predictions
from knnspect.testing.expectations import expect, expect_equal
from knnspect.testing.files import temporary_folder

__all__ = ["CHECKS"]

#: Of methods that learn to draw normal images.
CHECKS: Checks[DetectorCase] = Checks()


@CHECKS.add()
def drawn_images_have_the_size_that_the_network_works_at(case: DetectorCase) -> None:
    queries = case.material.queries
    drawn = _drawn(case.fitted, queries)
    height, width, channels = case.backbone.extract({"": queries["whole"]}).pyramid.shapes[0]
    expect_equal("shape", drawn.shape, (len(queries), height, width, channels))
    expect(bool(((drawn >= 0) & (drawn <= 1)).all()), "what is drawn: expected values in [0, 1]")


@CHECKS.add()
def what_is_drawn_of_an_image_depends_on_it_alone(case: DetectorCase) -> None:
    queries = case.material.queries
    together = _drawn(case.fitted, queries)
    alone = [_drawn(case.fitted, {name: image})[0] for name, image in queries.items()]
    expect(np.array_equal(together, np.stack(alone)), "drawn one by one: expected the same")
    differing = [not np.array_equal(together[0], other) for other in together[1:]]
    expect(any(differing), "expected something else to be drawn of other images")


@CHECKS.add()
def a_model_draws_the_same(case: DetectorCase) -> None:
    queries = case.material.queries
    with temporary_folder() as folder:
        loaded = case.load(case.written(folder))
        same = np.array_equal(_drawn(loaded, queries), _drawn(case.fitted, queries))
        expect(same, "drawn by the model: expected the same")


@CHECKS.add()
def a_seed_decides_what_is_learnt(case: DetectorCase) -> None:
    queries = case.material.queries
    expect_same_predictions("fitted again", case.fit().predict(queries), case.predictions)
    other = case.make(seed=12345).fit(case.material.normal).predict(queries)
    same = all(a.score == b.score for a, b in zip(other, case.predictions, strict=True))
    expect(not same, "with another seed: expected other scores")


def _drawn(detector: Any, images: Any) -> NDArray[np.float32]:
    drawn: NDArray[np.float32] = detector.reconstruct(images)
    return drawn
