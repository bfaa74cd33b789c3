"""What all methods keep that learn to draw normal images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import knnspect as ks
from knnspect.data import elpv_split, read_image
from knnspect.detectors import get_method, methods
from knnspect.detectors.reconstruction.base import ReconstructionDetector
from knnspect.detectors.reconstruction.networks.base import ReconstructionNetwork
from knnspect.errors import ImageError, ParameterError
from knnspect.pyramid import FeaturePyramid
from knnspect.training import loop

#: HADGAN judges spectra, and has tests of its own.
WORDS = [
    word
    for word in methods()
    if issubclass(get_method(word), ReconstructionDetector) and word != "hadgan"
]
SMALL: dict[str, Any] = {"max_epochs": 2, "width": 4, "latent_size": 8}
#: By word: what else makes it fast.
FASTER: dict[str, dict[str, Any]] = {"anogan": {"search_steps": 4}}


@pytest.fixture(params=WORDS)
def word(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def make(word: str, size: Any = 32, color: Any = "grey", **parameters: Any) -> Any:
    kind: Any = get_method(word)
    return kind(
        ks.Pixels(size, color=color, device="cpu"),
        **{**SMALL, **FASTER.get(word, {}), **parameters},
    )


@pytest.fixture(scope="module")
def cells() -> NDArray[np.uint8]:
    split = elpv_split(n_train=12, n_functional=2, n_defective=2)
    files = [*split.train, *split.functional, *split.defective]
    return np.stack([read_image(file)[::8, ::8, 0] for file in files])


@pytest.fixture(scope="module")
def fitted(cells: NDArray[np.uint8]) -> dict[str, Any]:
    """By word; tests do not change them."""
    return {word: make(word).fit(cells[:12]) for word in WORDS}


def pyramids(size: tuple[int, int], channels: int, n_images: int = 3) -> FeaturePyramid:
    rng = np.random.default_rng(0)
    return FeaturePyramid([rng.random((n_images, *size, channels), np.float32)])


def untrained(word: str, size: tuple[int, int], channels: int, **parameters: Any) -> Any:
    torch.manual_seed(0)
    color = "grey" if channels == 1 else "rgb"
    network = make(word, size, color, **parameters)._network([(*size, channels)])
    return network.eval()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(28, 28), (64, 64), (100, 72)])
def test_images_of_any_size_are_drawn_and_judged(
    word: str, size: tuple[int, int], channels: int
) -> None:
    network = untrained(word, size, channels)
    batch = pyramids(size, channels, 2)
    generator = torch.Generator().manual_seed(0)
    network.train()
    steps = list(network.steps(batch, generator))
    assert steps
    assert all(np.isfinite(step.loss.item()) for step in steps)
    network.eval()
    drawn = network.reconstruct(batch)
    assert drawn.shape == (2, *size, channels)
    assert (drawn.min() >= 0) & (drawn.max() <= 1)
    scores, residuals = network.judge(batch)
    assert scores.shape == (2,)
    assert residuals.shape == (2, *size)
    assert np.isfinite(scores).all()
    assert np.isfinite(residuals).all()


def test_every_part_has_an_optimizer_and_every_parameter_is_trained_once(word: str) -> None:
    network = untrained(word, (28, 28), 1)
    optimizers = network.optimizers()
    assert len(optimizers) == max(1, len(network.part_names)) == network.n_parts
    trained = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert len(trained) == len(set(trained)), "no parameter has two optimizers"
    # Averages of weights are followed, not trained.
    learning = {
        name: p
        for name, p in network.named_parameters()
        if p.requires_grad and "average" not in name
    }
    assert [name for name, p in learning.items() if id(p) not in trained] == []
    kept = {id(p): p.detach().clone() for p in learning.values()}
    generator = torch.Generator().manual_seed(0)
    network.train()
    # Methods that learn in two stages learn the second at the end.
    for network.done in (0.0, 0.99):
        for step in network.steps(pyramids((28, 28), 1, 8), generator):
            for place in step.optimizers:
                optimizers[place].zero_grad(set_to_none=True)
            step.loss.backward()
            own = [
                p
                for place in step.optimizers
                for g in optimizers[place].param_groups
                for p in g["params"]
            ]
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
            before = {id(p): p.detach().clone() for p in learning.values()}
            for place in step.optimizers:
                optimizers[place].step()
            changed = {k for k, p in before.items() if not torch.equal(p, _of(learning, k))}
            assert changed <= {id(p) for p in own}, "a step changes what it is to change alone"
    still = [name for name, p in learning.items() if torch.equal(p, kept[id(p)])]
    assert still == [], "all that is to learn learns"


def _of(parameters: dict[str, torch.nn.Parameter], key: int) -> torch.Tensor:
    return next(p for p in parameters.values() if id(p) == key)


def test_a_score_does_not_depend_on_the_images_judged_with_it(
    word: str, fitted: dict[str, Any], cells: NDArray[np.uint8]
) -> None:
    detector = fitted[word]
    together = detector.predict(cells, batch_size=16)
    alone = [p for image in cells[:3] for p in detector.predict(image[None])]
    backwards = detector.predict(cells[::-1], batch_size=5)[::-1]
    for one, other in [*zip(together, alone, strict=False), *zip(together, backwards, strict=True)]:
        assert one.score == other.score
        np.testing.assert_array_equal(one.map, other.map)


def test_a_model_judges_and_draws_the_same(
    word: str, fitted: dict[str, Any], cells: NDArray[np.uint8], tmp_path: Path
) -> None:
    detector = fitted[word]
    detector.save(tmp_path / "model.ks")
    loaded: Any = ks.load(tmp_path / "model.ks", device="cpu")
    assert loaded.get_params(deep=False).keys() == detector.get_params(deep=False).keys()
    np.testing.assert_array_equal(loaded.scores(cells[12:]), detector.scores(cells[12:]))
    np.testing.assert_array_equal(loaded.reconstruct(cells[12:]), detector.reconstruct(cells[12:]))


def test_the_seed_decides(word: str, fitted: dict[str, Any], cells: NDArray[np.uint8]) -> None:
    torch.manual_seed(77)  # the generator of the process does not matter
    again = make(word).fit(cells[:12])
    expected = fitted[word].scores(cells[12:])
    np.testing.assert_array_equal(again.scores(cells[12:]), expected)
    assert again.history_ == fitted[word].history_
    other = make(word, seed=1).fit(cells[:12])
    assert not np.array_equal(other.scores(cells[12:]), expected)


class _InterruptedError(Exception):
    pass


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    word: str,
    fitted: dict[str, Any],
    cells: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = loop.Training._end_epoch

    def end_epoch(self: Any) -> None:
        if len(self.history) == 1:
            raise _InterruptedError
        original(self)

    checkpoint = tmp_path / "half"
    with monkeypatch.context() as patched:
        patched.setattr(loop.Training, "_end_epoch", end_epoch)
        with pytest.raises(_InterruptedError):
            make(word).fit(cells[:12], checkpoint=checkpoint)
    assert checkpoint.is_file()
    resumed = make(word).fit(cells[:12], checkpoint=checkpoint)
    np.testing.assert_array_equal(resumed.scores(cells[12:]), fitted[word].scores(cells[12:]))
    for name, array in resumed.network_.arrays().items():
        np.testing.assert_array_equal(array, fitted[word].network_.arrays()[name], name)


def test_judging_leaves_the_network_as_it_was(
    word: str, fitted: dict[str, Any], cells: NDArray[np.uint8]
) -> None:
    detector = copy.deepcopy(fitted[word])
    network: ReconstructionNetwork = detector.network_
    before = network.arrays()
    first = detector.scores(cells)
    np.testing.assert_array_equal(detector.scores(cells), first)
    assert not network.training
    assert not any(module.training for module in network.modules())
    for name, array in network.arrays().items():
        np.testing.assert_array_equal(array, before[name], name)


def test_what_is_not_normal_enough_to_learn_from_is_refused(
    word: str, cells: NDArray[np.uint8]
) -> None:
    with pytest.raises(ImageError, match=r"needs at least 2 normal images to learn from, got 1"):
        make(word).fit(cells[:1])
    with pytest.raises(ImageError, match="the same at every cell of every image"):
        make(word).fit(np.full((5, 32, 32), 9, np.uint8))
    with pytest.raises(ParameterError, match="image_size: expected sides of at least 16 px"):
        make(word, 12).fit(cells)
    with pytest.raises(ParameterError, match="image_size: expected multiples of 4"):
        make(word, (30, 32)).fit(cells)


def test_augmentation_changes_what_is_learnt(word: str, cells: NDArray[np.uint8]) -> None:
    plain = make(word).fit(cells[:4])
    augmented = make(word, augment=True).fit(cells[:4])
    assert not np.array_equal(plain.scores(cells[12:]), augmented.scores(cells[12:]))
