"""AnoGAN: a DCGAN, and a search for the code of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.detectors.reconstruction.networks.anogan import AnoGANNetwork
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.pyramid import FeaturePyramid

SHAPE, SETTINGS = (16, 20, 1), Settings(latent_size=6, width=4, learning_rate=1e-2)


def network(search_steps: int = 6, feature_share: float = 0.1) -> Any:
    torch.manual_seed(0)
    made = AnoGANNetwork(SHAPE, SETTINGS, search_steps, 0.05, feature_share)
    # A generator of large weights draws images that differ.
    for value in made.decoder.parameters():
        value.data *= 5
    return made.eval()


def images(n: int = 5) -> torch.Tensor:
    return torch.rand(n, 1, 16, 20, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 1.0])
def test_scores_are_the_papers(weight: float) -> None:
    made, x = network(feature_share=weight), images()
    with torch.no_grad():
        drawn = made.draw(x)
        scores = made.scores(x, drawn).numpy()
        features = made.discriminator.features(x) - made.discriminator.features(drawn)
    pixels = np.abs((x - drawn).numpy()).reshape(5, -1).sum(axis=1)
    expected = (1 - weight) * pixels + weight * np.abs(features.numpy()).sum(axis=1)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_more_steps_of_search_draw_nearer() -> None:
    x = images()
    with torch.no_grad():
        scores = {}
        for n_steps in (1, 10, 60):
            made = network(n_steps)
            scores[n_steps] = made.scores(x, made.draw(x)).numpy()
    assert (scores[60] < scores[10]).all()
    assert (scores[10] < scores[1]).all()


def test_an_image_is_found_alike_wherever_it_stands_among_others() -> None:
    made = network(20)
    x = images(19).permute(0, 2, 3, 1).numpy() / 2 + 0.5
    scores, residuals = made.judge(FeaturePyramid([x]))
    for place in (0, 7, 15, 18):
        score, residual = made.judge(FeaturePyramid([x[place : place + 1]]))
        assert score[0] == scores[place]
        np.testing.assert_array_equal(residual[0], residuals[place])


def test_a_search_leaves_both_networks_as_they_were() -> None:
    made = network()
    before = made.arrays()
    made.judge(FeaturePyramid([images().permute(0, 2, 3, 1).numpy()]))
    assert all(value.grad is None for value in made.parameters())
    for name, array in made.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)


def test_the_discriminator_tells_apart_and_the_generator_deceives_it() -> None:
    made, x = network().train(), images(8)
    z = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    steps = made.learn(x, torch.Generator().manual_seed(1))
    with torch.no_grad():
        drawn = made._drawn(z)
        real, fake = made.discriminator(x).numpy(), made.discriminator(drawn).numpy()
    expected = {
        1: np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean(),
        0: np.log1p(np.exp(-fake)).mean(),
    }
    reached = {1: "discriminator", 0: "decoder"}
    for step in steps:
        assert step.loss.item() == pytest.approx(expected[step.part], rel=1e-4)
        made.zero_grad()
        step.loss.backward()
        assert {
            name.split(".")[0] for name, value in made.named_parameters() if value.grad is not None
        } == {reached[step.part]}


def test_images_held_out_are_held_against_the_nearest_that_is_drawn() -> None:
    made = network()
    x = images(1)
    with torch.no_grad():
        z = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
        drawn = made._drawn(z).numpy()
    nearest = np.abs(drawn - x.numpy()).mean(axis=(1, 2, 3)).min()
    batch = FeaturePyramid([x.permute(0, 2, 3, 1).numpy() / 2 + 0.5])
    ((total, n_images),) = made.held_out_losses(batch)
    assert n_images == 1
    assert total == pytest.approx(nearest, rel=1e-4)


def test_how_it_searches_may_be_chosen_anew_for_a_model() -> None:
    normal = np.random.default_rng(0).integers(90, 130, (6, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.AnoGAN(pixels, width=4, latent_size=4, max_epochs=1, search_steps=2).fit(normal)
    shortly = detector.scores(normal[:2])
    assert (detector.set_params(search_steps=60).scores(normal[:2]) < shortly).all()


def test_images_held_out_are_searched_together_and_judged_as_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searched = []
    draw = AnoGANNetwork.draw

    def counted(self: Any, images: torch.Tensor) -> torch.Tensor:
        searched.append(len(images))
        return draw(self, images)

    normal = np.random.default_rng(0).integers(90, 130, (40, 16, 16), np.uint8)
    pixels = ks.Pixels(16, color="grey", device="cpu")
    detector = ks.AnoGAN(pixels, width=4, latent_size=4, max_epochs=1, search_steps=2)
    detector.set_params(validation_fraction=0.5)
    with monkeypatch.context() as patched:
        patched.setattr(AnoGANNetwork, "draw", counted)
        detector.fit(normal)
    assert searched == [16, 16], "20 images are held out"
    calibration = detector.calibration_
    assert calibration is not None
    for id_, score in zip(calibration.ids, calibration.scores, strict=True):
        (alone,) = detector.scores(normal[int(id_) : int(id_) + 1])
        assert score == alone
