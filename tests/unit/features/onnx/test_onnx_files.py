"""ONNX files that others made are backbones: levels by the names of their tensors."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import random_network, save
from onnx import TensorProto, helper
from onnx_files import ocr_network, small_graph, write_network

import knnspect as ks
from knnspect.errors import KnnspectError, ParameterError, StoreError
from knnspect.exporting import onnx_backbone
from knnspect.features.onnx.listing import listing
from knnspect.packed import packed, unpacked

pytestmark = pytest.mark.usefixtures("one_thread")

CONVOLUTIONAL, VIT = "mobilenetv3_small_050", "vit_tiny_patch16_224"
#: For graphs that normalize images themselves.
AS_IT_IS: dict[str, Any] = {"mean": 0, "std": 1}


def images(n: int = 2) -> Any:
    return np.random.default_rng(0).integers(0, 255, (n, 70, 90, 3), np.uint8)


def largest_difference(one: ks.Features, other: ks.Features) -> float:
    pairs = zip(
        [*one.pyramid.levels, one.pooled], [*other.pyramid.levels, other.pooled], strict=True
    )
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def are_equal(one: ks.Features, other: ks.Features) -> bool:
    return largest_difference(one, other) == 0


class Exported:
    """EfficientNet-Lite0 as this package exports it, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        backbone = onnx_backbone(ks.Backbone(levels=(1, 2), image_size=64, device="cpu"))
        path.write_bytes(unpacked("graph", backbone.state()[1])[0])
        graph = onnx.load(path).graph
        outputs = {node.output[0]: node for node in graph.node}
        #: The tensors that become level0 and level1 when their axes are changed.
        self.inner = tuple(outputs[name].input[0] for name in ("level0", "level1"))


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("lite") / "lite.onnx")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    onnx.save(small_graph(), path)
    return path


def of_small(small: Path, **given: Any) -> ks.Backbone:
    return ks.Backbone(small, **{"levels": ("a", "c"), "image_size": 32, **given})


class TestFeatures:
    @pytest.mark.parametrize(
        "given", [{}, {"patch_size": 3, "unit": True}, {"patch_size": 5, "resize": "crop"}]
    )
    @pytest.mark.parametrize("by", ["numbers of outputs", "names of inner tensors"])
    def test_are_those_of_the_network_that_was_exported(
        self, lite: Exported, given: dict[str, Any], by: str
    ) -> None:
        levels = (0, 1) if by == "numbers of outputs" else lite.inner
        expected = ks.Backbone(levels=(1, 2), image_size=64, device="cpu", **given)
        backbone = ks.Backbone(lite.path, levels, 64, **AS_IT_IS, **given)
        found = backbone.extract(images())
        assert backbone.channels == expected.channels == [24, 40]
        for one, other in zip(
            expected.extract(images()).pyramid.levels, found.pyramid.levels, strict=True
        ):
            assert other.dtype == np.float32
            assert np.abs(one - other).max() < 1e-5 * np.abs(one).max()

    @pytest.mark.parametrize("resize", ["stretch", "shorter"])
    @pytest.mark.parametrize("pooled", ["mean", "max"])
    def test_of_normalized_images_are_those_of_timm(
        self, tmp_path: Path, resize: Any, pooled: Any
    ) -> None:
        network = random_network(CONVOLUTIONAL, features_only=True, out_indices=(1, 2, 3, 4))
        weights = save(network.state_dict(), tmp_path / "weights.safetensors")
        file = write_network(network, None, tmp_path / "any.onnx", 4)
        given: dict[str, Any] = {"image_size": 64, "resize": resize, "pooled": pooled}
        expected = ks.Backbone(
            CONVOLUTIONAL, (1, 2, 4), weights=weights, device="cpu", **given
        ).extract(images())
        found = ks.Backbone(file, (0, 1, -1), **given).extract(images())
        assert largest_difference(expected, found) < 1e-5
        assert found.pyramid.levels[0].shape[1:3] == ((16, 16) if resize == "stretch" else (16, 24))

    def test_of_tokens_are_the_maps_of_the_transformer(self, tmp_path: Path) -> None:
        class Tokens(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = random_network(VIT, img_size=(48, 64))

            def forward(self, x: torch.Tensor) -> Any:
                return self.network.forward_features(x)

        network = Tokens()
        file = write_network(network, (48, 64), tmp_path / "vit.onnx", 1)
        # Those of its training size, from which position embeddings are resampled.
        weights = save(network.network.state_dict(), tmp_path / "vit.safetensors")
        found = ks.Backbone(file, (0,), (48, 64), mean=0.5, std=0.5).extract(images())
        assert found.pyramid.shapes == [(3, 4, 192)]
        expected = ks.Backbone(
            VIT, (-1,), (48, 64), weights=weights, norm=True, device="cpu"
        ).extract(images())
        assert largest_difference(expected, found) < 1e-5

    def test_do_not_depend_on_the_batch_nor_on_what_else_is_asked_for(self, small: Path) -> None:
        found = of_small(small).extract(images(3))
        alone = next(iter(of_small(small).iterate(images(1), pooled=False)))
        assert alone.pooled.shape == (1, 0)
        assert found.pooled.shape == (3, 6)
        for one, other in zip(alone.pyramid.levels, found.pyramid.levels, strict=True):
            np.testing.assert_array_equal(one[0], other[0])

    def test_of_bgr_are_those_of_images_with_their_channels_the_other_way(
        self, small: Path
    ) -> None:
        numbers: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
        bgr = of_small(small, color_order="bgr", **numbers).extract(images())
        rgb = of_small(small, **numbers)
        assert are_equal(bgr, rgb.extract(images()[..., ::-1]))
        assert not are_equal(bgr, rgb.extract(images()))

    def test_of_an_input_with_the_channels_last_are_the_same(
        self, small: Path, tmp_path: Path
    ) -> None:
        model = small_graph()
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, "h", "w", 3])
        )
        model.graph.node.insert(
            0, helper.make_node("Transpose", ["last"], ["x"], perm=[0, 3, 1, 2])
        )
        model.graph.node.append(helper.make_node("Transpose", ["c"], ["c last"], perm=[0, 2, 3, 1]))
        onnx.save(model, tmp_path / "last.onnx")
        expected = of_small(small).extract(images())
        for levels in (("a", "c"), ("a", "c last")):
            found = ks.Backbone(tmp_path / "last.onnx", levels, 32)
            assert are_equal(expected, found.extract(images()))
            assert found.state()[0]["layout"] == "NHWC"

    def test_of_half_precision_are_float32(self, small: Path, tmp_path: Path) -> None:
        onnx.save(small_graph(kind=TensorProto.FLOAT16), tmp_path / "half.onnx")
        found = of_small(tmp_path / "half.onnx").extract(images())
        assert {level.dtype for level in found.pyramid.levels} == {np.dtype(np.float32)}
        assert 0 < largest_difference(of_small(small).extract(images()), found) < 0.01

    def test_have_the_axes_that_the_graph_says_also_where_shapes_do_not(
        self, tmp_path: Path
    ) -> None:
        """A map of 4 channels of 4 x 2 cells looks like one of 2 channels of 4 x 4 cells."""
        model = small_graph((1, 3, 64, 64))
        first = model.graph.node[0]
        del first.attribute[:]
        first.attribute.extend(
            helper.make_node(
                "Conv", [], [], strides=[16, 32], kernel_shape=[3, 3], pads=[1, 1, 1, 1]
            ).attribute
        )
        onnx.save(model, tmp_path / "oblong.onnx")
        backbone = ks.Backbone(tmp_path / "oblong.onnx", ("a",), 64)
        assert backbone.extract(images()).pyramid.shapes == [(4, 2, 4)]


class TestTravel:
    def test_they_are_stored_pickled_and_copied(self, small: Path, tmp_path: Path) -> None:
        file = tmp_path / "ours.onnx"
        file.write_bytes(small.read_bytes())
        backbone = of_small(
            file, mean=0.5, std=(0.1, 0.2, 0.3), patch_size=3, unit=True, pooled="max", white=4095
        )
        expected = backbone.extract(images())
        file.unlink()
        for other in (
            ks.Backbone.from_state(*backbone.state()),
            pickle.loads(pickle.dumps(backbone)),
            copy.deepcopy(backbone),
        ):
            assert are_equal(expected, other.extract(images()))
            assert other.fingerprint() == backbone.fingerprint()
            assert (other.levels, other.white) == (("a", "c"), 4095)
        assert backbone.source == "file ours.onnx"
        assert backbone.is_exported

    def test_a_fingerprint_depends_on_the_file_and_not_on_its_folder(
        self, small: Path, tmp_path: Path
    ) -> None:
        (tmp_path / small.name).write_bytes(small.read_bytes())
        expected = of_small(small).fingerprint()
        assert of_small(tmp_path / small.name).fingerprint() == expected
        for other in ({"levels": ("b", "c")}, {"mean": 0.5, "std": 0.5}, {"color_order": "bgr"}):
            assert of_small(small, **other).fingerprint() != expected
        model = small_graph()
        model.producer_name = "another"
        onnx.save(model, tmp_path / small.name)
        assert of_small(tmp_path / small.name).fingerprint() != expected

    def test_a_stored_one_that_is_damaged_is_named(self, small: Path) -> None:
        settings, tensors = of_small(small).state()
        cut = packed("file", [unpacked("file", tensors)[0][:-30]])
        for changed, arrays, message in (
            ({}, cut, "the stored backbone cannot be used: small.onnx: expected an ONNX file"),
            ({}, {}, "'file' is missing"),
            ({"levels": ["nope"]}, tensors, "has no tensor 'nope'"),
            ({"mean": [0.5]}, tensors, "mean: expected one number or three, got 1"),
            ({"layout": "NHWC"}, tensors, "layout: small.onnx takes 'x'"),
            ({"format": "onnx-3"}, tensors, "expected torch, onnx, onnx-file, got 'onnx-3', which"),
        ):
            with pytest.raises(StoreError, match=message):
                ks.Backbone.from_state({**settings, **changed}, arrays)

    def test_they_are_no_networks_to_export(self, small: Path) -> None:
        with pytest.raises(ParameterError, match="an ONNX graph already"):
            onnx_backbone(of_small(small))


#: Parameters, and what is said of them.
BAD: list[tuple[dict[str, Any], str]] = [
    ({"levels": ("aa",)}, r"levels: small.onnx has no tensor 'aa'; did you mean 'a'\? `knnspect "),
    ({"levels": ("wa",)}, "has no tensor 'wa'"),
    ({"levels": (1, 2, 3)}, "has the outputs 0 to 0, got 1; other levels go by the names of tens"),
    ({"levels": (-2,)}, "has the outputs 0 to 0, got -2"),
    ({"levels": (0,)}, r"levels: 'mean' has the shape \(1, 6\) for one image of 32 x 32 pixels"),
    ({"levels": ("c", "a")}, "expected the finest first; 'c' has 8 x 8 cells and 'a' 16 x 16"),
    ({"levels": ("a", "a")}, "levels: expected each tensor once, got a, a"),
    ({"levels": ("a", 0)}, r"levels\[0\]: expected an integer"),
    ({"weights": "timm"}, "weights: those of .*small.onnx are in it; expected 'auto'"),
    ({"norm": True}, "norm: an ONNX network has no final norm that is known"),
    ({"pooled": "cls"}, 'pooled: "cls" cannot be taken of an ONNX network'),
    ({"precision": "float16"}, "precision: an ONNX network computes in what its file says"),
    ({"patch_size": 33}, "patch_size: expected at most 32"),
    ({"mean": 0.5}, "std: expected mean and std together"),
    ({"std": 0.5}, "mean: expected mean and std together"),
    ({"mean": (0.5, 0.5), "std": 1}, "mean: expected one number or three, got 2"),
    ({"mean": 123.675, "std": 58.4}, "mean: .* got 123.675; .* are to be divided by 255"),
    ({"mean": 0, "std": 0}, "std: expected a finite number above 0"),
    ({"mean": "half", "std": 1}, "mean: expected one number or three, got 'half'"),
    ({"layout": "NHWC"}, "layout: small.onnx takes 'x' of shape .* which is NCHW, got 'NHWC'"),
    ({"layout": "CHW"}, "layout: expected one of 'NCHW', 'NHWC'"),
    ({"color_order": "gbr"}, "color_order: expected one of 'rgb', 'bgr'"),
    ({"image_size": 0}, "image_size"),
    (
        {"image_size": 34},
        "image_size: .* such as multiples of 4; 'a' has 17 x 17 cells and 'c' 9 x",
    ),
    ({"resize": "squash"}, "resize"),
    ({"device": "tpu"}, "device: 'tpu' cannot be used by an ONNX network"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_what_cannot_be_is_named(small: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(KnnspectError, match=message):
        of_small(small, **given).extract(images())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"levels": ("a",)}, "levels: names of tensors are for ONNX files; .* 'resnet18' of timm"),
        ({"mean": 0.5, "std": 0.5}, "mean: is for ONNX files, .*; timm knows that of 'resnet18'"),
        ({"layout": "NCHW"}, "layout: is for ONNX files"),
        ({"color_order": "bgr"}, "color_order: is for ONNX files"),
    ],
)
def test_networks_of_timm_do_not_take_what_is_for_files(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        ks.Backbone("resnet18", **given).extract(images())


def changed(change: Callable[[Any], Any], **given: Any) -> bytes:
    model = small_graph(**given)
    change(model)
    content: bytes = model.SerializeToString()
    return content


def with_second_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))


def with_weights_outside(model: Any) -> None:
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    location = weights.external_data.add()
    location.key, location.value = "location", "small.onnx.data"


def with_unknown_operator(model: Any) -> None:
    model.graph.node[1].op_type = "Convolve"


#: Contents of files, and what is said of them.
BAD_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", r"expected an ONNX file; .* \(there is no graph in it\)"),
    "text": (lambda: b"no network at all", "expected an ONNX file; it is none, or it is dam"),
    "cut off": (lambda: small_graph().SerializeToString()[:500], "expected an ONNX file"),
    "weights outside": (
        lambda: changed(with_weights_outside),
        "keeps weights in another file, 'small.onnx.data'; .* onnx.save",
    ),
    "newer operators": (
        lambda: changed(lambda model: setattr(model.opset_import[0], "version", 99)),
        "version 99 of ONNX's operators, .* pip install --upgrade onnxruntime",
    ),
    "newer format": (
        lambda: changed(lambda model: setattr(model, "ir_version", 99)),
        "version 99 of ONNX's format, .* pip install --upgrade onnxruntime",
    ),
    "no operators": (lambda: changed(lambda model: model.ClearField("opset_import")), "opset"),
    "unknown operator": (lambda: changed(with_unknown_operator), "Convolve"),
    "two inputs": (lambda: changed(with_second_input), r"it takes 2 inputs \(x, y\); expected one"),
    "grey": (
        lambda: changed(lambda model: None, shape=(1, 1, 32, 32), n_channels=1),
        "it takes images of 1 channel as NCHW; expected 3",
    ),
    "bytes": (
        lambda: helper.make_model(
            helper.make_graph(
                [helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT)],
                "bytes",
                [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 32, 32])],
                [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 3, 32, 32])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        ).SerializeToString(),
        "it takes 'x' as uint8; expected float or float16",
    ),
    "eight at a time": (
        lambda: changed(lambda model: None, shape=(8, 3, 32, 32)),
        "it takes 8 images at a time; expected 1, or any number",
    ),
    "another size": (
        lambda: changed(lambda model: None, shape=(1, 3, 48, 64)),
        "image_size: .* takes images of 48 x 64 pixels, got 32 x 32",
    ),
    "another height": (
        lambda: changed(lambda model: None, shape=(1, 3, 48, "width")),
        "image_size: .* takes images of 48 x any pixels, got 32 x 32",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_cannot_be_used_is_named(kind: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[kind]
    path = tmp_path / "bad.onnx"
    path.write_bytes(content())
    with pytest.raises(KnnspectError, match=message) as found:
        ks.Backbone(path, ("a",), 32).extract(images())
    assert "bad.onnx" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none.onnx: there is no such ONNX file") as found:
        ks.Backbone(tmp_path / "none.onnx", ("a",)).extract(images())
    assert found.value.path == tmp_path / "none.onnx"
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(StoreError, match=r"folder.onnx: cannot be read: Is a directory"):
        ks.Backbone(tmp_path / "folder.onnx", ("a",)).extract(images())


def test_a_size_that_is_fixed_can_be_used_and_not_with_the_shorter_side(tmp_path: Path) -> None:
    onnx.save(small_graph((1, 3, 32, 48)), tmp_path / "fixed.onnx")
    backbone = ks.Backbone(tmp_path / "fixed.onnx", ("b",), (32, 48))
    assert backbone.extract(images()).pyramid.shapes == [(16, 24, 5)]
    onnx.save(small_graph((1, 3, 32, 32)), tmp_path / "fixed.onnx")
    with pytest.raises(ParameterError, match='resize: "shorter" needs a network that takes im'):
        ks.Backbone(tmp_path / "fixed.onnx", ("b",), 32, resize="shorter").extract(images())


def test_no_damage_does_more_than_raise(tmp_path: Path) -> None:
    content = small_graph().SerializeToString()
    generator = np.random.default_rng(0)
    # Where structure is, not numbers of weights.
    structure = [i for i in range(len(content)) if i < 300 or i > len(content) - 200]
    outcomes = set()
    path = tmp_path / "damaged.onnx"
    for at in generator.choice(structure, 150, replace=False):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(generator.integers(8))
        for tried in (bytes(damaged), content[:at]):
            path.write_bytes(tried)
            try:
                ks.Backbone(path, ("a", "c"), 32).extract(images(1))
                outcomes.add("nothing")
            except KnnspectError as error:
                outcomes.add(type(error).__name__)
    assert {"nothing", "StoreError", "ParameterError"} >= outcomes >= {"StoreError"}


class TestNetworksOfOthers:
    @pytest.mark.parametrize(
        ("kind", "levels", "size", "shapes"),
        [
            (
                "det",
                ("p2o.pd_op.relu.0.0", "p2o.pd_op.add.30.0"),
                64,
                [(32, 32, 24), (4, 4, 192)],
            ),
            ("rec", ("p2o.pd_op.relu.0.0",), (48, 96), [(24, 48, 48)]),
            ("cls", ("hardswish_0.tmp_0", "relu_1.tmp_0"), 64, [(32, 32, 8), (16, 32, 8)]),
        ],
    )
    def test_are_run_by_the_names_of_their_tensors(
        self, kind: str, levels: tuple[str, ...], size: Any, shapes: list[Any]
    ) -> None:
        file = ocr_network(kind)
        found = ks.Backbone(file, levels, size, mean=0.5, std=0.5, color_order="bgr")
        assert found.extract(images()).pyramid.shapes == shapes
        assert "rapidocr" not in sys.modules

    def test_are_those_that_onnxruntime_gives(self) -> None:
        import onnxruntime

        file = ocr_network("cls")
        model = onnx.load(file)
        model.graph.output.append(onnx.ValueInfoProto(name="relu_1.tmp_0"))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        pixels = images(1)[:, :64, :64]
        batch = ((pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)).transpose(
            0, 3, 1, 2
        )
        (expected,) = session.run(["relu_1.tmp_0"], {"x": batch.astype(np.float32)})
        found = ks.Backbone(file, ("relu_1.tmp_0",), 64, mean=0.5, std=0.5).extract(pixels)
        np.testing.assert_allclose(
            found.pyramid.levels[0], expected.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4
        )

    def test_are_listed_with_what_can_be_their_levels(self) -> None:
        found = listing(ocr_network("cls"))
        assert found.input == "x (float: any x 3 x any x any)"
        assert found.outputs == "save_infer_model/scale_0.tmp_1 (float: any x 2)"
        assert found.image_size == (224, 224)
        shapes = {map_.name: map_.shape for map_ in found.maps}
        assert shapes["hardswish_0.tmp_0"] == (112, 112, 8)
        assert shapes["relu_1.tmp_0"] == (56, 112, 8)
        assert "Shape@0" not in shapes  # whole numbers
        assert "pool2d_10.tmp_0" not in shapes  # one cell
        operators = {map_.name: map_.operator for map_ in found.maps}
        assert operators["conv2d_53.tmp_0"] == "Conv"
