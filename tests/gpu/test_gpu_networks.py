"""CFLOW-AD and SimpleNet on a GPU: what they learn and say there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import knnspect as ks
from knnspect.features import Backbone

pytest.importorskip("zuko")
from knnspect.training.loop import Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

RNG = np.random.default_rng(0)
NORMAL = RNG.integers(90, 130, (12, 64, 64, 3)).astype(np.uint8)
ODD = NORMAL[:2].copy()
ODD[:, 20:36, 20:36] = 250


def random_weights(folder: Path, device: str) -> Backbone:
    """A network of timm whose weights need no hub: random ones, from a file."""
    import timm

    file = folder / "weights.pth"
    if not file.exists():
        torch.manual_seed(0)
        torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), file)
    return Backbone("resnet18", (1, 2, 3), 64, weights=file, patch_size=3, device=device)


def make_cflow(backbone: Backbone, **parameters: Any) -> ks.CFlow:
    return ks.CFlow(backbone, **{"max_epochs": 3, **parameters})


def make_simplenet(backbone: Backbone, **parameters: Any) -> ks.SimpleNet:
    return ks.SimpleNet(backbone, **{"max_epochs": 3, **parameters})


Make = Callable[..., Any]


@pytest.fixture(params=[make_cflow, make_simplenet], ids=["cflow", "simplenet"])
def make(request: pytest.FixtureRequest) -> Make:
    function: Make = request.param
    return function


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_a_defect_scores_higher(make: Make, tmp_path: Path, mixed_precision: bool) -> None:
    backbone = random_weights(tmp_path, "cuda")
    detector = make(backbone, mixed_precision=mixed_precision).fit(NORMAL[2:])
    assert next(detector.network_.parameters()).is_cuda
    good, bad = detector.predict(NORMAL[:2]), detector.predict(ODD)
    assert max(p.score for p in good) < min(p.score for p in bad)


def test_scores_are_those_of_the_cpu(make: Make, tmp_path: Path) -> None:
    detector = make(random_weights(tmp_path, "cuda")).fit(NORMAL[2:])
    detector.save(tmp_path / "model.ks")
    on_cpu = ks.load(tmp_path / "model.ks", device="cpu")
    for a, b in zip(on_cpu.predict(ODD), detector.predict(ODD), strict=True):
        assert a.score == pytest.approx(b.score, rel=1e-2)
        np.testing.assert_allclose(a.map, b.map, rtol=5e-2, atol=1e-2 * float(b.map.max()))


def test_scores_do_not_depend_on_the_batch(make: Make, tmp_path: Path) -> None:
    detector = make(random_weights(tmp_path, "cuda")).fit(NORMAL[2:])
    together = detector.predict(NORMAL, batch_size=4)
    backwards = detector.predict(NORMAL[::-1].copy(), batch_size=4)[::-1]
    assert [p.score for p in together] == [p.score for p in backwards]


def test_an_interrupted_training_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = random_weights(tmp_path, "cuda")
    checkpoint = tmp_path / "half"
    first = make(backbone).fit(NORMAL[2:], checkpoint=checkpoint)
    second = make(backbone)
    end = Training._end_epoch

    def interrupted(self: Training[Any]) -> None:
        if len(self.history) == 2:
            raise KeyboardInterrupt
        end(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_end_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            second.fit(NORMAL[2:], checkpoint=checkpoint)
    assert checkpoint.exists()
    second.fit(NORMAL[2:], checkpoint=checkpoint)
    for a, b in zip(first.history_, second.history_, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
