"""What holds after corrections follows from these alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from knnspect import ParameterError
from knnspect.corrections import Added, Correction, History, Rows


def came(*ids: str) -> dict[str, Added]:
    return {id_: Added((4, 5), id_.encode().ljust(32, b"\0")) for id_ in ids}


def history(*steps: tuple[str, Any]) -> History:
    """Return the history of some steps, such as ("add", ["a"]) or ("rollback", 1)."""
    made = History()
    for number, (kind, what) in enumerate(steps, start=1):
        if kind == "rollback":
            correction = Correction(number, "rollback", "now", to=what)
        else:
            added = {} if kind == "remove" else came(*what)
            name = "scratch" if kind == "reject" else ""
            scores = dict.fromkeys(added, (1.0 * number, 2.0)) if kind != "reject" else {}
            correction = Correction(number, kind, "now", tuple(what), added, name, None, scores)  # type: ignore[arg-type]
        made = made.with_(correction)
    return made


def test_images_that_came_and_went_are_hidden_and_not_lost() -> None:
    found = history(("add", ["a", "b"]), ("remove", ["a", "of fit"]))
    assert found.standing.added == {"b": 1}
    assert found.standing.removed == {"of fit"}
    assert found.hidden == {"a", "of fit"}
    assert set(found.came) == {"a", "b"}
    assert set(found.standing.scores) == {"b"}


def test_a_rollback_brings_back_what_held_and_hides_what_came_later() -> None:
    found = history(
        ("add", ["a"]), ("remove", ["of fit"]), ("accept", ["b"]), ("rollback", 1), ("add", ["c"])
    )
    assert found.standing.added == {"a": 1, "c": 5}
    assert found.standing.removed == frozenset()
    assert found.hidden == {"b"}
    assert set(found.standing.scores) == {"a", "c"}


def test_a_rollback_can_be_rolled_back() -> None:
    found = history(("add", ["a"]), ("add", ["b"]), ("rollback", 0), ("rollback", 2))
    assert found.standing.added == {"a": 1, "b": 2}
    assert found.hidden == frozenset()


def test_defects_are_remembered_and_forgotten() -> None:
    found = history(("reject", ["bad"]), ("remove", ["bad"]))
    assert found.at(1).defects == {"bad": "scratch"}
    assert found.standing.defects == {}
    assert found.standing.removed == frozenset(), "it was no normal image"
    assert found.normal == frozenset()


def test_a_number_beyond_the_history_is_refused() -> None:
    found = history(("add", ["a"]))
    with pytest.raises(ParameterError, match=r"0 \(as fitted\) to 1, got 2"):
        found.at(2)
    with pytest.raises(ParameterError, match="to: "):
        found.at(-1)


@pytest.mark.parametrize(
    "bad",
    [
        Correction(2, "add", "now", ("b",), came("b")),
        Correction(3, "rollback", "now", to=3),
        Correction(3, "add", "now", ("a",), came("a")),
        Correction(3, "add", "now", ("b",), came("c")),
        Correction(3, "remove", "now", ("b",), came("b")),
    ],
    ids=["number", "rollback to itself", "an id anew", "another image", "remove brings"],
)
def test_corrections_that_do_not_follow_are_refused(bad: Correction) -> None:
    found = history(("add", ["a"]), ("remove", ["a"]))
    with pytest.raises(ValueError, match="corrections: "):
        found.with_(bad)


def test_a_correction_is_the_same_after_json() -> None:
    rows = Rows(np.array([[0, 3], [2, 1]]), np.array([[1.5, -2], [3, 1e-30]], np.float32))
    added = Added((3, 4), bytes(range(32)), "/a b.png", b"\xff\xd8\xff\xd9", {"x": rows})
    before = Correction(1, "accept", "2026", ("x",), {"x": added}, "", None, {"x": (0.1, 2.0)})
    after = Correction.from_json(json.loads(json.dumps(before.to_json())))
    assert after.to_json() == before.to_json()
    image = after.added["x"]
    assert (image.size, image.digest, image.file) == ((3, 4), bytes(range(32)), "/a b.png")
    assert image.thumbnail == b"\xff\xd8\xff\xd9"
    np.testing.assert_array_equal(image.rows["x"].features, rows.features)
    np.testing.assert_array_equal(image.rows["x"].cells, rows.cells)
    assert after.scores == {"x": (0.1, 2.0)}


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "paint"},
        {"kind": "rollback"},
        {"to": 0},
        {"number": 0},
        {"images": "a"},
        {"scores": {"a": [float("nan"), 1]}},
        {"added": {"a": {}}},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    good = Correction(1, "add", "now", ("a",), came("a")).to_json()
    with pytest.raises((KeyError, TypeError, ValueError)):
        Correction.from_json({**good, **change})
