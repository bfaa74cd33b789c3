"""Every kind of thing that images come as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from knnspect.data import (
    IMAGE_SUFFIXES,
    ImageSource,
    elpv_split,
    list_images,
    open_images,
    read_image,
)
from knnspect.errors import DTypeError, ImageError, ReadingWarning, ShapeError

RNG = np.random.default_rng(0)


def save(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (5, 4), value).save(path)
    return path


def ids(source: ImageSource) -> list[str]:
    return [item.id for item in source]


# --- folders and files


def test_folder(tmp_path: Path) -> None:
    names = ["b/1.png", "a.PNG", "b.jpeg", "c/d/2.TIFF", "a/z.webp", "e.bmp", "f.jpg", "g.tif"]
    for value, name in enumerate(names):
        save(tmp_path / name, value)
    save(tmp_path / ".hidden.png")
    save(tmp_path / ".thumbnails" / "x.png")
    (tmp_path / "notes.txt").write_text("x")
    for folder in (tmp_path, str(tmp_path), f"{tmp_path}/"):
        source = open_images(folder)
        assert ids(source) == sorted(names)
        assert source.n_images == len(names)
    item = next(item for item in source if item.id == "c/d/2.TIFF")
    assert item.load()[0, 0, 0] == 3


def test_every_ending_of_a_format_that_is_read(tmp_path: Path) -> None:
    for suffix, format_ in (
        (".jpg .jpeg .JPE .jfif .jif", "JPEG"),
        (".jp2 .j2k .j2c .jpc .jpf .jpx", "JPEG2000"),
        (".ppm .PNM", "PPM"),
        (".pgm .pbm", "PPM"),
        (".tif .tiff .btf", "TIFF"),
        (".png", "PNG"),
        (".bmp .dib", "BMP"),
        (".webp", "WEBP"),
    ):
        for ending in suffix.split():
            mode = {".pgm": "L", ".pbm": "1"}.get(ending, "RGB")
            Image.new(mode, (5, 4)).save(tmp_path / f"{len(ending)}{ending}", format=format_)
    source = open_images(tmp_path)
    assert source.n_images == 22 == len(IMAGE_SUFFIXES)
    assert {item.load().shape for item in source} == {(4, 5, 3)}


def test_images_of_other_formats_are_said_once(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png")
    for name in ("a/x.gif", "a/y.GIF", "b/z.heic", "notes.txt", "t.csv", "t.json", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.warns(ReadingWarning) as caught:
        source = open_images(tmp_path)
    assert ids(source) == ["a/1.png"]
    (warning,) = caught
    assert str(warning.message) == (
        f"{tmp_path}: left out 3 image files of formats that are not read (2 .gif, 1 .heic)"
    )


def test_folder_under_a_hidden_one(tmp_path: Path) -> None:
    save(tmp_path / ".cache" / "data" / "a.png")
    assert ids(open_images(tmp_path / ".cache" / "data")) == ["a.png"]


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "1.png")
    root = tmp_path / "root"
    save(root / "a" / "2.png")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "broken.png").symlink_to(tmp_path / "gone.png")
    source = open_images(root)
    assert ids(source) == ["a/2.png", "broken.png", "link/1.png"]
    with pytest.raises(ImageError, match=r"broken\.png: expected"):
        list(source)[1].load()


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="gone: expected a folder or an image file"):
        open_images(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: expected a folder of images \(\.bmp.*got none"):
        open_images(tmp_path / "empty")
    with pytest.raises(ImageError, match="got an empty one"):
        open_images("")
    with pytest.raises(ImageError, match=r"a\.png: expected a folder of images, got a file"):
        list_images(save(tmp_path / "a.png"))
    with pytest.raises(ImageError, match="gone: expected a folder of images, got nothing there"):
        list_images(tmp_path / "gone")


def test_single_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 7)
    source = open_images(str(path))
    assert ids(source) == [path.as_posix()]
    assert source.n_images == 1
    assert next(iter(source)).load()[0, 0, 0] == 7


def test_list_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "b.png", 1)
    save(tmp_path / "a.png", 2)
    monkeypatch.chdir(tmp_path)
    for given in (["b.png", Path("a.png")], ("b.png", "a.png")):
        source = open_images(given)
        assert ids(source) == ["b.png", "a.png"]
        assert [item.load()[0, 0, 0] for item in source] == [1, 2]
    with pytest.raises(ImageError, match=r"a\.png: expected every image once"):
        open_images(["a.png", "b.png", Path("a.png")])
    with pytest.raises(ImageError, match="at least one image"):
        open_images([])
    # A file that is not there is a bad image, found when it is loaded.
    with pytest.raises(ImageError, match=r"gone\.png: expected"):
        next(iter(open_images(["gone.png"]))).load()


def test_real_images() -> None:
    paths = elpv_split(3, 0, 0).train
    for path, item in zip(paths, open_images(paths), strict=True):
        assert item.id == path.as_posix()
        np.testing.assert_array_equal(item.load(), read_image(path))


# --- arrays


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 8, 6, 1), (3, 8, 6, 3), (3, 8, 6, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_array_batch(shape: tuple[int, ...], dtype: Any) -> None:
    batch = (
        np.ones(shape, dtype) * np.arange(3).reshape(3, *[1] * (len(shape) - 1)).astype(dtype) / 2
    )
    source = open_images(batch.astype(dtype))
    assert source.n_images == 3
    assert ids(source) == ["000000", "000001", "000002"]
    assert [item.load().shape for item in source] == [(8, 6, 3)] * 3
    assert ids(source) == ids(source)


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 3), (8, 6, 4), (8, 6, 1)])
def test_single_array_is_refused_with_a_hint(shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    with pytest.raises(ShapeError, match=r"pass \[image\]"):
        open_images(image)
    assert next(iter(open_images([image]))).load().shape == (8, 6, 3)


def test_wrong_arrays() -> None:
    with pytest.raises(
        ShapeError, match=r"1, 3 or 4 channels on the last axis, got \(2, 3, 9, 8\)"
    ):
        open_images(np.zeros((2, 3, 9, 8), np.uint8))
    with pytest.raises(ShapeError, match=r"expected shape .*got \(8,\)"):
        open_images(np.zeros(8, np.uint8))
    with pytest.raises(ImageError, match="at least one image"):
        open_images(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(DTypeError, match="000000: expected uint8"):
        next(iter(open_images(np.zeros((1, 8, 8, 3), np.int64)))).load()


def test_mixed_list(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png")
    mixed = [
        np.zeros((4, 6), np.float32),
        path,
        Image.new("RGBA", (3, 2)),
        torch.zeros(3, 7, 9),
        torch.zeros(7, 8, dtype=torch.uint8),
    ]
    source = open_images(mixed)
    assert ids(source) == ["000000", path.as_posix(), "000002", "000003", "000004"]
    shapes = [item.load().shape for item in source]
    assert shapes == [(4, 6, 3), (4, 5, 3), (2, 3, 3), (7, 9, 3), (7, 8, 3)]


def test_tensor_batch() -> None:
    batch = torch.from_numpy(RNG.random((2, 3, 5, 4), dtype=np.float32)).requires_grad_()
    source = open_images(batch)
    assert source.n_images == 2
    loaded = np.stack([item.load() for item in source])
    np.testing.assert_array_equal(loaded, batch.detach().numpy().transpose(0, 2, 3, 1))
    assert next(iter(open_images(batch.bfloat16()))).load().dtype == np.float32
    with pytest.raises(ShapeError, match=r"pass \[image\]"):
        open_images(batch[0])


# --- loaders


class Pictures(torch.utils.data.Dataset[Any]):
    def __init__(self, form: str) -> None:
        self.form = form
        self.images = torch.from_numpy(RNG.random((5, 3, 6, 4), dtype=np.float32))

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        image = self.images[index]
        named = {"image": image, "label": index, "image_path": f"set/{index}.png"}
        return {"plain": image, "pair": (image, index), "dict": named}[self.form]


@pytest.mark.parametrize("form", ["plain", "pair", "dict"])
def test_data_loader(form: str) -> None:
    pictures = Pictures(form)
    loader = torch.utils.data.DataLoader(pictures, batch_size=2)
    source = open_images(loader)
    assert source.n_images is None
    expected = [f"set/{i}.png" if form == "dict" else f"{i:06d}" for i in range(5)]
    assert ids(source) == expected
    assert ids(source) == expected  # again: a loader can be read twice
    loaded = np.stack([item.load() for item in source])
    np.testing.assert_array_equal(loaded, pictures.images.numpy().transpose(0, 2, 3, 1))


def test_batches_of_other_kinds(tmp_path: Path) -> None:
    batches = (
        torch.zeros(2, 1, 6, 4, dtype=torch.uint8),
        np.zeros((1, 6, 4, 3), np.uint8),
        {"image": torch.zeros(1, 3, 6, 4)},
        save(tmp_path / "a.png"),
        Image.new("L", (4, 6)),
    )
    source = open_images(batch for batch in batches)
    items = list(source)
    path = (tmp_path / "a.png").as_posix()
    assert [item.id for item in items] == [
        *("000000", "000001", "000002", "000003"),
        *(path, "000005"),
    ]
    assert all(item.load().shape[2] == 3 for item in items)


def test_a_generator_is_read_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    source = open_images(tmp_path.glob("*.png"))
    assert len(ids(source)) == 1
    with pytest.raises(ImageError, match="got one that was read already"):
        ids(source)


def test_batches_are_read_when_needed() -> None:
    read = []

    def batches() -> Iterator[Any]:
        for i in range(3):
            read.append(i)
            yield torch.zeros(2, 3, 4, 4)

    items = iter(open_images(batches()))
    next(items), next(items)
    assert read == [0]
    next(items)
    assert read == [0, 1]


@pytest.mark.parametrize(
    ("element", "error", "message"),
    [
        (torch.zeros(3, 4, 4), ShapeError, r"begins with image 0: .*\(3, 4, 4\); pass \[image\]"),
        (torch.zeros(2, 4, 4, 3), None, ""),
        (torch.zeros(2, 5, 4, 3), ShapeError, "1, 3 or 4 channels"),
        (np.zeros((4, 4, 3), np.uint8), ShapeError, r"pass \[image\]"),
        ({"images": 1}, DTypeError, r"expected a dict with \"image\", got \['images'\]"),
        ({"image": torch.zeros(2, 3, 4, 4), "image_path": ["a"]}, ShapeError, "expected 2 ids"),
        ({"image": torch.zeros(1, 3, 4, 4), "image_path": [7]}, DTypeError, "paths in"),
        ({"image": torch.zeros(2, 3, 4, 4), "image_path": ["a", "a"]}, ImageError, "a: expected"),
        ([], DTypeError, "got an empty list"),
        (("a.png", 1), DTypeError, "expected a torch tensor or an array of images, got str"),
        (7, DTypeError, "got int"),
    ],
)
def test_wrong_batches(element: Any, error: type[Exception] | None, message: str) -> None:
    source = open_images(iter([element]))
    if error is None:
        list(source)
        return
    with pytest.raises(error, match=message):
        list(source)


def test_empty_iterable() -> None:
    with pytest.raises(ImageError, match="iterable without any"):
        list(open_images(iter([])))


@pytest.mark.parametrize(
    "images", [None, 7, {"a.png"}, b"a.png", Image.new("L", (2, 2)), Pictures("plain")]
)
def test_unknown_types(images: Any) -> None:
    with pytest.raises(DTypeError, match=f"images: expected a folder.*got {type(images).__name__}"):
        open_images(images)
    with pytest.raises(TypeError):
        open_images(images)


def test_a_dict_names_its_images(tmp_path: Path) -> None:
    image = np.full((3, 4, 3), 7, np.uint8)
    Image.fromarray(image).save(tmp_path / "file.png")
    source = open_images({"second": image, "first": tmp_path / "file.png"})
    assert [item.id for item in source] == ["second", "first"]
    assert all((item.load() == image).all() for item in source)
    with pytest.raises(DTypeError, match="expected ids of type str, got int"):
        open_images({1: image})
    with pytest.raises(DTypeError, match="image a: expected a path"):
        open_images({"a": 1})


def test_unknown_type_in_a_list() -> None:
    with pytest.raises(DTypeError, match=r"image 000001: expected a path.*got int"):
        open_images(["a.png", 7])


def test_a_source_stays_itself() -> None:
    source = open_images(np.zeros((1, 4, 4, 3), np.uint8))
    assert open_images(source) is source
