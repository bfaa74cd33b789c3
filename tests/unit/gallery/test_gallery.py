"""Galleries in memory and in files: ids, storage, damage, and what errors say."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import (
    DTypeError,
    FeaturePyramid,
    Gallery,
    ImageError,
    KnnspectError,
    Neighbors,
    ParameterError,
    ShapeError,
    StoreError,
    _core,
)
from knnspect.backends import Capabilities
from knnspect.search import Search


def pyramid(n: int = 2, seed: int = 0, coarse: int = 2) -> FeaturePyramid:
    rng = np.random.default_rng(seed)
    return FeaturePyramid(
        [rng.normal(size=size).astype("f4") for size in ((n, 4, 4, 3), (n, coarse, 2, 5))]
    )


def filled(ids: list[str], **kwargs: str) -> Gallery:
    gallery = Gallery(**kwargs)
    gallery.add(pyramid(len(ids)), ids)
    return gallery


def assert_equal(one: FeaturePyramid, other: FeaturePyramid) -> None:
    assert one.shapes == other.shapes
    for a, b in zip(one.levels, other.levels, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def assert_same_state(one: Gallery, other: Gallery) -> None:
    assert (one.ids, one.shapes, one.upsample, one.dtype, one.nbytes) == (
        other.ids,
        other.shapes,
        other.upsample,
        other.dtype,
        other.nbytes,
    )
    assert_equal(one.pyramid(), other.pyramid())


# ------------------------------------------------------------------------------------- in memory


def test_a_new_gallery_is_empty() -> None:
    gallery = Gallery()
    assert (gallery.upsample, gallery.dtype) == ("bilinear", "float32")
    assert gallery.ids == []
    assert gallery.shapes == []
    assert gallery.nbytes == len(gallery) == 0
    assert repr(gallery) == "Gallery(upsample='bilinear', dtype='float32', n_images=0)"


def test_it_says_what_it_holds() -> None:
    gallery = filled(["b", "a"], upsample="block", dtype="float16")
    assert len(gallery) == 2
    assert gallery.ids == ["a", "b"]
    assert gallery.shapes == [(4, 4, 3), (2, 2, 5)]
    assert gallery.nbytes == 2 * (4 * 4 * 3 + 2 * 2 * 5) * 2
    assert repr(gallery) == (
        "Gallery(upsample='block', dtype='float16', n_images=2, level0=4x4x3, level1=2x2x5)"
    )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"upsample": "nearest"}, 'upsample: expected "bilinear" or "block", got "nearest"'),
        (
            {"dtype": "float64"},
            'dtype: expected "float32", "float16" or "int8", got "float64"',
        ),
    ],
)
def test_other_words_are_refused(kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Gallery(**kwargs)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("given", ["float32", "float16"])
def test_features_are_kept_as_numpy_would_convert_them(given: str, dtype: str) -> None:
    # float16 rounds to even, keeps subnormals and negative zeros.
    values = np.array(
        [1 / 3, -0.0, 6e-8, 1e-9, 65504, 2049, 2051, -6.1e-5, 1 + 2.0**-11], "f4"
    ).astype(given)
    gallery = Gallery(dtype=dtype)
    gallery.add(FeaturePyramid([values.reshape(1, 1, 1, -1)]), ["a"])
    (kept,) = gallery.pyramid().levels
    expected = values.astype(dtype)
    assert kept.dtype == expected.dtype
    assert kept.tobytes() == expected.tobytes()


def smooth(n: int, shape: tuple[int, int, int], seed: int = 0) -> NDArray[Any]:
    """Channels of very different offsets and ranges, of both signs."""
    rng = np.random.default_rng(seed)
    channels = shape[2]
    scales = 10.0 ** rng.uniform(-3, 3, channels)
    offsets = scales * rng.uniform(-2, 2, channels)
    return (rng.normal(size=(n, *shape)) * scales + offsets).astype("f4")


@pytest.mark.parametrize("given", ["float32", "float16"])
def test_int8_keeps_every_channel_of_every_image_within_half_a_step(given: str) -> None:
    levels = [smooth(3, (8, 6, 5)).astype(given), smooth(3, (4, 3, 7)).astype(given)]
    levels[0][1] *= 10  # an image of another range has another scale
    gallery = Gallery(dtype="int8")
    gallery.add(FeaturePyramid(levels), ["a", "b", "c"])
    for kept, level in zip(gallery.pyramid().levels, levels, strict=True):
        assert kept.dtype == np.float32
        values = level.astype("f8")
        span = values.max(axis=(1, 2), keepdims=True) - values.min(axis=(1, 2), keepdims=True)
        error = np.abs(kept - values)
        assert (error <= 0.5001 * span / 255).all()
        assert error.max() > 0
        for image in kept:
            assert all(len(np.unique(image[..., c])) <= 256 for c in range(image.shape[-1]))


def test_int8_takes_a_quarter_and_a_hundredth() -> None:
    levels = [smooth(2, (56, 56, 24)), smooth(2, (14, 14, 112))]
    sizes = {}
    for dtype in ("float32", "float16", "int8"):
        gallery = Gallery(dtype=dtype)
        gallery.add(FeaturePyramid(levels))
        sizes[dtype] = gallery.nbytes
    values = 2 * (56 * 56 * 24 + 14 * 14 * 112)
    assert sizes == {
        "float32": 4 * values,
        "float16": 2 * values,
        "int8": values + 2 * (24 + 112) * 8,
    }
    assert sizes["int8"] < 0.254 * sizes["float32"]


def test_int8_is_exact_where_256_values_are_enough() -> None:
    levels = np.zeros((1, 16, 16, 4), "f4")
    levels[..., 0] = 0.1  # constant
    levels[..., 1] = np.arange(256).reshape(16, 16)
    levels[..., 2] = np.linspace(0, 1, 256).reshape(16, 16) > 0.5
    levels[..., 3] = -1e-45
    gallery = Gallery(dtype="int8")
    gallery.add(FeaturePyramid([levels]))
    (kept,) = gallery.pyramid().levels
    np.testing.assert_array_equal(kept[..., [0, 1, 3]], levels[..., [0, 1, 3]])
    np.testing.assert_allclose(kept[..., 2], levels[..., 2], atol=5e-5)


def test_int8_keeps_features_of_any_size() -> None:
    extremes = np.array([-3e38, 3e38, -1e-45, 1e-45, 0, 1, 3.4e38, -3.4e38], "f4")
    level = np.stack([extremes, np.roll(extremes, 3), extremes * np.float32(1e-38)], axis=-1)
    gallery = Gallery(dtype="int8")
    gallery.add(FeaturePyramid([level.reshape(1, 2, 4, 3)]))
    (kept,) = gallery.pyramid().levels
    assert np.isfinite(kept).all()
    error = np.abs(kept.reshape(8, 3).astype("f8") - level)
    assert (error <= 0.501 * np.ptp(level.astype("f8"), axis=0) / 255).all()


def test_an_image_in_an_int8_gallery_does_not_depend_on_the_others() -> None:
    levels = pyramid(3)
    together, alone = Gallery(dtype="int8"), Gallery(dtype="int8")
    together.add(levels, ["a", "b", "c"])
    alone.add(levels[1], ["b"])
    alone.add(levels[[2, 0]], ["c", "a"])
    assert_same_state(alone, together)


def test_int8_keeps_what_it_decoded() -> None:
    level = smooth(4, (14, 14, 40))
    gallery, other = Gallery(dtype="int8"), Gallery(dtype="int8")
    gallery.add(FeaturePyramid([level]))
    other.add(gallery.pyramid())
    assert_same_state(other, gallery)


def test_a_query_of_an_int8_gallery_is_not_rounded() -> None:
    gallery = filled(["a"], dtype="int8")
    (kept, coarse), query = gallery.pyramid().levels, pyramid(1).levels
    assert (kept != query[0]).any()
    found = gallery.search(FeaturePyramid([kept, coarse]))
    assert (found.sq_distances == 0).all()
    nearer = gallery.search(FeaturePyramid([query[0], coarse])).sq_distances[..., 0]
    assert (nearer > 0).any()


def test_pyramids_come_back_in_the_order_asked_for() -> None:
    normal = pyramid(3)
    gallery = Gallery()
    assert gallery.add(normal, ["b", "c", "a"]) == ["b", "c", "a"]
    assert_equal(gallery.pyramid(["a", "b"]), normal[[2, 0]])
    assert_equal(gallery.pyramid(), normal[[2, 0, 1]])
    assert_equal(gallery.pyramid(["c", "c"]), normal[[1, 1]])
    gallery.pyramid(["a"]).levels[0][:] = 7  # a copy
    normal_a = normal[2]
    assert_equal(gallery.pyramid(["a"]), normal_a)
    with pytest.raises(ParameterError, match="at least one image, got none"):
        gallery.pyramid([])
    with pytest.raises(ParameterError, match="at least one image, got none"):
        Gallery().pyramid()
    with pytest.raises(ParameterError, match='no image "d" in the gallery'):
        gallery.pyramid(["a", "d"])


def test_the_gallery_keeps_its_own_copy() -> None:
    normal = pyramid(1)
    gallery = Gallery()
    gallery.add(normal, ["a"])
    before = gallery.pyramid()
    normal.levels[0][:] = 0
    assert_equal(gallery.pyramid(), before)


def test_default_ids_are_running_numbers_that_are_free() -> None:
    gallery = Gallery()
    assert gallery.add(pyramid(2)) == ["000000", "000001"]
    gallery.add(pyramid(1), ["000003"])
    gallery.remove(["000000"])
    assert gallery.add(pyramid(3)) == ["000000", "000002", "000004"]
    assert gallery.ids == ["000000", "000001", "000002", "000003", "000004"]


def test_no_images_can_be_added() -> None:
    gallery = Gallery()
    assert gallery.add(pyramid()[0:0]) == []
    assert gallery.shapes == [], "they do not decide the shape of the others"
    gallery.add(pyramid(1, coarse=1), ["a"])
    gallery.remove([])
    assert gallery.ids == ["a"]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (["c", "b"], ParameterError, 'ids: image "b" is in the gallery already'),
        (["c", "c"], ParameterError, 'ids: "c" is given twice'),
        (["c"], ShapeError, "one id for each of 2 images, got 1"),
        (["c", "d", "e"], ShapeError, "one id for each of 2 images, got 3"),
        ([], ShapeError, "one id for each of 2 images, got 0"),
        ("cd", DTypeError, "ids: expected a sequence of str, got the single str 'cd'"),
        (["c", 4], DTypeError, r"ids\[1\]: expected a str, got int"),
        (["c", b"d"], DTypeError, r"ids\[1\]: expected a str, got bytes"),
        ([None, "c"], DTypeError, r"ids\[0\]: expected a str, got NoneType"),
        (7, DTypeError, "ids: expected a sequence of str, got int"),
    ],
)
def test_bad_ids_add_nothing(ids: Any, error: type[Exception], message: str) -> None:
    gallery, expected = filled(["a", "b"]), filled(["a", "b"])
    with pytest.raises(error, match=message):
        gallery.add(pyramid(2, seed=1), ids)
    assert_same_state(gallery, expected)


def test_ids_that_are_no_text_are_refused_by_name() -> None:
    # What os.fsdecode makes of a file name that is not UTF-8.
    gallery = filled(["a"])
    bad = os.fsdecode(b"caf\xe9.png")
    for use in (
        lambda: gallery.add(pyramid(1), [bad]),
        lambda: gallery.remove([bad]),
        lambda: gallery.search(pyramid(1), images=[bad]),
    ):
        with pytest.raises(KnnspectError, match=r"caf.*png"):
            use()
    assert gallery.ids == ["a"]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (["a", "c"], ParameterError, 'no image "c" in the gallery'),
        ("ab", DTypeError, "ids: expected a sequence of str, got the single str 'ab'"),
        (["a", 4], DTypeError, r"ids\[1\]: expected a str, got int"),
    ],
)
def test_bad_ids_remove_nothing(ids: Any, error: type[Exception], message: str) -> None:
    gallery, expected = filled(["a", "b"]), filled(["a", "b"])
    with pytest.raises(error, match=message):
        gallery.remove(ids)
    assert_same_state(gallery, expected)


def test_an_image_is_removed_once() -> None:
    gallery = filled(["a", "b", "c"])
    gallery.remove(["b", "b"])
    assert gallery.ids == ["a", "c"]
    assert gallery.nbytes == filled(["a", "c"]).nbytes
    with pytest.raises(ParameterError, match='no image "b"'):
        gallery.remove(["b"])
    gallery.add(pyramid(1), ["b"])
    assert gallery.ids == ["a", "b", "c"]


def test_another_shape_adds_nothing() -> None:
    gallery, expected = filled(["a", "b"]), filled(["a", "b"])
    with pytest.raises(
        ShapeError,
        match="the pyramid to add is 4x4x3 \\+ 1x2x5, the gallery's is 4x4x3 \\+ 2x2x5",
    ):
        gallery.add(pyramid(1, coarse=1), ["c"])
    assert_same_state(gallery, expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_add_nothing(value: float, dtype: str) -> None:
    gallery, expected = filled(["a", "b"], dtype=dtype), filled(["a", "b"], dtype=dtype)
    bad = pyramid(3, seed=1)
    bad.levels[1][2, 0, 0, 0] = value
    with pytest.raises(ImageError, match=r'image "e", level 1: .* got NaN or infinity'):
        gallery.add(bad, ["c", "d", "e"])
    assert_same_state(gallery, expected)


@pytest.mark.parametrize("value", [65520, -1e30])
def test_features_too_large_for_float16_add_nothing(value: float) -> None:
    gallery = filled(["a", "b"], dtype="float16")
    expected = filled(["a", "b"], dtype="float16")
    bad = pyramid(3, seed=1)
    bad.levels[0][1, 0, 0, 0] = value
    with pytest.raises(ImageError, match=r'image "d": .* largest float16, 65504; .*float32'):
        gallery.add(bad, ["c", "d", "e"])
    assert_same_state(gallery, expected)
    bad.levels[0][1, 0, 0, 0] = 65519  # rounds to the largest
    gallery.add(bad, ["c", "d", "e"])
    assert gallery.pyramid(["d"]).levels[0][0, 0, 0, 0] == 65504


# ------------------------------------------------------------------------------------ the search


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"k": 0}, ParameterError, "k: expected at least 1, got 0"),
        ({"k": -1}, ParameterError, "k: expected at least 1, got -1"),
        ({"k": True}, DTypeError, "k: expected an integer, got bool"),
        ({"k": 1.5}, DTypeError, "k: expected an integer, got float"),
        ({"k": "1"}, DTypeError, "k: expected an integer, got str"),
        ({"k": None}, DTypeError, "k: expected an integer, got NoneType"),
        ({"threads": 0}, ParameterError, "threads: expected at least 1, got 0"),
        ({"threads": 2.0}, DTypeError, "threads: expected an integer, got float"),
        ({"images": "a"}, DTypeError, "images: expected a sequence of ids, got the single str 'a'"),
        ({"images": ["a", 3]}, DTypeError, r"images"),
        ({"images": [3]}, DTypeError, r"images"),
        ({"images": 3}, DTypeError, r"images"),
        ({"images": [["a", 3]]}, DTypeError, r"images\[0\]\[1\]: expected a str, got int"),
        ({"images": [["a"], "b"]}, DTypeError, r"images\[1\]: .* got the single str 'b'"),
        ({"images": ["c"]}, ParameterError, 'images: there is no image "c" in the gallery'),
        ({"backend": "gpu"}, ParameterError, "backend: expected one of .* got 'gpu'"),
    ],
)
def test_bad_parameters_are_named(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        filled(["a", "b"]).search(pyramid(1), **kwargs)


def test_numbers_of_numpy_are_numbers() -> None:
    gallery = filled(["a", "b"])
    found = gallery.search(pyramid(1), np.int64(3), threads=np.uint8(2))
    assert found.k == 3


def test_another_backend_can_be_brought_along() -> None:
    class Recorder:
        name = "recorder"
        capabilities = Capabilities("rows", ("cpu",), ("float32",))

        def __init__(self) -> None:
            self.seen: list[Search] = []

        def search(self, search: Search) -> Neighbors:
            self.seen.append(search)
            n_found = 16 * search.k
            return search.found(np.ones(n_found), np.zeros(n_found, int), np.full(n_found, 7))

    gallery, query, recorder = filled(["a", "b"]), pyramid(1), Recorder()
    found = gallery.search(query, 2, ("a",), 3, recorder)
    assert (found.image_ids, found.k, found.stats) == (("a",), 2, None)
    assert (found.cells == [1, 3]).all()
    gallery.search(query, backend=recorder)
    first, second = recorder.seen
    assert (first.query, first.k, first.image_ids, first.threads) == (query, 2, ("a",), 3)
    assert (second.query, second.k, second.image_ids, second.threads) == (
        query,
        1,
        ("a", "b"),
        None,
    )
    assert first.source is second.source


# --------------------------------------------------------------------------------------- in files

STRANGE_IDS = [
    "",
    " ",
    "a/b.png",
    "ä",
    "日本",
    "\U0001f50d",
    "e\u0301",
    '"checksum":"',
    "\\",
    "\0\n",
]


@pytest.mark.parametrize("upsample", ["bilinear", "block"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_a_saved_gallery_is_the_same_gallery(tmp_path: Path, upsample: str, dtype: str) -> None:
    gallery = filled(STRANGE_IDS, upsample=upsample, dtype=dtype)
    for path in (tmp_path / "normal.gallery", str(tmp_path / "ä b")):
        gallery.save(path)
        opened = Gallery.open(path)
        assert opened.ids == sorted(STRANGE_IDS)
        assert_same_state(opened, gallery)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_same_gallery_gives_the_same_file(tmp_path: Path, dtype: str) -> None:
    normal = pyramid(3)
    for name, order in (("one", [0, 1, 2]), ("other", [2, 0, 1])):
        gallery = Gallery(dtype=dtype)
        gallery.add(normal[order], ["abc"[i] for i in order])
        gallery.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_file_is_one_of_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    gallery = filled(["b", "ä"], dtype="float16")
    gallery.save(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved")
    assert sorted(tensors) == ["gallery.level0", "gallery.level1"]
    for index, level in enumerate(gallery.pyramid().levels):
        np.testing.assert_array_equal(tensors[f"gallery.level{index}"], level)
    with safe_open(tmp_path / "saved", "np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["gallery.ids"]) == ["b", "ä"]
    assert (metadata["format"], metadata["format_version"]) == ("knnspect", "1")
    assert (metadata["kind"], metadata["gallery.upsample"]) == ("gallery", "bilinear")


def test_codes_scales_and_offsets_are_in_the_file(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    gallery = filled(["b", "a"], dtype="int8")
    gallery.save(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved")
    names = [f"gallery.level{i}{end}" for i in range(2) for end in ("", ".offsets", ".scales")]
    assert sorted(tensors) == names
    for index, level in enumerate(gallery.pyramid().levels):
        codes = tensors[f"gallery.level{index}"]
        offsets = tensors[f"gallery.level{index}.offsets"][:, None, None]
        scales = tensors[f"gallery.level{index}.scales"][:, None, None]
        assert [str(part.dtype) for part in (codes, offsets, scales)] == [
            "int8",
            "float32",
            "float32",
        ]
        np.testing.assert_array_equal(offsets + scales * codes.astype("f4"), level)
        assert (codes.min(axis=(1, 2)) == -128).all(), "all codes are used"
        assert (codes.max(axis=(1, 2)) == 127).all()
    assert sum(tensor.nbytes for tensor in tensors.values()) == gallery.nbytes
    with safe_open(tmp_path / "saved", "np") as file:
        # So that who cannot read int8 says that the file is newer, not that it is damaged.
        assert file.metadata()["format_version"] == "2"


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_an_opened_gallery_is_changed_in_memory_only(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "saved"
    gallery = filled(["a", "b", "c"], dtype=dtype)
    gallery.save(path)
    before = path.read_bytes()
    opened = Gallery.open(path)
    for changed in (opened, gallery):
        changed.remove(["b"])
        changed.add(pyramid(2, seed=1), ["d", "0"])
    assert_same_state(opened, gallery)
    assert path.read_bytes() == before
    assert Gallery.open(path).ids == ["a", "b", "c"]


def test_a_gallery_can_be_saved_over_the_file_it_is_open_from(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    filled(["a", "b", "c"]).save(path)
    opened, other = Gallery.open(path), Gallery.open(path)
    before = other.pyramid()
    opened.remove(["a"])
    opened.add(pyramid(1, seed=1), ["d"])
    opened.save(path)
    assert_same_state(Gallery.open(path), opened)
    assert other.ids == ["a", "b", "c"], "who has the old file open keeps it"
    assert_equal(other.pyramid(), before)
    assert os.listdir(tmp_path) == ["saved"]  # noqa: PTH208


def test_an_empty_gallery_is_not_saved(tmp_path: Path) -> None:
    gallery = filled(["a"])
    gallery.remove(["a"])
    for empty in (Gallery(), gallery):
        with pytest.raises(ParameterError, match="an empty gallery cannot be saved"):
            empty.save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_file_has_the_usual_permissions(tmp_path: Path) -> None:
    filled(["a"]).save(tmp_path / "saved")
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("saved", "other")}
    assert len(modes) == 1


@pytest.fixture(scope="module", params=["float32", "int8"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small file."""
    gallery = Gallery(dtype=request.param)
    gallery.add(FeaturePyramid([np.ones((2, 1, 2, 1), "f4"), np.zeros((2, 1, 1, 1), "f4")]))
    path = tmp_path_factory.mktemp("small") / "small"
    gallery.save(path)
    return path.read_bytes()


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_every_altered_byte_is_noticed(small: bytes, tmp_path: Path, flip: int) -> None:
    path = tmp_path / "altered.gallery"
    for at in range(len(small)):
        path.write_bytes(small[:at] + bytes([small[at] ^ flip]) + small[at + 1 :])
        with pytest.raises(StoreError, match=r"altered\.gallery: "):
            Gallery.open(path)


def test_every_truncation_is_noticed_without_a_checksum_too(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short.gallery"
    for length in range(len(small)):
        path.write_bytes(small[:length])
        for verify in (True, False):
            with pytest.raises(StoreError, match=r"short\.gallery: "):
                Gallery.open(path, verify=verify)
    path.write_bytes(small + b"\0")
    with pytest.raises(StoreError, match=r"short\.gallery: "):
        Gallery.open(path, verify=False)


def test_damaged_values_are_only_seen_by_the_checksum(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(small[:-1] + bytes([small[-1] ^ 0x3F]))
    with pytest.raises(StoreError, match="damaged: its checksum does not match"):
        Gallery.open(path)
    assert Gallery.open(path, verify=False).ids == ["000000", "000001"]


def rewritten(good: bytes, old: bytes, new: bytes) -> bytes:
    assert good.count(old) == 1, old
    assert len(old) == len(new)
    return good.replace(old, new)


@pytest.mark.parametrize("verify", [True, False])
def test_a_newer_version_is_named(small: bytes, tmp_path: Path, verify: bool) -> None:
    path = tmp_path / "newer"
    version = b"2" if b'"I8"' in small else b"1"
    old, new = (b'"format_version":"' + number + b'"' for number in (version, b"3"))
    path.write_bytes(rewritten(small, old, new))
    with pytest.raises(StoreError, match=r"newer: .*newer knnspect: its format is 3, .* up to 2"):
        Gallery.open(path, verify=verify)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format_version"', b'"format_versiox"', "format version cannot be read"),
        (b'"kind":"gallery"', b'"kind":"detectr"', "expected a gallery, it holds a detectr"),
        (b'"gallery.upsample":"bilinear"', b'"gallery.upsample":"bicubic!"', "bicubic!"),
        (rb"\"000001\"", rb"\"000000\"", 'two images "000000"'),
        (rb"\"000000\",\"000001\"", rb"\"000000,00,00,0001\"", "2 images, there are 1 ids"),
        (b'"gallery.ids"', b'"gallery.idz"', 'no "gallery.ids"'),
        (b'"gallery.level0"', b'"gallery.level7"', "at least one level"),
    ],
)
def test_a_gallery_that_is_not_consistent_is_refused_without_a_checksum_too(
    small: bytes, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "odd"
    path.write_bytes(rewritten(small, old, new))
    with pytest.raises(StoreError, match=f"odd: .*{message}"):
        Gallery.open(path, verify=False)


def write_int8(path: Path, tensors: dict[str, NDArray[Any]], order: list[str]) -> None:
    """A file as it stands in one that was saved, but for the tensors that are given."""
    gallery = Gallery(dtype="int8")
    gallery.add(FeaturePyramid([smooth(2, (2, 2, 3)), smooth(2, (1, 1, 5))]), ["a", "b"])
    gallery.save(path)
    store = _core.Store(path, True)
    kept = {name: store.tensor(name) for name in store.names} | tensors
    header: dict[str, Any] = {"__metadata__": store.metadata}
    at, parts = 0, []
    types = {"int8": "I8", "uint8": "U8", "float32": "F32", "float16": "F16", "float64": "F64"}
    for name in order or sorted(kept, key=lambda name: -kept[name].itemsize):
        if kept[name].size:
            part = kept[name].tobytes()
            header[name] = {
                "dtype": types[str(kept[name].dtype)],
                "shape": kept[name].shape,
                "data_offsets": [at, at + len(part)],
            }
            at += len(part)
            parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


FIRST, SECOND = "gallery.level0", "gallery.level1"
GONE = np.zeros(0, "f4")


def with_value(value: float) -> NDArray[Any]:
    changed = np.ones((2, 5), "f4")
    changed[1, 3] = value
    return changed


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{FIRST}.scales": GONE}, 'no tensor "gallery.level0.scales"'),
        ({f"{SECOND}.offsets": GONE}, 'no tensor "gallery.level1.offsets"'),
        ({FIRST: GONE}, "at least one level"),
        (
            {f"{FIRST}.scales": np.ones((2, 4), "f4")},
            r"level0\.scales holds F32 of shape \[2, 4\] instead of F32 of \[2, 3\]",
        ),
        ({f"{FIRST}.scales": np.ones((3, 3), "f4")}, r"level0\.scales .* \[3, 3\]"),
        ({f"{FIRST}.offsets": np.ones((3, 2), "f4")}, r"level0\.offsets .* \[3, 2\]"),
        ({f"{FIRST}.offsets": np.ones(6, "f4")}, r"level0\.offsets .* \[6\]"),
        ({f"{SECOND}.scales": np.ones((2, 5), "f2")}, r"level1\.scales holds F16 .* of F32"),
        ({f"{SECOND}.scales": np.ones((2, 5), "f8")}, r"level1\.scales holds F64 .* of F32"),
        ({f"{SECOND}.scales": with_value(np.nan)}, r'level1 of image "b" is not finite'),
        ({f"{SECOND}.offsets": with_value(-np.inf)}, r'level1 of image "b" is not finite'),
        ({f"{SECOND}.scales": with_value(3e36)}, r'level1 of image "b" is not finite'),
        ({FIRST: np.zeros((2, 2, 2, 3), "u1")}, "level0 holds U8"),
        ({FIRST: np.zeros((2, 2, 3), "i1")}, "level0 has 3 axes instead of 4"),
        ({FIRST: np.zeros((1, 2, 2, 3), "i1")}, "level0 has 1 images, there are 2 ids"),
        ({SECOND: np.zeros((2, 1, 1, 5), "f4")}, "its levels differ in type"),
        ({SECOND: np.zeros((2, 2, 3, 5), "i1")}, "must divide those of the finer level"),
    ],
)
def test_an_int8_gallery_that_is_not_consistent_is_refused_without_a_checksum_too(
    tmp_path: Path, tensors: dict[str, NDArray[Any]], message: str
) -> None:
    path = tmp_path / "odd"
    write_int8(path, {}, [])
    good = Gallery.open(path, verify=False)
    assert (good.ids, good.dtype, good.shapes) == (["a", "b"], "int8", [(2, 2, 3), (1, 1, 5)])
    write_int8(path, tensors, [])
    with pytest.raises(StoreError, match=f"odd: .*damaged.*{message}"):
        Gallery.open(path, verify=False)


@pytest.mark.parametrize("kind", ["offsets", "scales"])
def test_an_int8_gallery_that_is_not_aligned_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    names = [f"{level}{end}" for level in (FIRST, SECOND) for end in ("", ".offsets", ".scales")]
    last = f"{FIRST}.{kind}"
    # The codes of level 1 are ten bytes.
    order = [name for name in names if name not in (SECOND, last)] + [SECOND, last]
    write_int8(path, {}, order)
    with pytest.raises(StoreError, match=r"odd: .*damaged: gallery\.level0 is not aligned"):
        Gallery.open(path, verify=False)


def foreign_files(folder: Path) -> dict[str, str]:
    """Files that are not ours, and what the error says."""
    from PIL import Image
    from safetensors.numpy import save_file

    Image.new("RGB", (8, 8)).save(folder / "image.png")
    save_file({"gallery.level0": np.zeros((1, 2, 2, 1), "f4")}, folder / "plain.safetensors")
    (folder / "empty").touch()
    (folder / "short").write_bytes(b"1234567")
    (folder / "zeros").write_bytes(bytes(100))
    (folder / "text").write_text("a text that is a little longer than a header\n" * 3)
    (folder / "folder").mkdir()
    return {
        "image.png": "not a knnspect file",
        "plain.safetensors": "a safetensors file, but not one that knnspect wrote",
        "empty": "not a knnspect file: it has 0 bytes",
        "short": "not a knnspect file: it has 7 bytes",
        "zeros": "not a knnspect file",
        "text": "not a knnspect file",
        "folder": "is not a gallery: it has no journal",
        "missing": "cannot be opened: No such file",
        "missing/missing": "cannot be opened: No such file",
        "empty/file": "cannot be opened: Not a directory",
    }


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    for name, message in foreign_files(tmp_path).items():
        for verify in (True, False):
            with pytest.raises(StoreError, match=message) as error:
                Gallery.open(tmp_path / name, verify=verify)
            assert str(error.value).startswith(f"{tmp_path / name}: ")


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_where_nothing_can_be_written_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("here before")
    before = snapshot(tmp_path)
    for name in ("missing/saved", "folder", "file/saved"):
        with pytest.raises(StoreError, match="cannot be written") as error:
            filled(["a"]).save(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert snapshot(tmp_path) == before
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_cannot_be_written_to_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    filled(["a"]).save(path)
    before = snapshot(tmp_path)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="cannot be written: Permission denied"):
            filled(["b"]).save(path)
    finally:
        tmp_path.chmod(0o700)
    assert snapshot(tmp_path) == before


WRITE_TO_A_FULL_DISK = """
import resource, signal, sys
import numpy as np
import knnspect as ks

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
gallery = ks.Gallery()
gallery.add(ks.FeaturePyramid([np.zeros((1, 64, 64, 300), "f4")]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    gallery.save(sys.argv[1])
except ks.StoreError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("room", [0, 100, 2_000_000, 4_915_000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, room: int) -> None:
    path = tmp_path / "saved"
    filled(["a"]).save(path)
    before = snapshot(tmp_path)
    command = [sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(path), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith(f"{path}: cannot be written: "), done
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_disk_with_just_enough_room_is_written_to(tmp_path: Path) -> None:
    # So that the test above fails for want of room and of nothing else.
    path = tmp_path / "saved"
    command = [sys.executable, "-c", WRITE_TO_A_FULL_DISK, str(path), "4920000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    assert path.stat().st_size > 4_915_200
    assert Gallery.open(path).shapes == [(64, 64, 300)]


def test_a_wrapped_core_is_shared() -> None:
    core = _core.Gallery("block", "float32")
    gallery = Gallery.from_core(core)
    levels: list[NDArray[Any]] = list(pyramid(1).levels)
    core.add(levels, ["a"])
    assert gallery.ids == ["a"]
    assert gallery.upsample == "block"


def test_a_copy_shares_the_images_and_changes_alone() -> None:
    gallery = Gallery()
    gallery.add(FeaturePyramid([np.ones((2, 2, 2, 1), "f4")]), ids=["a", "b"])
    for other in (copy.copy(gallery), copy.deepcopy(gallery)):
        other.remove(["a"])
        assert (other.ids, gallery.ids) == (["b"], ["a", "b"])


def test_a_search_too_large_for_the_memory_is_an_error() -> None:
    gallery = Gallery()
    level = np.zeros((1, 2048, 2048, 1), "f4")
    gallery.add(FeaturePyramid([level]))
    with pytest.raises(MemoryError, match="not enough memory"):
        gallery.search(FeaturePyramid([level]), k=2048 * 2048)


@pytest.mark.parametrize(
    ("query", "options", "error", "message"),
    [
        (np.ones((1, 2, 2, 1), "f4"), {}, DTypeError, "query: expected a FeaturePyramid, got nd"),
        (None, {"k": 2**70}, ParameterError, "k must be between 1 and"),
        (None, {"backend": None}, DTypeError, "backend: expected a name or a Backend, got None"),
    ],
)
def test_unusual_arguments_are_named(
    query: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    pyramid = FeaturePyramid([np.ones((1, 2, 2, 1), "f4")])
    gallery = Gallery()
    gallery.add(pyramid)
    with pytest.raises(error, match=message):
        gallery.search(pyramid if query is None else query, **options)
    assert gallery.search(pyramid, threads=2**70).sq_distances.max() == 0
