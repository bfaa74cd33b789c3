"""Detectors that train a network: nothing leaks, and an interrupted fit goes on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import knnspect as ks
from knnspect import _core
from knnspect.data import elpv_split, read_image
from knnspect.detectors.trained import TrainedDetector, split
from knnspect.errors import ParameterError, StoreError
from knnspect.training import loop as training
from knnspect.training.checkpoint import Checkpoint

SPLIT = elpv_split(n_train=12, n_functional=3, n_defective=3)
QUERIES = [*SPLIT.functional, *SPLIT.defective]
NORMAL = {path.name: path for path in SPLIT.train}


def make_cflow(**parameters: Any) -> ks.CFlow:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.CFlow(backbone, **{"max_epochs": 3, "coupling_blocks": 2, **parameters})


def make_simplenet(**parameters: Any) -> ks.SimpleNet:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.SimpleNet(backbone, **{"max_epochs": 3, "hidden": 32, **parameters})


def make_deep_svdd(**parameters: Any) -> ks.DeepSvdd:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.DeepSvdd(backbone, **{"max_epochs": 3, "hidden": 32, **parameters})


def make_student_teacher(**parameters: Any) -> ks.StudentTeacher:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.StudentTeacher(backbone, **{"max_epochs": 3, "hidden": 32, **parameters})


def make_transformations(**parameters: Any) -> ks.Transformations:
    backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
    return ks.Transformations(backbone, **{"max_epochs": 3, **parameters})


Make = Callable[..., Any]
#: By their words.
MAKERS: dict[str, Make] = {
    "cflow": make_cflow,
    "simplenet": make_simplenet,
    "deep_svdd": make_deep_svdd,
    "student_teacher": make_student_teacher,
    "transformations": make_transformations,
}


@pytest.fixture(scope="module", params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


@pytest.fixture(scope="module")
def fitted(make: Make) -> TrainedDetector:
    detector: TrainedDetector = make().fit(NORMAL)
    return detector


def assert_same(one: Any, other: Any) -> None:
    assert one.normal_map_max_ == other.normal_map_max_
    assert one.history_ == other.history_
    for a, b in zip(one.predict(QUERIES), other.predict(QUERIES), strict=True):
        assert a.score == b.score
        np.testing.assert_array_equal(a.map, b.map)


class TestFit:
    def test_tells_what_it_did(self, fitted: TrainedDetector) -> None:
        assert fitted.n_images_ == 12
        assert len(fitted.history_) == 3
        assert 1 <= fitted.best_epoch_ <= 3
        assert set(fitted.history_[0]) == {"loss", "held_out_loss"}
        assert {"decode", "features", "gallery", "training", "calibration"} == set(fitted.seconds_)
        assert fitted.nbytes_ == sum(a.nbytes for a in fitted.network_.arrays().values())
        assert fitted.normal_map_max_ > 0

    def test_is_decided_by_the_seed(self, make: Make, fitted: TrainedDetector) -> None:
        detector = make()
        assert detector.backbone.torch_device.type == "cpu"  # loads the network, which draws
        state = torch.random.get_rng_state()
        assert_same(detector.fit(NORMAL), fitted)
        assert torch.equal(torch.random.get_rng_state(), state), "the caller's numbers were drawn"
        torch.manual_seed(77)
        assert_same(make().fit(NORMAL), fitted)
        other = make(seed=1).fit(NORMAL)
        assert other.predict(QUERIES)[0].score != fitted.predict(QUERIES)[0].score

    def test_sees_images_held_out_only_to_choose_the_epoch(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The networks are prepared, trained and calibrated without them."""
        seen: dict[str, set[bytes]] = {}

        def spy(name: str) -> None:
            network = type(make()._new_network([(16, 16, 24), (8, 8, 40), (4, 4, 112)]))
            method = getattr(network, name)

            def spied(self: Any, given: Any, *more: Any) -> Any:
                pyramids = [given] if isinstance(given, ks.FeaturePyramid) else list(given)
                for pyramid in pyramids:
                    seen.setdefault(name, set()).update(i.tobytes() for i in pyramid.levels[0])
                return method(self, given if pyramids == [given] else iter(pyramids), *more)

            monkeypatch.setattr(network, name, spied)

        for name in ("prepare", "steps", "calibrate", "held_out_losses"):
            spy(name)
        detector = make()
        detector.fit(NORMAL)
        trained, held = split(sorted(NORMAL), 0.1, seed=0)
        assert (len(trained), len(held)) == (11, 1)
        for name in ("prepare", "steps", "calibrate"):
            assert len(seen[name]) == 11, name
            assert not seen[name] & seen["held_out_losses"], name
        assert len(seen["held_out_losses"]) == 1

    def test_normal_map_max_is_that_of_images_held_out(self, make: Make) -> None:
        detector = make(validation_fraction=0.25).fit(NORMAL)
        _, held = split(sorted(NORMAL), 0.25, seed=0)
        assert len(held) == 3
        found = detector.predict({id_: NORMAL[id_] for id_ in held})
        assert detector.normal_map_max_ == max(float(p.map.max()) for p in found)

    @pytest.mark.parametrize("dtype", ["float16", "int8"])
    def test_may_keep_features_in_less_room(
        self, make: Make, fitted: TrainedDetector, dtype: str
    ) -> None:
        detector = make(gallery_dtype=dtype).fit(NORMAL)
        for a, b in zip(detector.predict(QUERIES), fitted.predict(QUERIES), strict=True):
            assert a.score == pytest.approx(b.score, rel=0.3)

    def test_in_a_folder_is_the_same(
        self, make: Make, fitted: TrainedDetector, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        detector = make().fit(NORMAL, folder=folder, batch_size=5)
        assert_same(detector, fitted)
        assert not (folder / "checkpoint").exists()
        with pytest.raises(StoreError, match="not finished"):
            ks.load(folder)
        detector.save(folder)
        assert_same(ks.load(folder), fitted)
        assert_same(make().fit(NORMAL, max_memory="4GB"), fitted)

    def test_respects_a_limit(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("knnspect.detectors.trained.check_memory", _too_much)
        with pytest.raises(MemoryError, match="max_memory: raise it"):
            make().fit(NORMAL, max_memory="4GB")


def _too_much(limit: int | None, advice: str) -> None:
    assert limit == 4 * 10**9
    raise MemoryError(f"max_memory: {advice}")


class TestPredict:
    @pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
    def test_scores_of_given_features_do_not_depend_on_threads(
        self, fitted: TrainedDetector, n_threads: int
    ) -> None:
        pyramid = fitted.backbone.extract(QUERIES).pyramid
        expected = [fitted.network_.cell_scores(pyramid[i]) for i in range(len(QUERIES))]
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(n_threads)
            for index, cells in enumerate(expected):
                np.testing.assert_array_equal(fitted.network_.cell_scores(pyramid[index]), cells)
        finally:
            torch.set_num_threads(before)

    def test_scores_hardly_depend_on_threads_of_the_network(self, fitted: TrainedDetector) -> None:
        expected = [prediction.score for prediction in fitted.predict(QUERIES)]
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if before > 1 else 2)
            found = [prediction.score for prediction in fitted.predict(QUERIES)]
        finally:
            torch.set_num_threads(before)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_image_scores_are_maxima(self, make: Make, fitted: TrainedDetector) -> None:
        detector = make().fit(NORMAL)
        for score in ("image", "map"):
            detector.set_params(score=score)
            found = detector.predict(QUERIES)
            cells = [detector.network_.cell_scores(q) for q in _each(detector, QUERIES)]
            for prediction, values in zip(found, cells, strict=True):
                assert prediction.neighbors is None
                largest = values.max() if score == "image" else prediction.map.max()
                assert prediction.score == float(largest)
        for prediction in detector.set_params(score="top", top=1.0).predict(QUERIES):
            np.testing.assert_allclose(prediction.score, prediction.map.mean(), rtol=1e-6)


def _each(detector: TrainedDetector, images: list[Path]) -> list[ks.FeaturePyramid]:
    pyramid = detector.backbone.extract(images).pyramid
    return [pyramid[index] for index in range(pyramid.n_images)]


class TestCheckpoint:
    @pytest.mark.parametrize("n_parts", [1, 2])
    def test_an_interrupted_fit_goes_on(
        self,
        make: Make,
        fitted: TrainedDetector,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        n_parts: int,
    ) -> None:
        path = tmp_path / "half"
        with monkeypatch.context() as patch:
            _interrupt_after(patch, n_parts)
            detector = make()
            with pytest.raises(KeyboardInterrupt):
                detector.fit(NORMAL, checkpoint=path)
            with pytest.raises(ks.NotFittedError):
                detector.predict(QUERIES)
        before = path.read_bytes()
        with pytest.raises(ParameterError, match=r"half: .* another learning_rate"):
            make(learning_rate=0.1).fit(NORMAL, checkpoint=path)
        with pytest.raises(ParameterError, match=r"half: .* another set of images"):
            make().fit(dict(list(NORMAL.items())[:7]), checkpoint=path)
        assert path.read_bytes() == before
        again = make(score="image", sigma=1.0).fit(NORMAL, checkpoint=path)
        assert not path.exists()
        again.score, again.sigma = fitted.score, fitted.sigma
        assert again.history_ == fitted.history_
        for name, array in fitted.network_.arrays().items():
            np.testing.assert_array_equal(again.network_.arrays()[name], array)

    def test_is_refused_where_its_images_changed(
        self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under the same names, with the same sizes."""
        path, folder = tmp_path / "half", tmp_path / "model"
        cells = tmp_path / "cells"
        cells.mkdir()
        for number, file in enumerate(SPLIT.train[:6]):
            shutil.copy(file, cells / f"{number}.png")
        with monkeypatch.context() as patch:
            _interrupt_after(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                make().fit(cells, checkpoint=path)
            with pytest.raises(KeyboardInterrupt):
                make().fit(cells, folder=folder)
        for number in (1, 3):
            shutil.copy(SPLIT.train[6 + number], cells / f"{number}.png")
        images = r"another set of images \(2 changed: 1.png, 3.png\): .* delete it to begin anew"
        with pytest.raises(ParameterError, match=f"half: .* {images}"):
            make().fit(cells, checkpoint=path)
        with (
            pytest.warns(UserWarning, match="2 images have changed"),
            pytest.raises(ParameterError, match=f"model/checkpoint: .* {images}"),
        ):
            make().fit(cells, folder=folder)
        (folder / "checkpoint").unlink()
        assert_same(make().fit(cells, folder=folder), make().fit(cells))

    def test_compares_settings_that_only_one_of_the_two_has(self, tmp_path: Path) -> None:
        Checkpoint(tmp_path / "half", {"seed": 0, "white": 4095}).write({}, {})
        with pytest.raises(ParameterError, match=r"with another white \(4095, not None\)"):
            Checkpoint(tmp_path / "half", {"seed": 0}).check()
        with pytest.raises(ParameterError, match=r"with another crop \(None, not 3\)"):
            Checkpoint(tmp_path / "half", {"seed": 0, "white": 4095, "crop": 3}).read()

    def test_names_the_images_that_are_others(self, tmp_path: Path) -> None:
        path = tmp_path / "half"
        Checkpoint(path, {}, {"a": "1", "b": "2", "c": "3"}).write({}, {})
        assert Checkpoint(path, {}, {"c": "3", "a": "1", "b": "2"}).read() == ({}, {})
        other = Checkpoint(path, {}, {"b": "4", "c": "3", "d": "1", "e": "5"})
        other.check()
        with pytest.raises(ParameterError, match=r"1 changed: b; 1 missing: a; 2 added: d, e"):
            other.read()

    @pytest.mark.parametrize(
        ("parameters", "name"),
        [
            ({"patch_size": 5}, "patch_size"),
            ({"image_size": 96}, "image_size"),
            ({"levels": (1, 2)}, "levels"),
            ({"resize": "crop"}, "resize"),
        ],
    )
    def test_is_refused_before_the_work_where_features_are_others(
        self, half: Path, parameters: dict[str, Any], name: str
    ) -> None:
        backbone = ks.Backbone(**{"image_size": 64, "patch_size": 3, "device": "cpu", **parameters})
        with pytest.raises(ParameterError, match=f"half: .* with another backbone {name} "):
            ks.CFlow(backbone, max_epochs=3, coupling_blocks=2).fit("no such", checkpoint=half)

    def test_is_refused_before_the_work_where_the_network_is_another(
        self, half: Path, tmp_path: Path
    ) -> None:
        module = timm.create_model("mobilenetv3_small_050")
        weights = tmp_path / "weights.safetensors"
        save_file(module.state_dict(), weights)
        backbone = ks.Backbone(
            "mobilenetv3_small_050", image_size=64, patch_size=3, weights=weights, device="cpu"
        )
        with pytest.raises(ParameterError, match=r"half: .* with another backbone name "):
            ks.CFlow(backbone, max_epochs=3, coupling_blocks=2).fit("no such", checkpoint=half)

    @pytest.mark.parametrize("white", ["auto", 4095])
    def test_goes_on_with_the_white_level_that_was_found(
        self, white: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images = np.random.default_rng(0).integers(1000, 4000, (3, 64, 64)).astype(np.uint16)

        def fit(white: Any) -> ks.CFlow:
            backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu", white=white)
            return ks.CFlow(backbone, max_epochs=2).fit(images, checkpoint=tmp_path / "half")

        with monkeypatch.context() as patch:
            _interrupt_after(patch, 1)
            with pytest.raises(KeyboardInterrupt):
                fit("auto")
        with pytest.raises(ParameterError, match=r"another backbone white \(4095, not 2047\)"):
            fit(2047)
        fit(white)
        assert not (tmp_path / "half").exists()

    def test_is_refused_where_weights_are_others(self, half: Path, tmp_path: Path) -> None:
        backbone = ks.Backbone(image_size=64, patch_size=3, device="cpu")
        settings, tensors = backbone.state()
        name = max(tensors)
        other = ks.Backbone.from_state(settings, {**tensors, name: tensors[name] + 1}, "cpu")
        with pytest.raises(ParameterError, match=r"half: .* with another backbone weights "):
            ks.CFlow(other, max_epochs=3, coupling_blocks=2).fit("no such", checkpoint=half)

    def test_of_an_earlier_version_is_refused(self, half: Path) -> None:
        """It does not say what its images were."""
        store = _core.Store(half, True)
        metadata = {name: store.metadata[name] for name in ("settings", "state")}
        tensors = {name: store.tensor(name) for name in store.names}
        old = half.with_name("old")
        _core.save_tensors(old, "training", metadata, tensors)
        with pytest.raises(ParameterError, match=r"old: .* by an earlier version of knnspect"):
            make_cflow().fit("no such", checkpoint=old)

    def test_an_interrupted_fit_goes_on_in_its_folder(
        self,
        make: Make,
        fitted: TrainedDetector,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        folder = tmp_path / "model"
        with monkeypatch.context() as patch:
            _interrupt_after(patch, 2)
            with pytest.raises(KeyboardInterrupt):
                make().fit(NORMAL, folder=folder)
        assert (folder / "checkpoint").exists()
        assert_same(make().fit(NORMAL, folder=folder), fitted)
        assert not (folder / "checkpoint").exists()

    @pytest.mark.parametrize("place", [".", "no/such/file"])
    def test_cannot_be_written_everywhere(self, make: Make, tmp_path: Path, place: str) -> None:
        start = time.monotonic()
        with pytest.raises(StoreError, match="expected a file in a folder that exists"):
            make().fit(NORMAL, checkpoint=tmp_path / place)
        assert time.monotonic() - start < 0.5, "it took notice before the work"

    def test_a_damaged_one_is_refused_by_name(self, make: Make, tmp_path: Path) -> None:
        path = tmp_path / "half"
        path.write_bytes(b"\x10\0\0\0\0\0\0\0{}" * 30)
        with pytest.raises(StoreError, match="half"):
            make().fit(NORMAL, checkpoint=path)
        assert path.exists()


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an interrupted training of `make_cflow`."""
    path = tmp_path_factory.mktemp("training") / "half"
    with pytest.MonkeyPatch.context() as patch:
        _interrupt_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            make_cflow().fit(SPLIT.train[:3], checkpoint=path)
    return path


def _interrupt_after(patch: pytest.MonkeyPatch, n_parts: int) -> None:
    """As Ctrl-C would, between two steps of the part after so many."""
    calls = 0
    begin = training.Training._follow

    def follow(self: Any, step: Any, n_images: float) -> None:
        nonlocal calls
        calls += step.done == 1.0 and step.part == self._network.n_parts - 1
        if calls > n_parts:
            raise KeyboardInterrupt
        begin(self, step, n_images)

    patch.setattr(training.Training, "_follow", follow)


@pytest.mark.parametrize("method", ["cflow", "simplenet"])
def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(method: str, tmp_path: Path) -> None:
    """A real process, really interrupted; what it ends with is what it would have ended with."""
    code = (
        "import sys, knnspect as ks\n"
        "from pathlib import Path\n"
        "kind = {'cflow': ks.CFlow, 'simplenet': ks.SimpleNet}[sys.argv[1]]\n"
        "backbone = ks.Backbone(image_size=64, patch_size=3, device='cpu')\n"
        "paths = {Path(p).name: p for p in sys.argv[4:]}\n"
        "detector = kind(backbone, max_epochs=int(sys.argv[3]), patience=None)\n"
        "detector.fit(paths, checkpoint='half', progress=True)\n"
        "detector.save(sys.argv[2])\n"
    )
    n_epochs = "12"
    command = [sys.executable, "-c", code, method]
    paths = [str(path) for path in SPLIT.train]
    with subprocess.Popen(
        [*command, "first.ks", n_epochs, *paths],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stderr is not None
        while "epoch 2" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert {path.name for path in tmp_path.iterdir()} == {"half"}
    state = json.loads(_core.Store(tmp_path / "half", True).metadata["state"])
    assert 2 <= len(state["history"]) < int(n_epochs)
    subprocess.run([*command, "first.ks", n_epochs, *paths], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"first.ks"}
    subprocess.run([*command, "second.ks", n_epochs, *paths], cwd=tmp_path, check=True)
    assert (tmp_path / "first.ks").read_bytes() == (tmp_path / "second.ks").read_bytes()


def test_images_held_out_are_drawn_by_the_seed() -> None:
    ids = [f"{i:03}" for i in range(50)]
    trained, held = split(ids, 0.1, seed=0)
    assert (len(trained), len(held)) == (45, 5)
    assert sorted(trained + held) == ids
    assert split(ids, 0.1, seed=0) == (trained, held)
    assert split(ids, 0.1, seed=1)[1] != held
    assert [len(part) for part in split(ids[:2], 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in split(ids[:2], 0.99, seed=0)] == [1, 1]


def test_a_level_of_one_channel_has_no_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="at least 2 channels"):
        make_cflow()._new_network([(4, 4, 3), (2, 2, 1)])


def test_a_prediction_of_an_image_is_finite_whatever_the_image(fitted: TrainedDetector) -> None:
    rng = np.random.default_rng(0)
    whole = read_image(QUERIES[0])
    images = [np.zeros_like(whole), np.full_like(whole, 255), rng.integers(0, 256, whole.shape)]
    for prediction in fitted.predict([image.astype(np.uint8) for image in images]):
        assert np.isfinite(prediction.map).all()
        assert prediction.score > fitted.normal_map_max_


FORGED: dict[str, list[tuple[dict[str, Any], str]]] = {
    "cflow": [
        ({"coupling_blocks": 10**9}, "blocks"),
        ({"coupling_blocks": 3}, "is missing"),
    ],
    "simplenet": [({"hidden": 10**9}, "values"), ({"hidden": 7}, "values")],
    "deep_svdd": [({"hidden": 10**9}, "values"), ({"outputs": 7}, "values")],
    "student_teacher": [({"hidden": 10**9}, "values"), ({"students": 2}, "values")],
    "transformations": [({"outputs": 10**9}, "values"), ({"transformations": 7}, "values")],
}


def test_a_network_that_is_not_in_the_file_is_not_built(
    fitted: TrainedDetector, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model.ks")
    store = _core.Store(tmp_path / "model.ks", True)
    config = json.loads(store.metadata["config"])
    tensors = {name: store.tensor(name) for name in store.names}
    (height, width, channels), *others = config["shapes"]
    shapes = [
        ({"shapes": [[height, width, 10**9], *others]}, "channels"),
        ({"shapes": others}, "channels"),
        ({"shapes": [[10**9, width, channels], *others]}, "levels within"),
    ]
    for change, message in [*FORGED[fitted.method], *shapes]:
        metadata = {**store.metadata, "config": json.dumps({**config, **change})}
        _core.save_tensors(tmp_path / "forged.ks", store.kind, metadata, tensors)
        with pytest.raises(StoreError, match=rf"forged\.ks: .*{message}"):
            ks.load(tmp_path / "forged.ks", device="cpu")
