"""``resize="shorter"``: images of different shapes have maps of different grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.errors import ImageError, ShapeError
from knnspect.features import Backbone

#: Heights and widths, and the grids of a network of stride 16 with a shorter side of 64.
SHAPES = {
    (64, 64): (4, 4),
    (100, 210): (4, 8),
    (90, 60): (6, 4),
    (211, 100): (8, 4),
    (300, 300): (4, 4),
}


@pytest.fixture(scope="module")
def images() -> list[Any]:
    """Parts of photographs of solar cells, in an order that mixes the shapes."""
    paths = elpv_split(n_train=10, n_functional=0, n_defective=0).train
    shapes = [*SHAPES, *reversed(SHAPES)]
    return [read_image(path)[:h, :w] for path, (h, w) in zip(paths, shapes, strict=True)]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(levels=(1, 3), image_size=64, resize="shorter", device="cpu")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return file


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_features_come_in_order_and_are_those_of_each_image_alone(
    backbone: Backbone, images: list[Any], batch_size: int
) -> None:
    parts = list(backbone.iterate(images, batch_size))
    assert [id_ for part in parts for id_ in part.ids] == [f"{i:06d}" for i in range(len(images))]
    sizes = [size for part in parts for size in part.sizes]
    assert sizes == [image.shape[:2] for image in images]
    place = 0
    for part in parts:
        for index in range(len(part.ids)):
            alone = backbone.extract([images[place]])
            assert alone.pyramid.shapes[-1][:2] == SHAPES[sizes[place]]
            for level, expected in zip(part.pyramid.levels, alone.pyramid.levels, strict=True):
                assert np.array_equal(level[index], expected[0])
            assert np.array_equal(part.pooled[index], alone.pooled[0])
            place += 1


def test_features_of_a_square_are_those_of_a_square_input(
    images: list[Any], transformer: Path
) -> None:
    for name, weights in (("efficientnet_lite0", "auto"), ("test_vit", transformer)):
        found, expected = (
            Backbone(name, (0, 1), 64, weights, resize, pooled="mean", device="cpu").extract(
                [images[4]]
            )
            for resize in ("shorter", "stretch")
        )
        for level, wanted in zip(found.pyramid.levels, expected.pyramid.levels, strict=True):
            assert np.array_equal(level, wanted)
        assert np.array_equal(found.pooled, expected.pooled)


def test_features_of_a_transformer_are_those_of_an_input_of_that_size(
    images: list[Any], transformer: Path
) -> None:
    """Position embeddings are resampled alike when weights are loaded and when it runs."""
    shorter = Backbone("test_vit", (2, 5), 64, transformer, "shorter", device="cpu")
    stretched = Backbone("test_vit", (2, 5), (64, 128), transformer, device="cpu")
    found, expected = (each.extract([images[1]]) for each in (shorter, stretched))
    assert found.pyramid.shapes[0][:2] == (4, 8)
    for level, wanted in zip(found.pyramid.levels, expected.pyramid.levels, strict=True):
        assert np.array_equal(level, wanted)


def test_a_model_keeps_it(backbone: Backbone, images: list[Any]) -> None:
    again = Backbone.from_state(*backbone.state(), "cpu")
    assert again.resize == "shorter"
    for one, other in zip(again.iterate(images), backbone.iterate(images), strict=True):
        assert np.array_equal(one.pyramid.levels[0], other.pyramid.levels[0])


def test_different_grids_make_no_pyramid(backbone: Backbone, images: list[Any]) -> None:
    with pytest.raises(ShapeError, match=r"images: 000001 and 000000 have maps of different grids"):
        backbone.extract(images)


def test_an_image_that_is_much_too_long_is_named(backbone: Backbone) -> None:
    long = np.zeros((1, 70_000, 3), np.uint8)
    with pytest.raises(
        ImageError, match=r"image line: of 1 x 70000 pixels it is too long"
    ) as error:
        backbone.extract({"line": long})
    assert error.value.image == "line"


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    paths = elpv_split(n_train=8, n_functional=0, n_defective=0).train
    return [read_image(path)[:, :200] for path in paths]


@pytest.fixture(scope="module")
def patchcore(backbone: Backbone, cells: list[Any]) -> ks.PatchCore:
    return ks.PatchCore(backbone, coreset=0.2).fit(dict(zip("abcdefg", cells, strict=False)))


class TestDetectors:
    def test_a_coreset_judges_images_of_other_shapes(
        self, patchcore: ks.PatchCore, cells: list[Any], tmp_path: Path
    ) -> None:
        wide = np.concatenate([cells[7], cells[7][:, ::-1]], axis=1)
        odd = wide.copy()
        odd[120:170, 300:340] = 255
        small = cells[7][:150, :100]
        given = {"1": cells[7], "2": odd, "3": wide, "4": small}
        predictions = patchcore.predict(given)
        assert [prediction.id for prediction in predictions] == list(given)
        for prediction, image in zip(predictions, given.values(), strict=True):
            assert prediction.map.shape == image.shape[:2]
        found = predictions[1]
        row, column = np.unravel_index(found.map.argmax(), found.map.shape)
        assert 100 <= row <= 190
        assert 280 <= column <= 360
        assert found.score > 1.1 * predictions[2].score
        evidence = found.evidence(int(row), int(column))
        assert evidence is not None
        assert evidence.box.top <= row < evidence.box.bottom
        assert evidence.box.left <= column < evidence.box.right
        # Of the cell of the normal image, whose grid is its own.
        assert evidence.normal_box is not None
        height, width = cells[0].shape[:2]
        n_rows, n_columns = 24, 16
        top, left = (
            at * n // of
            for at, n, of in zip(evidence.cell, (height, width), (n_rows, n_columns), strict=True)
        )
        assert abs(evidence.normal_box.top - top) <= 1
        assert abs(evidence.normal_box.left - left) <= 1
        alone = patchcore.predict({"2": odd})[0]
        assert alone.score == found.score
        assert np.array_equal(alone.map, found.map)
        patchcore.save(tmp_path / "model")
        again = ks.load(tmp_path / "model").predict({"2": odd})[0]
        assert again.score == found.score
        assert np.array_equal(again.map, found.map)

    def test_normal_images_need_one_grid(self, backbone: Backbone, cells: list[Any]) -> None:
        with pytest.raises(
            ShapeError, match=r"image b: .*the grids of normal images must be equal"
        ):
            ks.Spade(backbone).fit({"a": cells[0], "b": cells[1][:150]})

    def test_a_gallery_of_several_levels_names_the_image(
        self, backbone: Backbone, cells: list[Any]
    ) -> None:
        spade = ks.Spade(backbone, image_neighbors=2).fit(cells[:3])
        with pytest.raises(ShapeError, match=r'image b: .*resize="shorter".*a coreset') as error:
            spade.predict({"a": cells[4], "b": cells[4][:150]})
        assert error.value.image == "b"

    def test_a_gallery_of_one_level_judges_images_of_other_shapes(self, cells: list[Any]) -> None:
        backbone = Backbone(levels=(2,), image_size=64, resize="shorter", device="cpu")
        spade = ks.Spade(backbone, image_neighbors=2).fit(cells[:3])
        for image in (cells[4], cells[4][:150], cells[4][:, :50]):
            (prediction,) = spade.predict([image])
            assert prediction.map.shape == image.shape[:2]

    def test_simplenet_judges_them_and_cflow_says_why_not(
        self, backbone: Backbone, cells: list[Any]
    ) -> None:
        simplenet = ks.SimpleNet(backbone, max_epochs=1).fit(cells[:3])
        (prediction,) = simplenet.predict([cells[4][:150]])
        assert prediction.map.shape == (150, 200)
        cflow = ks.CFlow(backbone, max_epochs=1).fit(cells[:3])
        with pytest.raises(ShapeError, match=r"image b: .*the flows were trained on 24x16x24"):
            cflow.predict({"b": cells[4][:150]})

    def test_a_fit_with_little_memory_gives_the_same(
        self, backbone: Backbone, patchcore: ks.PatchCore, cells: list[Any], tmp_path: Path
    ) -> None:
        again = ks.PatchCore(backbone, coreset=0.2)
        again.fit(dict(zip("abcdefg", cells, strict=False)), folder=tmp_path / "f")
        one, other = again.predict([cells[7]])[0], patchcore.predict([cells[7]])[0]
        assert one.score == other.score
        assert np.array_equal(one.map, other.map)
