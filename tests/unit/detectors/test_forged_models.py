"""Models whose checksum is right and whose settings are not: one error, before anything is built.

What they say is looked at in a process of its own, which notes every attempt to reach the network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

import knnspect as ks
from knnspect import _core

#: Settings of the backbone that are changed, with the part of the message that names them.
FORGED: list[tuple[dict[str, Any], str]] = [
    ({"architecture": "vit_giant_patch14_dinov2"}, "vit_giant_patch14_dinov2: the weights of"),
    ({"architecture": "eva_giant_patch14_560"}, "eva_giant_patch14_560: the weights of"),
    ({"architecture": "convnext_xxlarge"}, "convnext_xxlarge: the weights of"),
    ({"architecture": "hf-hub:timm/test_efficientnet.r160_in1k"}, "no network 'hf-hub:timm"),
    ({"architecture": "hf_hub:timm/test_efficientnet.r160_in1k"}, "no network 'hf_hub:timm"),
    ({"architecture": "timm/test_efficientnet"}, "no network 'timm/test"),
    ({"architecture": "local-dir:."}, "no network 'local-dir:.'"),
    ({"architecture": "https://example.org/net"}, "no network 'https://"),
    ({"architecture": "test_efficientnet.no_such_tag"}, "no network 'test_efficientnet.no_such"),
    ({"architecture": ""}, "no network ''"),
    ({"architecture": None}, "no network 'None'"),
    ({"architecture": ["resnet18"]}, "no network"),
    ({"name": "hf-hub:timm/resnet18"}, "name: timm has no backbone 'hf-hub:timm/resnet18'"),
    ({"name": 5}, "name: expected the name"),
    ({"image_size": [10**9, 10**9]}, "image_size: expected at most"),
    ({"image_size": [10**30, 1]}, "image_size: expected at most"),
    ({"image_size": [-64, 64]}, r"image_size: expected at least 1, got -64"),
    ({"image_size": [64]}, "image_size"),
    ({"image_size": 64}, "not iterable"),
    ({"image_size": [float("inf"), 64]}, "image_size"),
    ({"levels": [1, 99]}, "levels: .* got 99"),
    ({"levels": [1, 10**30]}, "levels: .* got 1000"),
    ({"levels": []}, "levels: expected at least one"),
    ({"levels": [2, 1]}, "finest first"),
    ({"levels": {"a": 1}}, r"levels\[0\]: expected an integer, got str"),
    ({"patch_size": 10**9 + 1}, "patch_size: expected at most 64"),
    ({"patch_size": 2}, "patch_size: expected an odd number"),
    ({"patch_size": "3"}, "patch_size: expected an integer, got str"),
    ({"resize": "squash"}, "resize"),
    ({"resize": None}, "resize"),
]

#: Loads each file that is named; prints what came of it, what it took, and who was called.
LOADING = """
import json, resource, sys
calls, said = [], []
sys.addaudithook(
    lambda event, args: calls.append(f"{event} {args}")
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname") else None
)
import knnspect as ks
ks.load(sys.argv[1], device="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        ks.load(path, device="cpu")
        said.append(["", "it was loaded"])
    except Exception as error:
        said.append([type(error).__name__, str(error)])
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"said": said, "calls": calls, "grown": grown * 1024}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    network: Any = timm.create_model("test_efficientnet")
    save_file(network.state_dict(), folder / "w.safetensors")
    backbone = ks.Backbone(
        "test_efficientnet", (1, 2), 64, weights=folder / "w.safetensors", device="cpu"
    )
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    ks.PatchCore(backbone, coreset=None).fit(images).save(folder / "model.ks")
    return folder / "model.ks"


def forge(model: Path, file: Path, settings: Any) -> Path:
    """Write the model anew, with other settings of the backbone, and with its checksum."""
    store = _core.Store(model, True)
    config = json.loads(store.metadata["config"])
    config["backbone"] = settings(config["backbone"])
    metadata = {**store.metadata, "config": json.dumps(config)}
    tensors = {name: store.tensor(name) for name in store.names}
    _core.save_tensors(file, store.kind, metadata, tensors)
    return file


def load_apart(model: Path, files: list[Path], home: Path) -> dict[str, Any]:
    environment = {**os.environ, "HF_HOME": str(home / "hf"), "TORCH_HOME": str(home / "torch")}
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(model), *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_one_error_says_what_is_wrong_and_nothing_is_fetched_or_built(
    model: Path, tmp_path: Path
) -> None:
    files = []
    for index, (change, _) in enumerate(FORGED):
        files.append(forge(model, tmp_path / f"{index}.ks", lambda s, c=change: {**s, **c}))
    found = load_apart(model, files, tmp_path / "home")
    for file, (change, message), (kind, said) in zip(files, FORGED, found["said"], strict=True):
        assert kind == "StoreError", (change, kind, said)
        assert str(file) in said
        assert re.search(message, said), (change, said)
    assert found["calls"] == []
    assert not (tmp_path / "home").exists()
    assert found["grown"] < 500e6


def test_settings_that_are_missing_are_named(model: Path, tmp_path: Path) -> None:
    for name in ("name", "architecture", "levels", "image_size", "resize", "patch_size", "source"):
        file = forge(
            model, tmp_path / "m.ks", lambda s, n=name: {k: v for k, v in s.items() if k != n}
        )
        with pytest.raises(ks.StoreError, match=rf"m\.ks: .*'{name}' is missing"):
            ks.load(file)
    others: list[Any] = [None, 5, [], "resnet18"]
    for other in others:
        file = forge(model, tmp_path / "m.ks", lambda _, o=other: o)
        with pytest.raises(ks.StoreError, match=r"m\.ks: "):
            ks.load(file)


def test_tensors_that_are_not_those_of_the_network_are_named(model: Path, tmp_path: Path) -> None:
    store = _core.Store(model, True)
    name = next(name for name in store.names if name.endswith("conv_stem.weight"))
    weights = store.tensor(name)
    for other, message in (
        (weights[:1], "conv_stem.weight should have shape"),
        (weights.astype(np.int64), "conv_stem.weight has torch.int64, expected real numbers"),
    ):
        tensors = {key: store.tensor(key) for key in store.names} | {name: other}
        _core.save_tensors(tmp_path / "m.ks", store.kind, dict(store.metadata), tensors)
        with pytest.raises(ks.StoreError, match=rf"m\.ks: .*{message}"):
            ks.load(tmp_path / "m.ks")


def test_tables_that_grow_with_a_forged_image_size_are_refused(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    network: Any = timm.create_model(name)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = tmp_path / "w.safetensors"
    settings, tensors = ks.Backbone(name, (0,), 224, weights=weights, device="cpu").state()
    settings["image_size"] = [2**14, 2**14]
    with pytest.raises(ks.StoreError, match=r"image_size: swin\S* needs \d+\.\d GiB for tables"):
        ks.Backbone.from_state(settings, tensors)
