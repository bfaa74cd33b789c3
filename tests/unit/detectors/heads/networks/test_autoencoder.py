"""DUAD's autoencoders, against plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from knnspect.detectors.heads.networks.autoencoder import (
    CellNetwork,
    RowNetwork,
    RowSource,
    codes_of,
)
from knnspect.pyramid import FeaturePyramid

pytestmark = pytest.mark.usefixtures("one_thread")


def layers(network: Any, rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes, and what is made of them."""
    arrays = {k.removeprefix("autoencoder."): v.astype(float) for k, v in network.arrays().items()}

    def linear(name: str, values: NDArray[Any]) -> NDArray[Any]:
        product: NDArray[Any] = values @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]
        return product

    code = linear("code", np.maximum(linear("inwards", rows), 0))
    return code, linear("output", np.maximum(linear("outwards", code), 0))


@pytest.fixture
def rows() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(70, 9)).astype(np.float32)


def test_images_are_described_by_codes_cosines_and_errors(rows: NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    network = RowNetwork(9, hidden=7, latent_size=3)
    described, errors = network.described(rows)
    code, back = layers(network, rows.astype(float))
    cosine = (rows * back).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(back, axis=1)
    np.testing.assert_allclose(errors, np.square(rows - back).mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(described, codes_of(code, cosine), atol=1e-5)
    # Both parts weigh the same, and the angle between images and codes stays what it was.
    np.testing.assert_allclose(np.square(described[:, :3]).sum(1).mean(), 1)
    np.testing.assert_allclose(np.square(described[:, 3]).mean(), 1)
    assert np.corrcoef(described[:, 3], cosine)[0, 1] > 0.999


def test_what_does_not_differ_has_no_weight() -> None:
    assert codes_of(np.full((4, 2), 3.0), np.full(4, 0.5)).tolist() == [[0.0] * 3] * 4


def test_steps_take_each_row_once_and_know_its_loss(rows: NDArray[np.float32]) -> None:
    torch.manual_seed(0)
    network = RowNetwork(9, hidden=7, latent_size=3)
    steps = list(network.steps(rows, torch.Generator().manual_seed(1)))
    assert [step.n_cells for step in steps] == [32, 32, 6]
    assert steps[-1].done == 1
    total = sum(float(step.loss.detach()) * step.n_cells for step in steps)
    back = layers(network, rows.astype(float))[1]
    assert total / len(rows) == pytest.approx(np.square(rows - back).mean(), rel=1e-5)
    ((held_out, n_rows),) = network.held_out_losses(rows)
    assert held_out == pytest.approx(np.square(rows - back).mean(axis=1).sum(), rel=1e-5)
    assert n_rows == 70


def test_rows_come_by_their_ids(rows: NDArray[np.float32]) -> None:
    source = RowSource(rows[:3], ["c", "a", "b"])
    np.testing.assert_array_equal(source.batch(["b", "c"]), rows[[2, 0]])


def test_cells_score_the_mean_squared_error_of_standardized_features() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    shapes = [(6, 4, 5), (3, 2, 4)]
    levels = [(7 + 3 * rng.normal(size=(3, *shape))).astype(np.float32) for shape in shapes]
    network = CellNetwork(shapes, hidden=8, latent_size=3, learning_rate=1e-3)
    network.prepare(iter([FeaturePyramid(levels)]))
    features = np.concatenate([level.reshape(-1, level.shape[-1]).mean(0) for level in levels])
    np.testing.assert_allclose(network.mean.numpy(), features, rtol=1e-5)
    one = FeaturePyramid([level[1:2] for level in levels])
    cells = one.concatenated("bilinear")[0].reshape(-1, 9).astype(float)
    deviation = np.concatenate([level.reshape(-1, level.shape[-1]).std(0) for level in levels])
    cells = (cells - features) / deviation
    autoencoder = {k: v for k, v in network.arrays().items() if k.startswith("auto")}
    assert len(autoencoder) == 8
    back = layers(network, cells)[1]
    expected = np.square(back - cells).mean(axis=1).reshape(6, 4)
    found = network.cell_scores(one)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4)
