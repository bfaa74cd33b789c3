"""Digests: another image under the same name is noticed, whatever it comes as."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from knnspect.data import open_images
from knnspect.data.digests import DIGEST_BYTES, file_digest, pixels_digest
from knnspect.data.sources import ImageItem
from knnspect.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)


def digest_of(images: object) -> bytes:
    (item,) = open_images(images)
    return item.digest()


def test_a_file_is_its_bytes_and_is_not_decoded(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    contents = os.urandom(3_000_000)
    file.write_bytes(contents)
    expected = hashlib.sha256(contents).digest()
    assert file_digest(file) == digest_of(tmp_path) == digest_of([str(file)]) == expected
    assert digest_of({"by id": file}) == expected
    assert len(expected) == DIGEST_BYTES
    before = file.stat()
    file.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest_of(file) != expected, "also if its size and time are the same"


def test_what_is_in_memory_is_its_pixels() -> None:
    one = pixels_digest(PIXELS)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for images in (
        [PIXELS],
        PIXELS[None],
        [Image.fromarray(PIXELS)],
        [tensor],
        iter([tensor[None]]),
    ):
        assert digest_of(images) == one
    other = PIXELS.copy()
    other[8, 6, 2] ^= 1
    for changed in (other, PIXELS[:, ::-1], PIXELS.swapaxes(0, 1), PIXELS / np.float32(255)):
        assert digest_of([changed]) != one


def test_loading_records_the_digest_of_the_file_as_it_was_before(tmp_path: Path) -> None:
    """Of two contents that a file has meanwhile, the first: the next comparison sees the change."""
    file = tmp_path / "a.png"
    file.write_bytes(b"first")

    def load() -> np.ndarray:
        file.write_bytes(b"second")
        return PIXELS

    digests: dict[str, bytes] = {}
    item = ImageItem("a", load, file).recorded(digests)
    assert digests == {}
    assert item.load() is PIXELS
    assert digests == {"a": hashlib.sha256(b"first").digest()}
    assert item.digest() == hashlib.sha256(b"second").digest()


@pytest.mark.timeout(20)
def test_what_is_not_a_file_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in (
        ("pipe.png", "something that is not a file"),
        (".", "Is a directory|something that is not a file"),
        ("missing.png", "No such file"),
    ):
        with pytest.raises(ImageError, match=reason) as error:
            file_digest(tmp_path / name)
        assert str(tmp_path) in str(error.value)
    with pytest.raises(ImageError, match="something that is not a file"):
        file_digest("/dev/zero")
