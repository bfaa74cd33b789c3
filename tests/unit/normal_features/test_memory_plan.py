"""What a build will take, said before it starts."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest

from knnspect.normal_features.memory_plan import Plan, warn_of_variants

#: 30 images to learn and 10 that are there, each in 8 variants of 1 MB together.
PLAN = Plan(30, 10, 0, 16, 2, 500_000_000, 1_000_000, n_variants=8)


def test_variants_that_take_more_than_the_limit_of_memory_are_named_before() -> None:
    with pytest.warns(UserWarning, match=r"^variants: 40 images in 8 variants each take 40 MB of"):
        warn_of_variants(PLAN, 39_000_000)


def test_nothing_is_said_where_they_fit_or_there_are_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_variants(PLAN, 41_000_000)
        warn_of_variants(PLAN, None)
        warn_of_variants(replace(PLAN, n_variants=1), 39_000_000)
        warn_of_variants(replace(PLAN, n_images=None, n_known=0), 39_000_000)


def test_words_name_variants_where_there_are_several() -> None:
    assert PLAN.describe(None).startswith(
        "10 images are there, 30 images to learn in 8 variants each, 30 MB of disk"
    )
    assert "variants" not in replace(PLAN, n_variants=1).describe(None)
