"""The split of the ELPV data set."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from knnspect.data import elpv, elpv_split
from knnspect.errors import ImageError, KnnspectError, ParameterError


def test_sizes_and_no_overlap() -> None:
    split = elpv_split()
    assert [len(files) for files in split] == [200, 60, 60]
    files = [*split.train, *split.functional, *split.defective]
    assert len(set(files)) == 320
    assert all(file.is_file() for file in files)
    for part in split:
        assert part == sorted(part)


def test_labels() -> None:
    split = elpv_split(500, 88, 313)
    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    kinds = {}
    for line in (data / "labels.csv").read_text().splitlines():
        name, probability, kind = line.split()
        kinds[data / name] = (float(probability), kind)
    assert {kinds[file] for file in [*split.train, *split.functional]} == {(0.0, "mono")}
    assert {kinds[file] for file in split.defective} == {(1.0, "mono")}


def test_seeds() -> None:
    assert elpv_split(20, 5, 5) == elpv_split(20, 5, 5, seed=0)
    assert elpv_split(20, 5, 5) != elpv_split(20, 5, 5, seed=1)


def test_images_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    elpv_split(1, 1, 1)
    assert "elpv_dataset" not in sys.modules


def test_too_many() -> None:
    with pytest.raises(ParameterError, match=r"n_train \+ n_functional: .*588 functional.*got 589"):
        elpv_split(500, 89, 0)
    with pytest.raises(ParameterError, match="n_defective: expected at most the 313 defective"):
        elpv_split(1, 1, 314)
    with pytest.raises(ParameterError, match="n_functional: expected at least 0, got -1"):
        elpv_split(1, -1, 1)


def test_package_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elpv, "find_spec", lambda name: None)
    with pytest.raises(KnnspectError, match=r'pip install "knnspect\[demo\]"'):
        elpv_split()


@pytest.mark.parametrize("content", [None, "images/cell0001.png mono"])
def test_damaged_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    package = tmp_path / "elpv_dataset"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    if content is not None:
        (package / "data" / "labels.csv").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    with pytest.raises(ImageError, match=r"labels\.csv: expected lines"):
        elpv_split()
