"""Numbers of bytes in words, and the memory of the process."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import pytest

from knnspect.errors import DTypeError, ParameterError
from knnspect.memory import PeakMemory, anonymous_bytes, describe_bytes, parse_bytes


@pytest.mark.parametrize(
    ("words", "n_bytes"),
    [
        (7, 7),
        ("7", 7),
        ("2GB", 2 * 10**9),
        ("2gb", 2 * 10**9),
        (" 1.5 G ", 15 * 10**8),
        ("512MiB", 512 * 2**20),
        ("0.5k", 500),
        ("3TiB", 3 * 2**40),
        ("10 B", 10),
    ],
)
def test_words_become_bytes(words: object, n_bytes: int) -> None:
    assert parse_bytes("max_memory", words) == n_bytes


@pytest.mark.parametrize("words", ["", "GB", "-1GB", "2 XB", "1e9", "two", 0, "0.1", -5, "٣GB"])
def test_other_words_are_refused_by_name(words: object) -> None:
    with pytest.raises(ParameterError, match="max_memory: expected"):
        parse_bytes("max_memory", words)


@pytest.mark.parametrize("value", [None, 1.5, True, [1]])
def test_other_types_are_refused_by_name(value: object) -> None:
    with pytest.raises(DTypeError, match="max_memory: expected"):
        parse_bytes("max_memory", value)


def test_bytes_become_words() -> None:
    assert [describe_bytes(n) for n in (0, 999, 1e3, 25.7e6, 10.3e9, 2e12)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "25.7 MB",
        "10.3 GB",
        "2 TB",
    ]


def test_memory_of_the_process_is_counted_and_that_of_files_is_not(tmp_path: Path) -> None:
    before = anonymous_bytes()
    assert before is not None
    (tmp_path / "file").write_bytes(bytes(80_000_000))
    with (tmp_path / "file").open("rb") as file, PeakMemory() as files:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(mapped[::4096]) == 0
    assert files.peak < before + 40_000_000
    with PeakMemory() as memory:
        # New pages, where a large process may have as much room that was freed before.
        values = mmap.mmap(-1, 80_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        values[::4096] = bytes(len(values[::4096]))
        # Until the watching thread has looked again: in a large process a look takes a while.
        end = time.monotonic() + 10
        while memory.peak < before + 70_000_000 and time.monotonic() < end:
            time.sleep(0.01)
        del values
    assert memory.peak >= before + 70_000_000, "also what is gone again"
