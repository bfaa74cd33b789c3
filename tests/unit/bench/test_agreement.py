"""Backends that are to be exact are held to it; the others are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import knnspect as ks
from knnspect.backends import RustBackend
from knnspect.bench import Case, DetectorCase, SearchCase, check_agreement, recall, tolerance
from knnspect.bench import synthetic_case as make_case

SHAPES = [(8, 8, 5), (4, 4, 7)]
K = 3


@pytest.fixture(scope="module", params=["bilinear", "block"])
def case(request: pytest.FixtureRequest) -> SearchCase:
    return make_case(SHAPES, n_images=4, n_queries=2, k=K, upsample=request.param)


@pytest.fixture(scope="module")
def exact(case: SearchCase) -> ks.Neighbors:
    return case.search(1, "rust", None)


def altered(neighbors: ks.Neighbors, name: str, change: Callable[[NDArray[Any]], None]) -> Any:
    values = getattr(neighbors, name).astype(getattr(neighbors, name).dtype.str.replace("u", "i"))
    change(values)
    changes: dict[str, Any] = {name: values}
    return replace(neighbors, **changes)


def assert_refused(case: Case, found: ks.Neighbors, exact: ks.Neighbors, *words: str) -> None:
    with pytest.raises(ks.DisagreementError) as caught:
        check_agreement(case, 1, "abacus", found, exact)
    message = str(caught.value)
    assert "\n" not in message
    for word in ("'abacus'", f"image {case.ids[1]}", *words):
        assert word in message


def test_what_is_the_same_agrees(case: SearchCase, exact: ks.Neighbors) -> None:
    check_agreement(case, 1, "rust", exact, exact)
    exhaustive = case.search(1, RustBackend(matcher="exhaustive"), 1)
    check_agreement(case, 1, "exhaustive", exhaustive, exact)


@pytest.mark.parametrize("change", [1 + 2e-5, 1 - 2e-5, np.nan, 0.0])
def test_a_distance_beyond_the_contract_is_refused(
    case: SearchCase, exact: ks.Neighbors, change: float
) -> None:
    def scale(values: NDArray[Any]) -> None:
        values[0, 3, 5, 2] *= np.float32(change)

    assert_refused(
        case, altered(exact, "sq_distances", scale), exact, "cell (3, 5)", "neighbour 3", "1e-05"
    )


def test_a_distance_within_the_contract_agrees(case: SearchCase, exact: ks.Neighbors) -> None:
    def scale(values: NDArray[Any]) -> None:
        values *= np.float32(1 + 5e-6)

    check_agreement(case, 1, "faiss", altered(exact, "sq_distances", scale), exact)


def test_the_bound_is_wider_where_features_are_rounded() -> None:
    assert (tolerance("float32"), tolerance("float16"), tolerance("int8")) == (1e-5, 1e-4, 1e-4)
    case = make_case(SHAPES, n_images=3, n_queries=2, dtype="float16")
    exact = case.search(1, "rust", None)

    def scale(values: NDArray[Any]) -> None:
        values *= np.float32(1 + 5e-5)

    check_agreement(case, 1, "faiss", altered(exact, "sq_distances", scale), exact)


@pytest.mark.parametrize("name", ["image_index", "cells"])
def test_a_place_that_is_farther_than_it_is_said_to_be_is_refused(
    case: SearchCase, exact: ks.Neighbors, name: str
) -> None:
    def move(values: NDArray[Any]) -> None:
        values[0, 2, 6, 0] = (values[0, 2, 6, 0] + 1) % 4

    assert_refused(case, altered(exact, name, move), exact, "cell (2, 6)", "neighbour 1")


@pytest.mark.parametrize(
    ("name", "value"), [("image_index", 9), ("image_index", -2), ("cells", 99)]
)
def test_a_place_that_does_not_exist_is_refused(
    case: SearchCase, exact: ks.Neighbors, name: str, value: int
) -> None:
    def move(values: NDArray[Any]) -> None:
        values[0, 0, 1, 1] = value

    assert_refused(case, altered(exact, name, move), exact, "cell (0, 1)", "neighbour 2")


def test_ids_of_other_images_are_refused(case: SearchCase, exact: ks.Neighbors) -> None:
    shifted = replace(exact, image_ids=(*exact.image_ids[1:], exact.image_ids[0]))
    assert_refused(case, shifted, exact, "cell (")


def test_too_few_neighbours_are_refused(case: SearchCase, exact: ks.Neighbors) -> None:
    less = ks.Neighbors(
        exact.sq_distances[..., :2],
        exact.image_index[..., :2],
        exact.cells[..., :2, :],
        exact.image_ids,
    )
    assert_refused(case, less, exact, "(1, 8, 8, 3)", "(1, 8, 8, 2)")


class TestTies:
    """Two images with the same features: which of two equal places is found is open."""

    @pytest.fixture
    def case(self) -> SearchCase:
        gallery = ks.Gallery()
        one = make_case(SHAPES, n_images=1, n_queries=2)
        for id_ in ("a", "b"):
            gallery.add(one.target.pyramid(), [id_])
        return SearchCase(gallery, one.pyramid, k=2)

    def test_another_place_at_the_same_distance_agrees(self, case: SearchCase) -> None:
        exact = case.search(1, "rust", None)

        def exchange(values: NDArray[Any]) -> None:
            values[:] = values[..., ::-1].copy()

        other = altered(exact, "image_index", exchange)
        assert (other.image_index != exact.image_index).any()
        check_agreement(case, 1, "faiss", other, exact)

    def test_the_same_place_twice_is_refused(self, case: SearchCase) -> None:
        exact = case.search(1, "rust", None)

        def repeat(values: NDArray[Any]) -> None:
            values[0, 4, 4, 1] = values[0, 4, 4, 0]

        assert_refused(case, altered(exact, "image_index", repeat), exact, "(4, 4)", "twice")


def test_recall_is_the_share_that_is_among_the_exact_ones() -> None:
    cells = np.zeros((1, 1, 2, 3, 2), int)
    cells[0, 0, :, :, 1] = [[0, 1, 2], [3, 4, 5]]
    index = np.array([[[[0, 0, 1], [1, 1, 1]]]])
    distances = np.zeros((1, 1, 2, 3), np.float32)
    exact = ks.Neighbors(distances, index, cells, ("a", "b"))
    assert recall(exact, exact) == 1
    backwards = ks.Neighbors(distances, index[..., ::-1], cells[..., ::-1, :], ("a", "b"))
    assert recall(backwards, exact) == 1
    others = index.copy()
    others[0, 0, 0, 0] = 1
    assert recall(ks.Neighbors(distances, others, cells, ("a", "b")), exact) == pytest.approx(5 / 6)
    # The same numbers mean other images.
    assert recall(ks.Neighbors(distances, index, cells, ("b", "c")), exact) == 0


def test_rows_of_a_coreset_are_held_to_the_contract() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3)).astype("u1")
    detector = ks.PatchCore(ks.Backbone(image_size=64, patch_size=3), coreset=20)
    case = DetectorCase(detector.fit(images[:3]), images[3:])
    exact = case.search(1, "rust", None)
    check_agreement(case, 1, "rust", exact, exact)
    again = altered(exact, "image_index", lambda values: None)
    again = replace(again, image_ids=exact.image_ids[::-1], image_index=2 - exact.image_index)
    check_agreement(case, 1, "numbered otherwise", again, exact)
    assert_refused(case, replace(exact, image_ids=exact.image_ids[::-1]), exact, "cell (")

    def move(values: NDArray[Any]) -> None:
        values[0, 0, 0, 0] = (15, 0) if tuple(values[0, 0, 0, 0]) != (15, 0) else (0, 15)

    assert_refused(case, altered(exact, "cells", move), exact, "cell (0, 0)")
