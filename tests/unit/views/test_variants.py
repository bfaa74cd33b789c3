"""Variants as values: what they may be, what they are called, and which ids they have."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect.data import Geometry, elpv_split, read_image
from knnspect.data.decoded import contiguous
from knnspect.errors import DTypeError, ImageError, ParameterError
from knnspect.views import Box, Variant, Variants

ALL = Variants(rotations=8, brightness=(0.8, 1.2), mirror=True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"rotations": 0}, ParameterError, "rotations: expected at least 1, got 0"),
        ({"rotations": 361}, ParameterError, "rotations: expected at most 360, got 361"),
        ({"rotations": 2.0}, DTypeError, "rotations: expected an integer"),
        ({"rotations": True}, DTypeError, "rotations: expected an integer"),
        ({"brightness": (0.8, 0)}, ParameterError, "brightness: expected a finite number above 0"),
        ({"brightness": (float("nan"),)}, ParameterError, "brightness: expected a finite number"),
        ({"brightness": (float("inf"),)}, ParameterError, "brightness: expected a finite number"),
        ({"brightness": ("0.8",)}, DTypeError, "brightness: expected a number"),
        ({"brightness": "0.8"}, DTypeError, "brightness: expected a sequence of numbers"),
        ({"brightness": 0.8}, DTypeError, "brightness: expected a sequence of numbers"),
        ({"brightness": (0.8, 1)}, ParameterError, "brightness: expected factors that differ"),
        ({"brightness": (0.8, 0.8)}, ParameterError, "brightness: expected factors that differ"),
        ({"mirror": 1}, DTypeError, "mirror: expected True or False"),
    ],
)
def test_what_are_no_variants_is_refused_by_name(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}") as raised:
        Variants(**given)
    assert raised.value.parameter == next(iter(given))  # type: ignore[attr-defined]


def test_all_combinations_have_names_of_their_own_the_image_as_it_is_first() -> None:
    names = [variant.name for variant in ALL.each]
    assert len(ALL) == len(names) == len(set(names)) == 8 * 3 * 2
    assert ALL.each[0] == Variant()
    assert names[0] == ""
    assert {"rotated 45", "mirrored", "brightness 0.8", "mirrored, rotated 315, brightness 1.2"} < (
        set(names)
    )
    assert [variant.name for variant in Variants().each] == [""]
    assert len({variant.name for variant in Variants(360).each}) == 360


@pytest.mark.parametrize(
    "variants", [ALL, Variants(), Variants(7), Variants(mirror=True), Variants(1, [1.25])]
)
def test_texts_and_pickles_give_them_back(variants: Variants) -> None:
    assert Variants.parse(str(variants)) == variants
    assert pickle.loads(pickle.dumps(variants)) == variants
    assert eval(repr(variants), {"Variants": Variants}) == variants
    assert hash(Variants.parse(str(variants))) == hash(variants)


@pytest.mark.parametrize(
    "text",
    ["", "8", "rotations", "rotations=two", "brightness=", "mirror=yes", "rotations=2,rotations=3"],
)
def test_other_texts_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ParameterError, match=r"rotations=8,brightness=0\.8:1\.2,mirror"):
        Variants.parse(text)


def test_ids_come_back_as_image_and_variant() -> None:
    for image in ("a.png", "a [b]", "a [rotated 44]", " [", "[rotated 45]x", ""):
        ids = ALL.stored_ids(image)
        assert len(set(ids)) == len(ALL)
        assert ids[0] == image
        assert [ALL.split(id_) for id_ in ids] == [(image, variant) for variant in ALL.each]


def test_an_id_that_looks_like_a_variant_is_refused_where_there_is_such_a_variant() -> None:
    with pytest.raises(ImageError, match=r"image a \[rotated 45\]: its id is what the variant"):
        ALL.stored_ids("a [rotated 45]")
    assert Variants(3).stored_ids("a [rotated 45]")[0] == "a [rotated 45]"


def test_the_image_as_it_is_is_prepared_as_without_variants_to_the_bit() -> None:
    image = read_image(elpv_split(n_train=1).train[0])
    geometry = Geometry((64, 64))
    made = dict(ALL.prepare("a", image, geometry))
    assert list(made) == ALL.stored_ids("a")
    assert np.array_equal(made["a"], geometry.prepare(image))
    upside_down = geometry.prepare(contiguous(image)[::-1, ::-1])
    assert np.array_equal(made["a [rotated 180]"], upside_down)
    darker = made["a"].mean() * 0.8
    assert made["a [brightness 0.8]"].mean() == pytest.approx(darker, rel=0.01)
    mirrored = geometry.prepare(contiguous(image)[:, ::-1])
    assert np.array_equal(made["a [mirrored]"], mirrored)
    # Turned at the resolution of the file, with all its pixels, and then resized.
    turned = geometry.prepare(Variant(45.0).of(image))
    rows, columns = np.indices((64, 64)) - 31.5
    inside = rows**2 + columns**2 < 30**2  # no reflections, of which some are a pixel off
    difference = np.abs(made["a [rotated 45]"] - turned)[:, inside]
    assert difference.max() < 0.05
    assert difference.mean() < 0.003
    arrays = list(made.values())
    assert all(
        not np.array_equal(one, other) for n, one in enumerate(arrays) for other in arrays[:n]
    )


@pytest.mark.parametrize("size", [(15, 15), (14, 18)])
@pytest.mark.parametrize("variant", [v for v in ALL.each if v.brightness == 1], ids=str)
def test_a_box_of_a_variant_is_where_its_pixels_were(
    variant: Variant, size: tuple[int, int]
) -> None:
    """Of every bright spot that shows in the box; the box is hardly larger than it must be."""
    box = Box(3, 7, 5, 10)
    found = variant.box_in_image(box, size)
    assert 0 <= found.top < found.bottom <= size[0]
    assert 0 <= found.left < found.right <= size[1]
    seen = np.zeros(size, bool)
    for row, column in np.ndindex(size):
        image = np.zeros((*size, 3), np.uint8)
        image[row, column] = 255
        inside = variant.of(image)[box.top : box.bottom, box.left : box.right, 0]
        seen[row, column] = inside.max() > 127
    rows, columns = np.nonzero(seen)
    assert found.top <= rows.min() <= rows.max() < found.bottom
    assert found.left <= columns.min() <= columns.max() < found.right
    assert found.bottom - found.top <= rows.max() - rows.min() + 3
    assert found.right - found.left <= columns.max() - columns.min() + 3


def test_they_are_public() -> None:
    assert ks.Variants is Variants


@pytest.mark.parametrize("size", [(300, 450), (1000, 611), (640, 1280)])
def test_all_have_the_input_of_their_image_where_proportions_are_kept(
    size: tuple[int, int],
) -> None:
    geometry = Geometry((64, 64), "shorter", multiple=16)
    made = Variants(4, (0.8,)).prepare("a", np.full((*size, 3), 9, np.uint8), geometry)
    assert {array.shape for _, array in made} == {(3, *geometry.input_size(size))}
