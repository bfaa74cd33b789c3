"""A journal has whole corrections, or says that it is damaged."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from knnspect import StoreError
from knnspect.corrections import Added, Correction, History, Journal


def correction(number: int) -> Correction:
    id_ = f"{number}.png"
    return Correction(number, "add", "now", (id_,), {id_: Added((4, 5), bytes(32))})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "corrections"


@pytest.fixture
def two(file: Path) -> Journal:
    """A journal of two corrections, as it is in the file."""
    journal = Journal("4f0c", ("a", "b"), History())
    for number in (1, 2):
        journal = journal.append(file, correction(number))
    return journal


def test_a_file_holds_what_was_appended(file: Path, two: Journal) -> None:
    again = Journal.read(file)
    assert again is not None
    assert (again.model, again.images, len(again.history)) == ("4f0c", ("a", "b"), 2)
    assert (again.size, again.last, again.checksum) == (two.size, two.last, two.checksum)
    assert file.read_bytes() == again.to_bytes()
    assert len(again.append(file, correction(3)).history) == 3


def test_half_a_line_does_not_count_and_is_written_over(file: Path, two: Journal) -> None:
    whole = file.read_bytes()
    for length in range(two.last + 1, two.size):
        file.write_bytes(whole[:length])
        cut = Journal.read(file)
        assert cut is not None
        assert len(cut.history) == 1
    assert cut is not None
    cut = cut.append(file, correction(2))
    assert file.read_bytes() == whole == cut.to_bytes()


def test_every_altered_byte_is_found(file: Path, two: Journal) -> None:
    whole = file.read_bytes()
    for place in [*range(0, two.size, 5), two.size - 1]:
        altered = bytearray(whole)
        altered[place] ^= 1
        file.write_bytes(altered)
        with pytest.raises(StoreError, match="is damaged: what was corrected cannot be used"):
            Journal.read(file)


def test_lines_that_were_left_out_or_swapped_are_found(file: Path, two: Journal) -> None:
    head, first, second = file.read_bytes().splitlines(keepends=True)
    for lines in ([head, second], [head, second, first], [first, second], [head, first, first]):
        file.write_bytes(b"".join(lines))
        with pytest.raises(StoreError, match="was altered"):
            Journal.read(file)


def test_a_newer_format_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnspect.corrections.journal._FORMAT", 2)
    Journal("", None, History()).begun(file, None)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="newer version"):
        Journal.read(file)


def test_what_another_process_has_appended_is_not_written_over(file: Path, two: Journal) -> None:
    two.append(file, correction(3))
    with pytest.raises(StoreError, match="corrected by another process since it was loaded"):
        two.append(file, correction(3))
    again = Journal.read(file)
    assert again is not None
    assert len(again.history) == 3
    with pytest.raises(StoreError, match="another process"):
        Journal("4f0c", None, History()).append(file, correction(1))


def test_the_journal_of_an_earlier_fit_is_replaced(file: Path, two: Journal) -> None:
    journal = Journal("another", None, History()).append(file, correction(1))
    assert file.read_bytes() == journal.to_bytes()


def test_a_link_is_not_followed(file: Path, two: Journal, tmp_path: Path) -> None:
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        Journal.read(file)
    with pytest.raises(StoreError):
        two.append(file, correction(3))


def test_a_full_disk_leaves_the_journal_as_it_was(file: Path, two: Journal) -> None:
    whole = file.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (two.size + 20, before[1]))
        with pytest.raises(StoreError, match=f"cannot be written: {os.strerror(27)}"):
            two.append(file, correction(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert file.read_bytes() == whole
