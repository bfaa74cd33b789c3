"""Training: epochs, early stopping, checkpoints; an interruption changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import knnspect as ks
from knnspect.data import Geometry, open_images
from knnspect.detectors.heads.networks.cflow import CFlowNetwork
from knnspect.detectors.heads.networks.scorer import CellScorer
from knnspect.detectors.heads.networks.simplenet import SimpleNetNetwork
from knnspect.errors import ParameterError, StoreError
from knnspect.training import loop as module
from knnspect.training import sources
from knnspect.training.checkpoint import Checkpoint
from knnspect.training.loop import Training, TrainingSettings
from knnspect.training.network import Step, TrainableNetwork
from knnspect.training.sources import FeatureSource, PictureSource, Source

SHAPES = [(8, 6, 5), (4, 3, 7)]
SETTINGS = {"seed": 0, "images": ["a", "b"]}


@pytest.fixture(autouse=True)
def four_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainableNetwork, "images_at_once", 4)
    monkeypatch.setattr(sources, "IMAGES_AT_ONCE", 4)


@pytest.fixture(scope="module")
def gallery() -> ks.Gallery:
    # Channels that go together, so that there is something to learn.
    rng = np.random.default_rng(0)
    levels = []
    for height, width, channels in SHAPES:
        level = rng.normal(size=(12, height, width, 2)) @ rng.normal(size=(2, channels))
        levels.append((level + 0.1 * rng.normal(size=level.shape)).astype(np.float32))
    gallery = ks.Gallery()
    gallery.add(ks.FeaturePyramid(levels), [f"{i:02}" for i in range(12)])
    return gallery


class Autoencoder(TrainableNetwork[NDArray[np.float32]]):
    """Learns to give images back; the smallest network that is trained on images."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: torch.Tensor
        self.highest: torch.Tensor
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("highest", torch.zeros(1))
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1))

    def prepare(self, batches: Iterator[NDArray[np.float32]]) -> None:
        self.mean.fill_(float(np.concatenate(list(batches)).mean()))

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.parameters(), 1e-2)]

    def _errors(self, batch: NDArray[np.float32]) -> torch.Tensor:
        images = torch.from_numpy(batch) - self.mean
        errors: torch.Tensor = (self.layers(images) - images).square().mean((1, 2, 3))
        return errors

    def steps(self, batch: NDArray[np.float32], generator: torch.Generator) -> Iterator[Step]:
        order = torch.randperm(len(batch), generator=generator)
        for place, part in enumerate(torch.split(order, 2), 1):
            loss = self._errors(batch[part.numpy()]).mean()
            yield Step(loss, len(part), [0], 0, place / len(torch.split(order, 2)))

    def held_out_losses(self, batch: NDArray[np.float32]) -> list[tuple[float, int]]:
        with torch.no_grad():
            return [(float(self._errors(batch).sum()), len(batch))]

    def calibrate(self, batches: Iterator[NDArray[np.float32]]) -> None:
        with torch.no_grad():
            self.highest.fill_(max(float(self._errors(batch).max()) for batch in batches))


def make(kind: str) -> TrainableNetwork[Any]:
    torch.manual_seed(0)
    if kind == "images":
        return Autoencoder()
    if kind == "cflow":
        return CFlowNetwork(SHAPES, 2, 1e-2)
    return SimpleNetNetwork(SHAPES, "bilinear", 16, 0.5, 0.5, 1e-2)


KINDS = pytest.mark.parametrize("kind", ["cflow", "simplenet", "images"])


def source_for(network: TrainableNetwork[Any], gallery: ks.Gallery) -> Source[Any]:
    if not isinstance(network, Autoencoder):
        return FeatureSource(gallery)
    pictures = np.random.default_rng(0).random((len(gallery), 9, 9, 3), np.float32)
    images = open_images(dict(zip(gallery.ids, pictures, strict=True)))
    return PictureSource(images, Geometry((8, 8)))


def judged(network: TrainableNetwork[Any], batch: Any) -> NDArray[Any]:
    if isinstance(network, CellScorer):
        return network.cell_scores(batch)
    return np.array(network.held_out_losses(batch))


def training(
    network: TrainableNetwork[Any],
    gallery: ks.Gallery,
    checkpoint: Checkpoint | None = None,
    *,
    max_epochs: int = 4,
    patience: int | None = None,
    seed: int = 0,
    held_out: int = 2,
    check: Any = lambda: None,
) -> Training[Any]:
    settings = TrainingSettings(max_epochs, patience, seed, mixed_precision=True)
    ids = gallery.ids
    trained, held = ids[: len(ids) - held_out], ids[len(ids) - held_out :]
    return Training(
        network, source_for(network, gallery), trained, held, settings, checkpoint, check
    )


def assert_same(one: TrainableNetwork[Any], other: TrainableNetwork[Any]) -> None:
    a, b = one.arrays(), other.arrays()
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


@KINDS
class TestTraining:
    def test_lowers_the_loss(self, kind: str, gallery: ks.Gallery) -> None:
        run = training(make(kind), gallery, max_epochs=15)
        run.run(progress=False)
        assert run.history[-1]["loss"] < 0.95 * run.history[0]["loss"]
        assert len(run.history) == 15

    def test_is_decided_by_the_seed(self, kind: str, gallery: ks.Gallery) -> None:
        networks = [make(kind) for _ in range(3)]
        for network, seed in zip(networks, (1, 1, 2), strict=True):
            torch.manual_seed(network.n_parts + seed)  # of no account
            training(network, gallery, seed=seed).run(progress=False)
        assert_same(networks[0], networks[1])
        with pytest.raises(AssertionError):
            assert_same(networks[0], networks[2])

    @pytest.mark.parametrize("n_parts_done", [1, 2, 3, 5, 11])
    def test_that_is_interrupted_ends_as_if_it_had_not_been(
        self,
        kind: str,
        gallery: ks.Gallery,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        n_parts_done: int,
    ) -> None:
        expected = make(kind)
        whole = training(expected, gallery)
        whole.run(progress=False)

        # After every part of an epoch, of which there are three, and in the midst of a write.
        monkeypatch.setattr(module, "_CHECKPOINT_INTERVAL", -1.0)
        checkpoint = Checkpoint(tmp_path / "half", SETTINGS)
        calls = 0

        def interrupt() -> None:
            nonlocal calls
            calls += 1
            if calls == n_parts_done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            training(make(kind), gallery, checkpoint, check=interrupt).run(progress=False)
        found = make(kind)
        with torch.no_grad():
            for parameter in found.parameters():
                parameter.zero_()  # all comes from the file
        calls = -1000
        again = training(found, gallery, checkpoint, check=interrupt)
        again.run(progress=False)
        assert calls == -1000 + 12 - n_parts_done, "what was done was not done again"
        assert_same(found, expected)
        assert again.history == whole.history
        assert again.best_epoch == whole.best_epoch

    def test_that_was_finished_is_not_gone_through_again(
        self, kind: str, gallery: ks.Gallery, tmp_path: Path
    ) -> None:
        checkpoint = Checkpoint(tmp_path / "done", SETTINGS)
        first, second = make(kind), make(kind)
        training(first, gallery, checkpoint).run(progress=False)

        def fail() -> None:
            raise AssertionError("it was trained again")

        training(second, gallery, checkpoint, check=fail).run(progress=False)
        assert_same(first, second)

    def test_keeps_the_epoch_that_is_best_on_images_held_out(
        self, kind: str, gallery: ks.Gallery
    ) -> None:
        network = make(kind)
        run = training(network, gallery, max_epochs=8, patience=8)
        run.run(progress=False)
        losses = [entry["held_out_loss"] for entry in run.history]
        assert run.best_epoch == int(np.argmin(losses)) + 1
        source = source_for(network, gallery)
        sums = np.sum([network.held_out_losses(source.batch([i])) for i in gallery.ids[10:]], 0)
        assert float((sums[:, 0] / sums[:, 1]).mean()) == pytest.approx(min(losses), rel=1e-6)

    def test_stops_when_the_loss_does_not_fall_any_more(
        self, kind: str, gallery: ks.Gallery, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        losses = iter([5.0, 4.0, 4.5, 4.0, 3.0, 6.0, 6.0, 6.0, 1.0])
        monkeypatch.setattr(
            type(make(kind)),
            "held_out_losses",
            lambda self, _: [(value, 1) for value in [next(losses)] for _ in range(self.n_parts)],
        )
        run = training(make(kind), gallery, max_epochs=9, patience=3, held_out=1)
        run.run(progress=False)
        assert (len(run.history), run.best_epoch) == (8, 5)

    def test_without_images_held_out_goes_on_to_the_end(
        self, kind: str, gallery: ks.Gallery
    ) -> None:
        run = training(make(kind), gallery, patience=1, held_out=0)
        run.run(progress=False)
        assert (len(run.history), run.best_epoch) == (4, 4)
        assert all(set(entry) == {"loss"} for entry in run.history)

    def test_a_loss_that_is_not_finite_ends_it(self, kind: str, gallery: ks.Gallery) -> None:
        network = make(kind)
        with torch.no_grad():
            next(network.parameters()).fill_(float("nan"))
        with pytest.raises(ParameterError, match=r"learning_rate: .* not finite .* epoch 1"):
            training(network, gallery).run(progress=False)

    def test_new_weights_are_judged_by(self, kind: str, gallery: ks.Gallery) -> None:
        network = make(kind)
        training(network, gallery).run(progress=False)
        image = source_for(network, gallery).batch(["00"])
        before, arrays = judged(network, image), network.arrays()
        changed = {name: array * 1.01 for name, array in arrays.items()}
        network.load_arrays(changed)
        assert (judged(network, image) != before).any()
        network.load_arrays(arrays)
        np.testing.assert_array_equal(judged(network, image), before)

    def test_reports_losses(
        self, kind: str, gallery: ks.Gallery, capsys: pytest.CaptureFixture[str]
    ) -> None:
        training(make(kind), gallery).run(progress=True)
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 4
        for epoch, line in enumerate(said, 1):
            done = f"training: {10 * epoch} of 40 images; epoch {epoch} of 4, loss "
            assert line.startswith(done)
            assert "held out" in line
            assert line.endswith(" s left") == (epoch < 4)

    def test_a_few_cells_are_enough(self, kind: str, gallery: ks.Gallery) -> None:
        tiny = ks.Gallery()
        rng = np.random.default_rng(0)
        tiny.add(
            ks.FeaturePyramid([rng.random((2, 2, 1, c)).astype("f4") for c in (5, 7)]), ["a", "b"]
        )
        torch.manual_seed(0)
        network = (
            CFlowNetwork([(2, 1, 5), (2, 1, 7)], 2, 1e-2)
            if kind == "cflow"
            else SimpleNetNetwork([(2, 1, 5), (2, 1, 7)], "block", 16, 0.5, 0.5, 1e-2)
        )
        training(network, tiny, held_out=1).run(progress=False)
        assert np.isfinite(network.cell_scores(tiny.pyramid(["b"]))).all()


class TestCheckpoints:
    STATE: ClassVar[dict[str, Any]] = {"epoch": 2}
    TENSORS: ClassVar[dict[str, Any]] = {"a": np.ones((2, 3), "f4"), "b": np.array([5], "i8")}

    def test_come_back_as_they_were(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint(tmp_path / "c", SETTINGS)
        assert checkpoint.read() is None
        checkpoint.write({"epoch": 1}, {})
        checkpoint.write(self.STATE, self.TENSORS)
        found = Checkpoint(tmp_path / "c", SETTINGS).read()
        assert found is not None
        assert found[0] == self.STATE
        assert found[1].keys() == self.TENSORS.keys()
        for name, value in self.TENSORS.items():
            np.testing.assert_array_equal(found[1][name], value)
            assert found[1][name].dtype == value.dtype
        assert list(tmp_path.iterdir()) == [tmp_path / "c"]
        checkpoint.remove()
        checkpoint.remove()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("settings", "word"),
        [
            ({**SETTINGS, "seed": 1}, r"another seed \(0, not 1\)"),
            ({**SETTINGS, "images": ["a"]}, r"another images \(\['a', 'b'\], not \['a'\]\)"),
        ],
    )
    def test_of_other_settings_are_refused(
        self, tmp_path: Path, settings: dict[str, Any], word: str
    ) -> None:
        Checkpoint(tmp_path / "half", SETTINGS).write(self.STATE, self.TENSORS)
        with pytest.raises(ParameterError, match=f"half: .*{word}.*delete it"):
            Checkpoint(tmp_path / "half", settings).read()

    def test_that_are_damaged_are_refused_by_name(self, tmp_path: Path) -> None:
        path = tmp_path / "half"
        checkpoint = Checkpoint(path, SETTINGS)
        checkpoint.write(self.STATE, self.TENSORS)
        contents = path.read_bytes()
        for place in range(0, len(contents), 7):
            altered = bytearray(contents)
            altered[place] ^= 4
            path.write_bytes(altered)
            with pytest.raises(StoreError, match="half"):
                checkpoint.read()
        for n_bytes in (0, 5, len(contents) // 2, len(contents) - 1):
            path.write_bytes(contents[:n_bytes])
            with pytest.raises(StoreError, match="half"):
                checkpoint.read()

    def test_that_are_something_else_are_refused(self, tmp_path: Path, gallery: ks.Gallery) -> None:
        gallery.save(tmp_path / "half")
        with pytest.raises(StoreError, match=r"half: expected a checkpoint .* holds a gallery"):
            Checkpoint(tmp_path / "half", SETTINGS).read()

    @KINDS
    def test_of_another_network_are_refused(
        self, kind: str, gallery: ks.Gallery, tmp_path: Path
    ) -> None:
        checkpoint = Checkpoint(tmp_path / "half", SETTINGS)
        training(make(kind), gallery, checkpoint, max_epochs=1).run(progress=False)
        other = make("simplenet" if kind == "cflow" else "cflow")
        with pytest.raises(StoreError, match="half: is damaged: its state cannot be used"):
            training(other, gallery, checkpoint).run(progress=False)
