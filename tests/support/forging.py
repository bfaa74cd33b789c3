"""Files with the right checksum, whatever they say: as somebody could write who means harm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

_PLACE = b'"checksum":"'
_DIGITS = 64


def parts_of(file: Path) -> tuple[dict[str, Any], bytes]:
    """Return the header and the tensors of a file of ours."""
    contents = file.read_bytes()
    n_header = int.from_bytes(contents[:8], "little")
    return json.loads(contents[8 : 8 + n_header]), contents[8 + n_header :]


def signed(header: Mapping[str, Any] | bytes, tensors: bytes) -> bytes:
    """Return a file of a header and tensors, with its checksum if the header has room for it."""
    if not isinstance(header, bytes):
        header = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    start = header.find(_PLACE) + len(_PLACE)
    length = len(header).to_bytes(8, "little")
    if start < len(_PLACE):
        return length + header + tensors
    digits = slice(start, start + _DIGITS)
    blank = header[: digits.start] + b"0" * _DIGITS + header[digits.stop :]
    checksum = blake3(length + blank + tensors).hexdigest().encode()
    return length + header[: digits.start] + checksum + header[digits.stop :] + tensors


def with_entry(file: Path, name: str, value: object) -> bytes:
    """Return a file of ours with another entry in its metadata: a str as it is, others as JSON."""
    header, tensors = parts_of(file)
    header["__metadata__"][name] = value if isinstance(value, str) else json.dumps(value)
    return signed(header, tensors)


def with_changes(file: Path, name: str, changes: Mapping[str, Any]) -> bytes:
    """Return a file of ours in whose entry `name`, which is JSON, some values are others."""
    header, _ = parts_of(file)
    return with_entry(file, name, json.loads(header["__metadata__"][name]) | changes)


def lines_of(journal: Path) -> list[dict[str, Any]]:
    """Return what the lines of a gallery's journal say."""
    lines = journal.read_bytes().splitlines()
    return [json.loads(line.partition(b" ")[2]) for line in lines if line != b"ok"]


def journal_of(lines: list[Any]) -> bytes:
    """Return a gallery's journal of these lines: bytes as they are, others as JSON."""
    journal, chain = b"", bytes(16)
    for line in lines:
        text = line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode()
        chain = blake3(chain + text).digest()[:16]
        journal += chain.hex().encode() + b" " + text + b"\nok\n"
    return journal
