from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from knnspect.data.geometry import strips
from knnspect.errors import DTypeError, ParameterError, ShapeError, StoreError
from knnspect.report import colorize, overlay, save_png
from knnspect.report.overlay import to_rgb


@pytest.fixture
def image() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def luminance(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = image @ np.array([0.299, 0.587, 0.114])
    return values


def test_shape_and_dtype(image: npt.NDArray[np.uint8]) -> None:
    laid_over = overlay(image, np.ones((12, 17)), scale=2.0)
    assert laid_over.shape == (12, 17, 3)
    assert laid_over.dtype == np.uint8


def test_a_zero_map_keeps_the_luminance_and_takes_some_color(
    image: npt.NDArray[np.uint8],
) -> None:
    laid_over = overlay(image, np.zeros((12, 17)), scale=1.0)
    assert np.abs(luminance(laid_over) - luminance(image)).max() < 1
    before, after = np.ptp(image.astype(int), axis=2), np.ptp(laid_over.astype(int), axis=2)
    assert (after <= before + 1).all()
    assert after.mean() < 0.7 * before.mean()


def test_a_zero_map_leaves_a_grey_image_as_it_is() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(
        overlay(grey, np.zeros((16, 16)), scale=1.0), np.stack([grey] * 3, axis=2)
    )


def test_the_image_fades_and_the_color_grows_with_the_value() -> None:
    black, white = np.zeros((1, 101), np.uint8), np.full((1, 101), 255, np.uint8)
    map_ = np.linspace(0, 1, 101)[np.newaxis]
    on_black, on_white = overlay(black, map_, 1.0), overlay(white, map_, 1.0)
    # What is left of the image is what tells white from black.
    left = (on_white.astype(int) - on_black).mean(axis=2)[0] / 255
    assert (np.diff(left) <= 1e-2).all()
    assert left[10] > 0.99  # a small value: the image as it is
    assert 0.05 < left[-1] < 0.25  # a strong find: nearly all colour
    assert np.abs(on_black[0, -1].astype(int) - colorize([[1.0]])[0, 0]).max() < 45


def test_only_the_share_of_the_scale_matters(image: npt.NDArray[np.uint8]) -> None:
    map_ = np.random.default_rng(1).random((12, 17))
    np.testing.assert_array_equal(overlay(image, 8 * map_, 8.0), overlay(image, map_, 1.0))


def test_values_outside_the_scale_are_clipped(image: npt.NDArray[np.uint8]) -> None:
    shape = (12, 17)
    np.testing.assert_array_equal(
        overlay(image, np.full(shape, 99.0), 3.0), overlay(image, np.full(shape, 3.0), 3.0)
    )
    np.testing.assert_array_equal(
        overlay(image, np.full(shape, -1.0), 3.0), overlay(image, np.zeros(shape), 3.0)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_extreme_scales(image: npt.NDArray[np.uint8], dtype: type[np.floating[Any]]) -> None:
    map_ = np.linspace(0, 6e4, 12 * 17).reshape(12, 17).astype(dtype)
    overlay(image, map_, scale=1e-30)
    overlay(image, map_, scale=1e30)


def test_floating_and_grey_images_are_the_same_picture(image: npt.NDArray[np.uint8]) -> None:
    map_ = np.random.default_rng(1).random((12, 17))
    expected = overlay(image, map_, 1.0)
    np.testing.assert_array_equal(overlay(image.astype(np.float32) / 255, map_, 1.0), expected)
    grey = image[..., 0]
    expected = overlay(np.stack([grey] * 3, axis=2), map_, 1.0)
    np.testing.assert_array_equal(overlay(grey, map_, 1.0), expected)
    np.testing.assert_array_equal(overlay(grey / 255, map_, 1.0), expected)


def test_the_input_is_not_changed(image: npt.NDArray[np.uint8]) -> None:
    map_ = np.ones((12, 17), dtype=np.float32)
    image.flags.writeable = map_.flags.writeable = False
    overlay(image, map_, 1.0)


IMAGE, MAP = np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3))


@pytest.mark.parametrize(
    ("image", "map_", "scale", "error", "message"),
    [
        (IMAGE[0, 0], MAP, 1.0, ShapeError, r"image: expected shape .* got \(3,\)"),
        (np.zeros((2, 3, 4), np.uint8), MAP, 1.0, ShapeError, r"image: .* got \(2, 3, 4\)"),
        (np.zeros((0, 3), np.uint8), MAP[:0], 1.0, ShapeError, r"image: .* got \(0, 3\)"),
        (IMAGE, MAP.T, 1.0, ShapeError, r"map: expected \(2, 3\), .* got \(3, 2\)"),
        (IMAGE.astype(int), MAP, 1.0, DTypeError, "image: expected uint8 or floating, got int64"),
        (IMAGE, MAP.astype(complex), 1.0, DTypeError, "map: expected real .* got complex128"),
        (IMAGE + 255.0, MAP, 1.0, ParameterError, r"image: .* got values from 255.0 to 255.0"),
        (IMAGE + np.nan, MAP, 1.0, ParameterError, r"image: .* got values from nan to nan"),
        (IMAGE, MAP + np.nan, 1.0, ParameterError, "map: expected finite numbers"),
        (IMAGE, MAP, 0.0, ParameterError, "scale: expected a positive finite number, got 0.0"),
        (IMAGE, MAP, np.inf, ParameterError, "scale: expected a positive finite number, got inf"),
        (IMAGE, MAP, np.nan, ParameterError, "scale: expected a positive finite number, got nan"),
    ],
)
def test_bad_input_is_refused(
    image: Any, map_: Any, scale: float, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        overlay(image, map_, scale)


def read(path: Path) -> npt.NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.array(picture)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_save_png_keeps_every_pixel(tmp_path: Path, image: npt.NDArray[np.uint8]) -> None:
    path = tmp_path / "picture.png"
    save_png(image, path)
    np.testing.assert_array_equal(read(path), image)
    save_png(image[..., 0], str(path))
    np.testing.assert_array_equal(read(path), image[..., 0])
    assert names_in(tmp_path) == ["picture.png"]


def test_save_png_takes_a_view_and_a_long_name(
    tmp_path: Path, image: npt.NDArray[np.uint8]
) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    save_png(image[::-2, ::3], path)
    np.testing.assert_array_equal(read(path), image[::-2, ::3])


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
def test_save_png_gives_the_usual_permissions(tmp_path: Path, image: npt.NDArray[np.uint8]) -> None:
    (tmp_path / "plain").touch()
    save_png(image, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="POSIX limits")
@pytest.mark.parametrize("is_large", [False, True])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, image: npt.NDArray[np.uint8], is_large: bool
) -> None:
    import resource

    path = tmp_path / "picture.png"
    if is_large:
        image = np.full((4100, 4100), 7, np.uint8)
    save_png(image, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ, so that the write fails as it does without space.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match=r"picture\.png: cannot be written: File too large"):
            save_png(255 - image, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_array_equal(read(path), image)
    assert names_in(tmp_path) == ["picture.png"]


def test_an_unusable_folder_is_named(tmp_path: Path, image: npt.NDArray[np.uint8]) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere" / "a.png", tmp_path / "file" / "a.png"):
        with pytest.raises(StoreError) as caught:
            save_png(image, path)
        assert str(path) in str(caught.value)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"cannot be written: .* folder is a folder"):
        save_png(image, tmp_path / "folder")
    assert names_in(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
def test_a_read_only_folder_is_named(tmp_path: Path, image: npt.NDArray[np.uint8]) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=r"a\.png: .* Permission denied"):
            save_png(image, tmp_path / "a.png")
    finally:
        tmp_path.chmod(0o700)


def test_save_png_refuses_what_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DTypeError, match="array: expected uint8, got float64"):
        save_png(np.zeros((2, 3, 3)), tmp_path / "a.png")  # type: ignore[arg-type]
    for shape in ((3,), (2, 3, 4), (0, 3, 3)):
        with pytest.raises(ShapeError, match=r"array: expected shape \(height, width, 3\)"):
            save_png(np.zeros(shape, np.uint8), tmp_path / "a.png")
    assert names_in(tmp_path) == []


# --- large pictures


def whole_overlay(image: Any, map_: Any, scale: float) -> Any:
    """Return the overlay of all rows at once, as it is defined."""
    rgb = to_rgb(image)
    share = np.clip(map_ / np.float64(scale), 0, 1).astype(np.float32)
    base = rgb.astype(np.float32)
    grey = (base @ np.array([0.299, 0.587, 0.114], np.float32))[..., np.newaxis]
    base += 0.5 * (grey - base)
    t = np.clip((share - 0.1) / (0.9 - 0.1), 0, 1)
    opacity = (0.85 * (t * t * (3 - 2 * t)))[..., np.newaxis].astype(np.float32)
    base += opacity * (colorize(share) - base)
    return np.rint(base).astype(np.uint8)


@pytest.mark.parametrize("kind", ["colour", "float", "grey", "one channel"])
def test_strips_make_the_same_picture_to_the_bit(kind: str) -> None:
    rng = np.random.default_rng(0)
    map_ = (rng.random((2201, 1000)) * 7).astype(np.float32)
    image: Any = rng.integers(0, 256, (2201, 1000, 3)).astype(np.uint8)
    if kind == "float":
        image = (image / 255).astype(np.float32)
    elif kind == "grey":
        image = image[..., 0]
    elif kind == "one channel":  # as grey files are read
        image = np.broadcast_to(image[..., :1], image.shape)
    assert len(list(strips(map_.shape))) == 3
    np.testing.assert_array_equal(overlay(image, map_, 6.0), whole_overlay(image, map_, 6.0))


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 1), (1, 7), (2201, 1000, 3), (3, 4, 3)])
def test_a_png_has_the_pixels_and_says_who_wrote_it(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    save_png(array, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), array)
        assert picture.info == {"Software": "knnspect"}
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


#: Above the first size pictures are written piece by piece.
SIDES = (2, 4100)


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
@pytest.mark.parametrize("side", SIDES)
def test_a_png_keeps_the_mode_of_the_one_before_and_the_link_to_it(
    tmp_path: Path, side: int
) -> None:
    (tmp_path / "real.png").touch(mode=0o640)
    (tmp_path / "link.png").symlink_to("real.png")
    save_png(np.zeros((side, side), np.uint8), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o640
    with Image.open(tmp_path / "real.png") as picture:
        assert picture.size == (side, side)
    assert len(list(tmp_path.iterdir())) == 2


MEMORY = """
import resource, sys
import numpy as np
from PIL import Image
from knnspect import Backbone, PatchCore
from knnspect.data import open_images
from knnspect.report import ResultsFolder

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

folder = sys.argv[1]
detector = PatchCore(Backbone(levels=(3,), image_size=64, device="cpu"), coreset=None)
normal = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
detector.fit(normal)
results = ResultsFolder(folder + "/o", detector.normal_map_max_, detector.backbone.geometry)

def judge(images):
    reader = detector.backbone.reader()
    for item, prediction in zip(open_images(images), detector.iter_predict(images)):
        results.add(prediction, item.read(reader))

judge([normal[0]])
before = peak()
judge(folder + "/large.png")
print((peak() - before) * 1024 / 16e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted otherwise")
def test_a_large_image_takes_few_bytes_a_pixel(tmp_path: Path) -> None:
    # The map takes 4, the image 3, and 4 more as long as Pillow has it. It was 55 and more.
    large = Image.effect_noise((4000, 4000), 60).convert("RGB")
    large.save(tmp_path / "large.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 20
