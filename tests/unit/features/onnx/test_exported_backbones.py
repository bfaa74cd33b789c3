"""A backbone that was exported gives the features of the one that it was made of."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import random_network, save

import knnspect as ks
from knnspect.errors import ParameterError, StoreError
from knnspect.exporting import onnx_backbone
from knnspect.packed import packed, unpacked

pytestmark = pytest.mark.usefixtures("one_thread")

VIT = "vit_tiny_patch16_224"
#: Parameters of backbones of each kind.
CASES: list[dict[str, Any]] = [
    {"levels": (0, 2), "patch_size": 3, "image_size": (64, 96), "resize": "crop", "pooled": "max"},
    {"levels": (1, 2, 3), "unit": True, "image_size": 64, "white": 4095},
    {"name": VIT, "levels": (2, 5), "image_size": 48, "norm": True, "pooled": "cls", "unit": True},
    {"name": VIT, "levels": (-8,), "image_size": 64, "patch_size": 3},
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    return save(random_network(VIT).state_dict(), path)


@pytest.fixture(scope="module")
def small() -> ks.Backbone:
    return onnx_backbone(ks.Backbone(levels=(1, 2), image_size=64, device="cpu"))


def images(n: int = 2) -> Any:
    return np.random.default_rng(0).integers(0, 255, (n, 70, 80, 3), np.uint8)


def largest_difference(one: ks.Features, other: ks.Features) -> float:
    pairs = zip(
        [*one.pyramid.levels, one.pooled], [*other.pyramid.levels, other.pooled], strict=True
    )
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


@pytest.mark.parametrize("case", CASES)
def test_features_are_the_same_but_for_rounding(case: dict[str, Any], weights: Path) -> None:
    given = {**case, "weights": weights} if "name" in case else case
    backbone = ks.Backbone(device="cpu", **given)
    exported = onnx_backbone(backbone)
    found = exported.extract(images())
    assert largest_difference(backbone.extract(images()), found) < 1e-4
    assert exported.channels == backbone.channels
    assert exported.geometry == backbone.geometry
    assert exported.source == backbone.source
    assert exported.white == backbone.white
    # Neither the batch nor what else is asked for makes a difference.
    alone = next(iter(exported.iterate(images(1), pooled=False)))
    assert alone.pooled.shape == (1, 0)
    for one, other in zip(alone.pyramid.levels, found.pyramid.levels, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_they_can_be_stored_pickled_and_copied(small: ks.Backbone) -> None:
    expected = small.extract(images())
    for other in (
        ks.Backbone.from_state(*small.state()),
        pickle.loads(pickle.dumps(small)),
        copy.deepcopy(small),
    ):
        assert largest_difference(expected, other.extract(images())) == 0
        assert other.fingerprint() == small.fingerprint()


@pytest.mark.parametrize(("name", "is_random"), [("efficientnet_lite0", False), ("resnet18", True)])
def test_inputs_may_have_several_sizes(name: str, is_random: bool, tmp_path: Path) -> None:
    given: dict[str, Any] = {"weights": "auto"}
    if is_random:
        path = save(random_network(name).state_dict(), tmp_path / "weights.safetensors")
        given = {"weights": path, "unit": True, "pooled": "max"}
    backbone = ks.Backbone(name, (1, 2), 64, resize="shorter", patch_size=3, device="cpu", **given)
    exported = ks.Backbone.from_state(*onnx_backbone(backbone).state())
    assert exported.geometry == backbone.geometry
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (60, 100), (260, 96), (64, 70)]
    several = [rng.integers(0, 255, (*size, 3), np.uint8) for size in sizes]
    pairs = list(zip(backbone.iterate(several), exported.iterate(several), strict=True))
    assert len(pairs) > 2
    for one, other in pairs:
        assert largest_difference(one, other) < 1e-4


def test_several_sizes_of_input_are_refused_of_transformers(weights: Path) -> None:
    backbone = ks.Backbone(
        VIT, (2,), resize="shorter", image_size=64, weights=weights, device="cpu"
    )
    with pytest.raises(ParameterError, match=r'"shorter" cannot be exported with vit_tiny_patch16'):
        onnx_backbone(backbone)


def test_a_graph_is_not_exported_again(small: ks.Backbone) -> None:
    with pytest.raises(ParameterError, match="an ONNX graph already"):
        onnx_backbone(small)


@pytest.mark.parametrize("device", ["cuda", "tensorrt:1", "mps", "cpu0"])
def test_a_device_without_a_provider_is_named(small: ks.Backbone, device: str) -> None:
    expected = f"device: '{device}' cannot be used (here: .* pip install onnxruntime-gpu|by an)"
    with pytest.raises(ParameterError, match=expected):
        ks.Backbone.from_state(*small.state(), device=device)


def graph_of(backbone: ks.Backbone) -> bytes:
    return unpacked("graph", backbone.state()[1])[0]


#: Changes of the settings or of the graph, and what is said of them.
BAD: list[tuple[Any, Any, str]] = [
    ({"format": "onnx2"}, None, "format: expected torch, onnx, onnx-file, got 'onnx2', which a n"),
    ({"image_size": [64, 96]}, None, r"should take images of shape \(1, 3, 64, 96\), it takes"),
    ({"levels": [1, 2, 3]}, None, "should give level2 as float numbers of 4 axes, it gives noth"),
    ({"resize": "shorter"}, None, r"should take images of shape \(1, 3, height, width\), it tak"),
    ({"multiple": "x"}, None, "invalid literal for int"),
    ({"interpolation": 5}, None, "interpolation"),
    ({"patch_size": 2}, None, "patch_size: expected an odd number"),
    ({"name": 5}, None, "name: expected"),
    ({}, lambda graph: graph[:-500], "onnxruntime cannot run the ONNX graph"),
    ({}, lambda graph: b"abc", "onnxruntime cannot run the ONNX graph"),
    ({}, lambda graph: b"", "onnxruntime cannot run the ONNX graph"),
]


@pytest.mark.parametrize(("changes", "damage", "message"), BAD)
def test_what_does_not_fit_is_named(
    small: ks.Backbone, changes: dict[str, Any], damage: Any, message: str
) -> None:
    settings, tensors = small.state()
    if damage is not None:
        tensors = packed("graph", [damage(graph_of(small))])
    with pytest.raises(StoreError, match=message):
        ks.Backbone.from_state({**settings, **changes}, tensors)


def test_a_graph_that_is_missing_is_named(small: ks.Backbone) -> None:
    with pytest.raises(StoreError, match="'graph' is missing"):
        ks.Backbone.from_state(small.state()[0], {})


@pytest.mark.parametrize("place", ["w.bin", "../{folder}/w.bin", "{path}/w.bin"])
def test_weights_in_other_files_are_not_read(
    small: ks.Backbone, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a model could have any file of the machine read, as numbers."""
    import onnx

    graph = onnx.load_from_string(graph_of(small))
    weights = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (tmp_path / "w.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    location = weights.external_data.add()
    location.key, location.value = "location", place.format(folder=tmp_path.name, path=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"cannot run the ONNX graph .External data path"):
        ks.Backbone.from_state(small.state()[0], packed("graph", [graph.SerializeToString()]))


FORKED = """
import gc, json, multiprocessing, pickle, sys
import numpy as np

exported = pickle.loads(sys.stdin.buffer.read())
images = np.random.default_rng(0).integers(0, 255, (2, 70, 80, 3), np.uint8)

def check():
    return exported.extract(images).pooled.tobytes()

def deleted():
    global exported
    del exported
    gc.collect()

def child(pipe):
    pipe.send((check(), deleted()))

expected = check()
context = multiprocessing.get_context("fork")
ours, theirs = context.Pipe()
process = context.Process(target=child, args=(theirs,))
process.start()
found = ours.recv() if ours.poll(60) else "hangs"
process.kill()
process.join()
print(json.dumps([found == (expected, None), check() == expected, "torch" in sys.modules]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_gives_what_its_parent_gives_and_may_delete_it(small: ks.Backbone) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        input=pickle.dumps(small),
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True, False]
