"""Frames come in their order: of a video, of a numbered folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnspect import ImageError, extras
from knnspect.data import open_images, open_sequence

#: imageio-ffmpeg leaves it to the garbage collector to close its pipes.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


def film(path: Path, n: int = 5) -> Path:
    from imageio import v3 as imageio

    frames = np.zeros((n, 32, 48, 3), np.uint8)
    for number in range(n):
        frames[number] = 40 * number
    imageio.imwrite(path, frames, plugin="FFMPEG", fps=10, macro_block_size=1)
    return path


def test_a_video_gives_its_frames_twice(tmp_path: Path) -> None:
    source = open_sequence(film(tmp_path / "clip.mp4"))
    for _ in range(2):
        items = list(source)
        assert [item.id for item in items] == [f"clip.mp4#{n:04d}" for n in range(1, 6)]
        images = [item.load() for item in items]
        assert {image.shape for image in images} == {(32, 48, 3)}
        assert [round(float(image.mean())) for image in images] == pytest.approx(
            [0, 40, 80, 120, 160], abs=4
        )


def test_a_folder_comes_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10, 11, 100):
        Image.new("L", (4, 4), number).save(tmp_path / f"frame{number}.png")
    source = open_sequence(tmp_path)
    assert source.n_images == 5
    assert [int(item.load()[0, 0, 0]) for item in source] == [1, 2, 10, 11, 100]
    assert [int(item.load()[0, 0, 0]) for item in open_images(tmp_path)] == [1, 10, 100, 11, 2]


def test_other_images_are_as_they_are() -> None:
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    assert [item.id for item in open_sequence(frames)] == ["000000", "000001"]


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.mp4: expected a video, but there is no such"):
        open_sequence(tmp_path / "none.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(ImageError, match=r"text\.mp4: expected a video, got a file that ffmpeg"):
        list(open_sequence(text))


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError(name="imageio_ffmpeg")
    monkeypatch.setattr(
        extras, "_import_error", lambda module: error if module == "imageio_ffmpeg" else None
    )
    with pytest.raises(ImportError, match=r'clip\.mp4 needs imageio-ffmpeg.*knnspect\[video\]"'):
        open_sequence(tmp_path / "clip.mp4")
