"""CAVGA: attention and its gradient, the terms of the loss, and weak supervision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import knnspect as ks
from knnspect.detectors.reconstruction.networks import cavga
from knnspect.detectors.reconstruction.networks.base import Settings
from knnspect.detectors.reconstruction.networks.cavga import CAVGANetwork, Weights
from knnspect.errors import ImageError, ParameterError

PIXELS = ks.Pixels(16, color="grey", device="cpu")


def untrained(is_weak: bool = False, **weights: float) -> CAVGANetwork:
    torch.manual_seed(0)
    given = Weights(**{"adversarial": 0.5, "attention": 0.25, "classifier": 0.125, **weights})
    network = CAVGANetwork((16, 16, 1), Settings(2, 4, 1e-3), given, "attention", is_weak)
    return network.eval()


def some_images(n: int = 3) -> Tensor:
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def striped(n: int, seed: int = 0) -> NDArray[np.uint8]:
    """Normal images: stripes of differing brightness."""
    rng = np.random.default_rng(seed)
    stripes = 60 * (np.arange(16) // 4 % 2) * rng.uniform(0.8, 1.2, (n, 1, 1)) + 60
    return np.asarray(stripes + rng.uniform(0, 10, (n, 16, 16)), np.uint8)


def spoilt(n: int, seed: int = 1) -> NDArray[np.uint8]:
    """Defective images: with a bright spot."""
    images = striped(n, seed)
    for place, image in enumerate(images):
        image[place % 9 : place % 9 + 5, 3:9] = 250
    return images


def test_attention_is_that_of_grad_cam() -> None:
    network, images = untrained(), some_images()
    features = network.trunk(images)
    mean, _ = network.code(features)
    found = cavga.attention(features, mean).detach().numpy()
    for image in range(3):
        own = features[image : image + 1].detach().requires_grad_()
        torch.autograd.backward(network.code(own)[0].sum())
        assert own.grad is not None
        importance = own.grad.numpy()[0].mean(axis=(1, 2))
        weighted = np.tensordot(importance, own.detach().numpy()[0], axes=1)
        np.testing.assert_allclose(found[image], 1 / (1 + np.exp(-weighted)), rtol=1e-5)


@pytest.mark.parametrize("is_weak", [False, True])
def test_the_gradient_of_attention_is_that_of_finite_differences(is_weak: bool) -> None:
    network, images = untrained(is_weak).double(), some_images().double()

    def loss() -> Tensor:
        features = network.trunk(images)
        mean, _ = network.code(features)
        target = network.classify(mean)[:, 0] if is_weak else mean
        return (1 - cavga.attention(features, target)).mean()

    # Of weights before the features, and of those after them, which matter by the gradient alone.
    weights: list[Any] = [network.trunk[0].weight, network.head[0].weight, network.head[-1].weight]
    for weight, gradient in zip(weights, torch.autograd.grad(loss(), weights), strict=True):
        place = int(gradient.abs().argmax())
        flat, step = weight.detach().view(-1), 1e-6
        around = []
        for away in (step, -2 * step):
            flat[place] += away
            around.append(loss().item())
        flat[place] += step
        difference = (around[0] - around[1]) / (2 * step)
        assert difference != 0
        assert gradient.flatten()[place].item() == pytest.approx(difference, rel=1e-4)


def test_attention_does_not_depend_on_other_images() -> None:
    network, images = untrained(), some_images()
    network.head.train()
    alone = torch.cat([network.attention(image[None]) for image in images])
    torch.testing.assert_close(network.attention(images), alone)


def test_the_losses_are_those_of_the_paper() -> None:
    network, images = untrained(), some_images()
    told, found = (
        step.loss.item() for step in network.learn(images, torch.Generator().manual_seed(2))
    )
    features = network.trunk(images)
    mean, log_variance = network.code(features)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        drawn = network.decoder(mean + noise * (log_variance / 2).exp()).sigmoid()
        real, fake = network.discriminator(images).numpy(), network.discriminator(drawn).numpy()
    attended = cavga.attention(features, mean).detach().numpy()
    x, y = images.numpy(), drawn.numpy()
    m, v = mean.detach().numpy(), log_variance.detach().exp().numpy()
    entropy = -(x * np.log(y) + (1 - x) * np.log(1 - y)).mean()
    divergence = 0.5 * (m**2 + v - 1 - np.log(v)).sum() / x.size
    expected = entropy + divergence + 0.5 * np.log1p(np.exp(-fake)).mean()
    assert found == pytest.approx(expected + 0.25 * (1 - attended).mean(), rel=1e-4)
    assert told == pytest.approx(np.log1p(np.exp(-real)).mean() + np.log1p(np.exp(fake)).mean())


def test_the_complementary_loss_counts_normal_images_told_to_be_normal() -> None:
    network = untrained(is_weak=True)
    features = network.trunk(some_images(6))
    codes, _ = network.code(features)
    normal, defective = (
        cavga.attention(features, network.classify(codes)[:, place]).detach().numpy()[:3]
        for place in (0, 1)
    )
    with torch.no_grad():
        ours = network.classify(codes).numpy()[:3]
        between = (ours[0] + ours[1]) / 2
        # The first image is told to be normal, the second is not.
        shift = float(between[1] - between[0])
        network.classifier.bias[0] += shift  # type: ignore[union-attr]
        logits = network.classify(codes).numpy()
    is_right = logits[:3, 0] >= logits[:3, 1]
    assert 0 < is_right.sum() < 3
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -np.log(np.r_[chances[:3, 0], chances[3:, 1]]).mean()
    terms = (defective + 1 - normal).mean(axis=(1, 2))
    found = network.weak_loss(features, codes, 3).item()
    assert found == pytest.approx(0.125 * entropy + 0.25 * (terms * is_right).mean(), rel=1e-4)


def test_a_trained_network_pays_attention_to_all_of_a_normal_image() -> None:
    images = striped(20)
    parameters: dict[str, Any] = {"width": 4, "max_epochs": 60, "learning_rate": 3e-3}
    detector = ks.CAVGA(PIXELS, **parameters, patience=None, attention_weight=0.3)
    before = 1 - untrained().attention(torch.from_numpy(images[:2, None] / np.float32(255)))
    detector.fit(images[2:])
    network = detector.network_
    after = 1 - network.attention(torch.from_numpy(images[:2, None] / np.float32(255)))
    assert before.mean() > 0.3
    assert after.mean() < 0.1


def test_maps_show_attention_or_the_residual_and_the_score_is_the_residual() -> None:
    images = striped(8)
    parameters: dict[str, Any] = {"width": 4, "max_epochs": 1, "sigma": 0.0}
    detector = ks.CAVGA(PIXELS, **parameters, map_of="attention").fit(images[1:])
    (attentive,) = detector.predict(images[:1])
    pixels = torch.from_numpy(images[:1, None].astype(np.float32) / 255)
    np.testing.assert_allclose(attentive.map, 1 - detector.network_.attention(pixels)[0], atol=1e-6)
    detector.set_params(map_of="residual")
    (residual,) = detector.predict(images[:1])
    difference = np.abs(detector.reconstruct(images[:1])[0, :, :, 0] - pixels[0, 0].numpy())
    np.testing.assert_allclose(residual.map, difference, atol=1e-6)
    assert attentive.score == residual.score == pytest.approx(difference.mean(), rel=1e-5)


def test_a_few_defects_teach_a_classifier(tmp_path: Path) -> None:
    folder = tmp_path / "defects"
    folder.mkdir()
    for place, image in enumerate(spoilt(4)):
        Image.fromarray(image).save(folder / f"{place}.png")
    parameters: dict[str, Any] = {"width": 4, "max_epochs": 30, "learning_rate": 1e-2}
    parameters |= {"classifier_weight": 1.0, "supervision": "weak", "patience": None}
    detector = ks.CAVGA(PIXELS, **parameters, defects=folder).fit(striped(12))
    arrays = ks.CAVGA(PIXELS, **parameters, defects=list(spoilt(4))).fit(striped(12))
    others = np.concatenate([striped(2, seed=5), spoilt(2, seed=6)])
    np.testing.assert_array_equal(detector.scores(others), arrays.scores(others))
    network = detector.network_
    assert network.defects is None, "a model keeps none"
    pixels = torch.from_numpy(others[:, None].astype(np.float32) / 255)
    told = network.classify(network.code(network.trunk(pixels))[0]).argmax(dim=1)
    assert told.tolist() == [0, 0, 1, 1]
    detector.save(tmp_path / "model")
    loaded = ks.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.scores(others), detector.scores(others))
    (one, other) = (each.predict(others[:1])[0].map for each in (loaded, detector))
    np.testing.assert_array_equal(one, other)


def test_weak_supervision_without_defects_and_defects_without_it_are_refused() -> None:
    with pytest.raises(ParameterError, match="defects: expected images with defects") as error:
        ks.CAVGA(PIXELS, supervision="weak").fit(striped(4))
    assert error.value.parameter == "defects"
    with pytest.raises(ParameterError, match=r"defects: expected none with supervision='none'"):
        ks.CAVGA(PIXELS, defects=list(spoilt(1))).fit(striped(4))
    with pytest.raises(ImageError, match="no such folder"):
        ks.CAVGA(PIXELS, supervision="weak", defects="no such folder").fit(striped(4))


def test_a_training_does_not_go_on_with_other_defects(tmp_path: Path) -> None:
    detector = ks.CAVGA(PIXELS, width=4, max_epochs=1, supervision="weak")
    kept: list[Any] = []

    class Interrupted(Exception):  # noqa: N818 - not an error
        pass

    from knnspect.training import loop

    original = loop.Training._finish

    def finish(self: Any) -> None:
        kept.append(self)
        raise Interrupted

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Training, "_finish", finish)
        with pytest.raises(Interrupted):
            detector.set_params(defects=spoilt(3)).fit(striped(4), checkpoint=tmp_path / "half")
    assert loop.Training._finish is original
    with pytest.raises(ParameterError, match="1 changed: those with defects"):
        detector.set_params(defects=spoilt(2)).fit(striped(4), checkpoint=tmp_path / "half")
    detector.set_params(defects=spoilt(3)).fit(striped(4), checkpoint=tmp_path / "half")
    assert not hasattr(detector, "_defects") or detector._defects is None
