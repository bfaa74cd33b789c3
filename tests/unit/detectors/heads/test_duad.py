"""DUAD learns from a dirty folder, and what it drops does not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect import _core, metrics
from knnspect.data import elpv_split, read_image
from knnspect.detectors.heads.networks.autoencoder import CellNetwork
from knnspect.detectors.trained import split

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* have near-duplicates among the others"),
]

SPLIT = elpv_split(n_train=72, n_functional=12, n_defective=8, seed=4)
ODD = {path.name for path in SPLIT.defective}
DIRTY = {path.name: path for path in (*SPLIT.train, *SPLIT.defective)}
QUICK: dict[str, Any] = {"clusters": 6, "hidden": 64, "max_epochs": 8}


@pytest.fixture(scope="module")
def duad() -> ks.Duad:
    backbone = ks.Backbone(levels=(1, 2, 3), image_size=64, patch_size=3, device="cpu")
    return ks.Duad(backbone, **QUICK).fit(DIRTY)


def test_defects_among_the_images_are_dropped_and_others_found(duad: ks.Duad) -> None:
    kept = duad.selection_.kept
    assert len(ODD.intersection(kept)) <= 1
    assert duad.n_images_ == len(kept) < len(DIRTY)
    whole = [read_image(path) for path in SPLIT.functional]
    holed = [image.copy() for image in whole]
    for image in holed:
        image[90:170, 110:190] = 255 - image[90:170, 110:190]
    auroc = metrics.auroc([False] * 12 + [True] * 12, duad.scores([*whole, *holed]))
    assert auroc > 0.85
    (one,) = duad.predict(holed[:1])
    row, column = np.unravel_index(one.map.argmax(), one.map.shape)
    assert 70 <= row <= 190
    assert 90 <= column <= 210


def test_dropped_images_neither_train_nor_calibrate(duad: ks.Duad) -> None:
    kept = duad.selection_.kept
    trained, held = split(kept, duad.validation_fraction, duad.seed)
    calibration = duad.calibration_
    assert calibration is not None
    assert len(calibration) == len(held) == round(0.1 * len(kept))
    scores = duad.scores({id_: DIRTY[id_] for id_ in held})
    np.testing.assert_allclose(np.sort(calibration.scores), np.sort(scores), rtol=1e-6)
    # The features are standardized by the images that are trained on, and by no others.
    levels = [duad.backbone.extract({id_: DIRTY[id_] for id_ in trained}).pyramid.levels][0]
    means = np.concatenate([level.mean(axis=(0, 1, 2), dtype=float) for level in levels])
    np.testing.assert_allclose(duad.network_.arrays()["mean"], means, rtol=1e-3, atol=1e-4)


def test_a_model_keeps_what_was_dropped_and_why(duad: ks.Duad, tmp_path: Path) -> None:
    duad.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks", device="cpu")
    assert isinstance(loaded, ks.Duad)
    assert loaded.selection_ == duad.selection_
    assert loaded.n_images_ == duad.n_images_


def test_images_that_were_dropped_cannot_calibrate(duad: ks.Duad) -> None:
    dropped = duad.selection_.dropped[0].id
    with pytest.raises(ks.CalibrationError, match="were learnt from"):
        duad.calibrate({dropped: DIRTY[dropped]})


def test_fewer_images_than_clusters_are_refused(duad: ks.Duad) -> None:
    with pytest.raises(ks.ParameterError, match=r"clusters: expected at most .* 5, got 6"):
        ks.Duad(duad.backbone, **QUICK).fit(dict(list(DIRTY.items())[:5]))


def test_an_interrupted_fit_goes_on(
    duad: ks.Duad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are selected again, which ends the same; cells are learnt from where it stopped."""
    path, original, epochs = tmp_path / "half", CellNetwork.prepare, []

    def interrupted(self: CellNetwork, batch: Any) -> Any:
        epochs.append(1)
        if len(epochs) > 20:
            raise KeyboardInterrupt
        return losses(self, batch)

    losses = CellNetwork.held_out_losses
    with monkeypatch.context() as patch:
        patch.setattr(CellNetwork, "held_out_losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ks.Duad(duad.backbone, **QUICK).fit(DIRTY, checkpoint=path)
    assert path.exists()
    with monkeypatch.context() as patch:
        patch.setattr(CellNetwork, "prepare", None)  # it was prepared before
        again = ks.Duad(duad.backbone, **QUICK).fit(DIRTY, checkpoint=path)
    assert CellNetwork.prepare is original
    assert not path.exists()
    assert again.selection_ == duad.selection_
    assert again.history_ == duad.history_
    for name, array in duad.network_.arrays().items():
        np.testing.assert_array_equal(again.network_.arrays()[name], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 10**9}, "values"),
        ({"latent_size": 7}, "values"),
        ({"selection": {}}, "images"),
        ({"selection": {"images": [["a"]], "rounds": [], "limit": 1.0, "fewest": 2}}, "expected"),
        ({"clusters": 1}, "clusters"),
    ],
)
def test_forged_models_are_refused(
    duad: ks.Duad, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    duad.save(tmp_path / "model.ks")
    store = _core.Store(tmp_path / "model.ks", True)
    config = json.dumps({**json.loads(store.metadata["config"]), **change})
    tensors = {name: store.tensor(name) for name in store.names}
    metadata = {**store.metadata, "config": config}
    _core.save_tensors(tmp_path / "forged.ks", store.kind, metadata, tensors)
    with pytest.raises(ks.StoreError, match=rf"forged\.ks: .*{message}"):
        ks.load(tmp_path / "forged.ks", device="cpu")
