"""Images that belong together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnspect import DTypeError, ParameterError
from knnspect.calibration.blocks import blocks_of, merged_blocks

IDS = ["monday/1.png", "monday/2.png", "tuesday/1.png", "alone.png"]


def test_folders_are_blocks() -> None:
    assert blocks_of(IDS, "folder") == ["monday", "monday", "tuesday", "."]


def test_a_mapping_has_every_image() -> None:
    assert blocks_of(["a", "b"], {"a": 1, "b": 2, "c": 3}) == [1, 2]
    with pytest.raises(ParameterError, match="blocks: has none for image b") as caught:
        blocks_of(["a", "b"], {"a": 1})
    assert caught.value.parameter == "blocks"


def test_without_any_there_are_none() -> None:
    assert blocks_of(IDS, None) is None
    assert merged_blocks(IDS, []) is None


@pytest.mark.parametrize(
    ("bad", "error"), [("file", ParameterError), (3, DTypeError), ([1, 2], DTypeError)]
)
def test_other_blocks_are_refused(bad: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match='blocks: expected "folder", a mapping or a function'):
        blocks_of(IDS, bad)


PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=15)


@given(PAIRS, st.none() | st.lists(st.integers(0, 3), min_size=10, max_size=10))
def test_linked_images_are_one_block(
    pairs: list[tuple[int, int]], blocks: list[int] | None
) -> None:
    # Images 10 to 12 are not among those that are asked for, and may link others.
    ids = [str(n) for n in range(10)]
    found = merged_blocks(ids, [(str(a), str(b)) for a, b in pairs], blocks)
    reached = [{n} for n in range(13)]
    links = list(pairs)
    if blocks is not None:
        links += [(a, b) for a in range(10) for b in range(a) if blocks[a] == blocks[b]]
    for _ in range(13):
        for a, b in links:
            reached[a] = reached[b] = reached[a] | reached[b]
        for n in range(13):
            for m in list(reached[n]):
                reached[n] = reached[n] | reached[m]
    if found is None:
        assert not pairs
        assert blocks is None
        return
    for a in range(10):
        for b in range(10):
            assert (found[a] == found[b]) == (b in reached[a])
