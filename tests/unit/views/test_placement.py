"""The way from pixels to cells and back, whatever way an image met the network."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect.data import Geometry, elpv_split
from knnspect.errors import ParameterError
from knnspect.views import Placement, Sizes

GRID = (6, 4)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(48, 32), (100, 37), (31, 90), (5, 3), (1, 1)])
def test_a_pixel_lies_in_the_box_of_its_cell(size: tuple[int, int], resize: Any) -> None:
    placement = Placement(size, Geometry((48, 32), resize))
    rows, columns = placement.geometry.positions(size)
    for row, column in product(range(size[0]), range(size[1])):
        cell = placement.cell_at(row, column, GRID)
        assert (0, 0) <= cell < GRID
        if np.isfinite(rows[row]) and np.isfinite(columns[column]):
            box = placement.box_of(cell, GRID)
            assert box.top <= row < box.bottom
            assert box.left <= column < box.right


def test_a_pixel_lies_in_the_box_of_its_cell_whatever_the_grid() -> None:
    for size in ((24, 16), (10, 35), (60, 20)):
        placement = Placement(size, Geometry((32, 32), "shorter", multiple=16))
        height, width = placement.input_size
        grid = (height // 8, width // 8)
        for row, column in product(range(size[0]), range(size[1])):
            cell = placement.cell_at(row, column, grid)
            box = placement.box_of(cell, grid)
            assert (0, 0) <= cell < grid
            assert box.top <= row < box.bottom
            assert box.left <= column < box.right


def test_boxes_of_a_large_image_share_borders_alone() -> None:
    placement = Placement((96, 64), Geometry((48, 32)))
    boxes = [placement.box_of(cell, GRID) for cell in product(range(6), range(4))]
    covered = np.zeros((96, 64), int)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert (covered == 1).all()


def test_a_cell_without_a_pixel_has_the_nearest_one() -> None:
    box = Placement((2, 2), Geometry((48, 32))).box_of((2, 1), GRID)
    assert (box.bottom - box.top, box.right - box.left) == (1, 1)


def test_sizes_come_back_from_json() -> None:
    given = {"a": (3, 4), "b": (9, 9), "c": (3, 4)}
    sizes = Sizes.from_json(Sizes(given).to_json())
    assert {id_: sizes[id_] for id_ in given} == given
    for bad in ({}, {"most": [1], "others": {}}, {"most": [1, 2], "others": {"a": [0, 1]}}):
        with pytest.raises((KeyError, ValueError)):
            Sizes.from_json(bad)


def test_the_evidence_of_a_normal_image_is_the_image_itself(tmp_path: Any) -> None:
    """Also after saving; boxes are in the pixels of images that have sizes of their own."""
    split = elpv_split(n_train=3)
    normal = dict(zip("abc", (ks.data.read_image(path) for path in split.train), strict=True))
    normal["b"] = normal["b"][:150]
    backbone = ks.Backbone(image_size=64, device="cpu")
    spade = ks.Spade(backbone, image_neighbors=3).fit(normal)
    spade.save(tmp_path / "model.ks")
    for detector in (spade, ks.load(tmp_path / "model.ks")):
        for prediction in detector.predict(normal):
            height, width = prediction.map.shape
            for row, column in ((0, 0), (height - 1, width - 1), (height // 2, width // 3)):
                evidence = prediction.evidence(row, column)
                assert evidence is not None
                assert (evidence.image, evidence.sq_distance) == (prediction.id, 0)
                assert evidence.normal_box == evidence.box
                assert evidence.box.top <= row < evidence.box.bottom
                assert evidence.box.left <= column < evidence.box.right
            with pytest.raises(ParameterError, match="expected a pixel"):
                prediction.evidence(height, 0)
