"""What was kept and dropped, in words and in files."""

from __future__ import annotations

import json
from typing import Any

import pytest

from knnspect.detectors.selecting import Round, SelectedImage, Selection

IMAGES = [
    SelectedImage("a", True, 0, 5, 1.0, 0.5, 0.1, 3),
    SelectedImage("b", True, 1, 4, 2.0, 0.5, 0.3, 1),
    SelectedImage("c", True, 0, 5, 1.0, 0.5, 0.2, 2),
    SelectedImage("d", False, 2, 4, 9.0, 7.0, 0.8, 0),
    SelectedImage("e", False, 3, 1, 0.0, 0.0, 0.9, 0),
    SelectedImage("f", True, 2, 4, 9.0, 7.0, 0.7, 2),
]
BY_MOST = "kept in 2 of 3 rounds; its last cluster 2 of 4 images has variance 9, above 2"
FOUND = Selection(IMAGES, 2.0, 2, [Round(4, 4, 2), Round(3, 0, 1), Round(4, 2, 1)])


def test_lists_begin_with_what_matters_most() -> None:
    assert FOUND.kept == ["a", "b", "c", "f"]
    assert [image.id for image in FOUND.dropped] == ["e", "d"]
    assert [image.id for image in FOUND.borderline] == ["b", "f", "c"]
    assert not FOUND.is_settled


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (1, "cluster 1 of 4 images has variance 2, at most 2; reconstruction error 0.3"),
        (3, "cluster 2 of 4 images has variance 9, above 2; reconstruction error 0.8"),
        (4, "cluster 3 of 1 image is too small: fewer than 2; reconstruction error 0.9"),
        (5, f"kept by most rounds: {BY_MOST}; reconstruction error 0.7"),
    ],
)
def test_reasons_name_cluster_variance_and_error(place: int, words: str) -> None:
    assert FOUND.reason(IMAGES[place]) == words


def test_json_brings_it_back() -> None:
    assert Selection.from_json(json.loads(json.dumps(FOUND.to_json()))) == FOUND


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", []),
        ("rounds", [[1, 2]]),
        ("limit", "2"),
        ("limit", float("nan")),
        ("fewest", 1.5),
        ("images", [["a", 1, 0, 5, 1.0, 0.5, 0.1, 3]]),
        ("images", ["a"]),
        ("images", 3),
    ],
)
def test_other_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Selection.from_json({**FOUND.to_json(), name: value})
