"""CFLOW-AD's network: how likelihoods of levels become scores of cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.detectors.heads.networks.cflow import CFlowNetwork
from knnspect.detectors.heads.networks.standardization import channel_statistics
from knnspect.training.loop import Training, TrainingSettings
from knnspect.training.schedule import rate_factor
from knnspect.training.sources import FeatureSource

SHAPES = [(6, 4, 5), (3, 2, 8)]


def pyramid(n_images: int, seed: int = 0) -> ks.FeaturePyramid:
    rng = np.random.default_rng(seed)
    return ks.FeaturePyramid(
        [rng.normal(4, 2, (n_images, *shape)).astype(np.float32) for shape in SHAPES]
    )


@pytest.fixture(scope="module")
def network() -> CFlowNetwork:
    torch.manual_seed(0)
    network = CFlowNetwork(SHAPES, 2, 1e-2)
    gallery = ks.Gallery()
    gallery.add(pyramid(10))
    settings = TrainingSettings(3, None, 0, mixed_precision=False)
    Training(network, FeatureSource(gallery), gallery.ids, [], settings).run(progress=False)
    return network


def test_highest_likelihoods_are_those_of_the_images(network: CFlowNetwork) -> None:
    images = pyramid(10)
    found = [network._log_likelihoods(images[i]) for i in range(10)]
    for level, highest in enumerate(network.highest.tolist()):
        assert highest == max(float(values[level].max()) for values in found)


def test_scores_are_minus_the_logarithm_of_the_mean_likelihood(network: CFlowNetwork) -> None:
    """By hand, in float64, with the bilinear weights of half-pixel centres written out."""
    image = pyramid(1, seed=7)
    fine, coarse = (
        np.exp(np.minimum(values.numpy().astype(np.float64) - highest, 0))
        for values, highest in zip(
            network._log_likelihoods(image), network.highest.tolist(), strict=True
        )
    )

    def weights(n_fine: int, n_coarse: int) -> np.ndarray:
        matrix = np.zeros((n_fine, n_coarse))
        for place in range(n_fine):
            at = np.clip((place + 0.5) * n_coarse / n_fine - 0.5, 0, n_coarse - 1)
            low = int(at)
            matrix[place, low] += 1 - (at - low)
            matrix[place, min(low + 1, n_coarse - 1)] += at - low
        return matrix

    upsampled = weights(6, 3) @ coarse @ weights(4, 2).T
    expected = -np.log((fine + upsampled) / 2)
    np.testing.assert_allclose(network.cell_scores(image), expected, rtol=1e-9)


def test_scores_do_not_end_where_likelihoods_vanish(network: CFlowNetwork) -> None:
    image = pyramid(1, seed=7)
    scores = []
    for factor in (1, 5, 20, 1e20):
        odd = ks.FeaturePyramid([(level * factor).astype(np.float32) for level in image.levels])
        scores.append(network.cell_scores(odd))
        assert np.isfinite(scores[-1]).all()
    assert (scores[0] < scores[1]).all()
    assert (scores[1] < scores[2]).all()
    assert (scores[2] <= scores[3]).all()


def test_what_is_more_likely_than_anything_normal_counts_as_normal(network: CFlowNetwork) -> None:
    network.highest -= 100
    try:
        assert not network.cell_scores(pyramid(1)).any()
    finally:
        network.highest += 100


def test_statistics_are_those_of_all_cells() -> None:
    images = pyramid(9)
    images.levels[0][..., 2] = 7
    images.levels[1][...] += 1e4
    found = channel_statistics([images[0], images[1:4], images[4:]])
    for (mean, deviation), level in zip(found, images.levels, strict=True):
        rows = level.reshape(-1, level.shape[-1]).astype(np.float64)
        np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
        expected = rows.std(0)
        expected[expected == 0] = 1
        np.testing.assert_allclose(deviation, expected, rtol=1e-6)


def test_rates_rise_then_fall_along_a_cosine() -> None:
    rates = [rate_factor(done) for done in np.linspace(0, 1, 101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[8] == 1
    assert rates[54] == pytest.approx(0.505)
    assert rates[-1] == pytest.approx(0.01)
    assert np.all(np.diff(rates[:9]) > 0)
    assert np.all(np.diff(rates[8:]) < 0)
