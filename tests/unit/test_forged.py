"""Files with the right checksum that say nonsense: one error of ours, before anything is done."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import journal_of, lines_of, parts_of, signed, with_changes, with_entry

import knnspect as ks
from knnspect.errors import KnnspectError, ParameterError, StoreError
from knnspect.model_files.inspect import contents
from knnspect.training.checkpoint import Checkpoint

DEEP = "[" * 100_000


def pyramid(n: int = 3, seed: int = 0) -> ks.FeaturePyramid:
    rng = np.random.default_rng(seed)
    return ks.FeaturePyramid([rng.random((n, 4, 4, 3), "f4"), rng.random((n, 2, 2, 5), "f4")])


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    kept = ks.Gallery()
    kept.add(pyramid(), ["a", "b", "c"])
    kept.save(tmp_path / "gallery")
    return tmp_path / "gallery"


@pytest.fixture
def coreset(gallery: Path) -> Path:
    ks.Gallery.open(gallery).coreset(9).save(gallery.with_name("coreset"))
    return gallery.with_name("coreset")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with ks.Gallery.create(tmp_path / "folder") as kept:
        kept.add(pyramid(), ["a", "b", "c"])
        kept.remove(["b"])
    return tmp_path / "folder"


def test_signing_again_changes_nothing(gallery: Path, coreset: Path, folder: Path) -> None:
    """Otherwise these tests would only see checksums that are wrong."""
    for file in (gallery, coreset):
        assert signed(*parts_of(file)) != b""
        file.write_bytes(signed(*parts_of(file)))
    (folder / "journal").write_bytes(journal_of(lines_of(folder / "journal")))
    assert ks.Gallery.open(gallery).ids == ["a", "b", "c"]
    assert len(ks.Coreset.open(coreset)) == 9
    assert ks.Gallery.open(folder, verify=True).ids == ["a", "c"]


BAD_CORESETS: dict[str, dict[str, Any]] = {
    "no ids": {"image_ids": []},
    "ids that are one str": {"image_ids": "abc"},
    "ids that are numbers": {"image_ids": [1, 2, 3]},
    "an id that is not Unicode": {"image_ids": ["a", "b", "c\udc80"]},
    "an id twice": {"image_ids": ["a", "b", "b"]},
    "ids out of order": {"image_ids": ["b", "a", "c"]},
    "no shapes": {"shapes": None},
    "shapes of two numbers": {"shapes": [[4, 4], [2, 2]]},
    "shapes of words": {"shapes": [["4", 4, 3], [2, 2, 5]]},
    "negative shapes": {"shapes": [[-4, -4, 3], [2, 2, 5]]},
    "shapes without room for the cells": {"shapes": [[1, 1, 3], [1, 1, 5]]},
    "other channels": {"shapes": [[4, 4, 3], [2, 2, 6]]},
    "huge channels": {"shapes": [[4, 4, 1 << 70], [2, 2, 5]]},
    "a radius in words": {"sq_radius": "x"},
    "a negative radius": {"sq_radius": -1},
    "an endless radius": {"sq_radius": float("inf")},
    "no upsampling": {"upsample": None},
    "another upsampling": {"upsample": "nearest"},
    "a list for upsampling": {"upsample": ["bilinear"]},
}


@pytest.mark.parametrize("kind", BAD_CORESETS)
def test_a_coreset_of_nonsense_is_refused(kind: str, coreset: Path) -> None:
    coreset.write_bytes(with_changes(coreset, "coreset", BAD_CORESETS[kind]))
    with pytest.raises(StoreError, match="coreset: is damaged: its coreset cannot be used"):
        ks.Coreset.open(coreset)
    with pytest.raises(StoreError, match="coreset: is damaged"):
        list(contents(coreset, verify=False))


BAD_JSON = {"deep": DEEP, "no object": "[1, 2]", "a number": "7", "nothing": "", "a key twice": ""}
BAD_JSON["a key twice"] = '{"upsample": "block", "upsample": "bilinear"}'


@pytest.mark.parametrize("kind", BAD_JSON)
def test_entries_that_are_no_json_of_ours_are_refused(
    kind: str, gallery: Path, coreset: Path
) -> None:
    coreset.write_bytes(with_entry(coreset, "coreset", BAD_JSON[kind]))
    with pytest.raises(StoreError, match="coreset: is damaged: its coreset cannot be"):
        ks.Coreset.open(coreset)
    gallery.write_bytes(with_entry(gallery, "gallery.ids", BAD_JSON[kind]))
    with pytest.raises(StoreError, match="gallery: is damaged: the ids of its gallery"):
        ks.Gallery.open(gallery)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_a_coreset_whose_places_are_no_whole_numbers_is_refused(coreset: Path, dtype: str) -> None:
    kept = ks.Coreset.open(coreset)
    metadata, tensors = kept.state()
    changed: dict[str, Any] = dict(tensors)
    changed["coreset.cells"] = kept.cells.astype(dtype)
    if dtype == "int32":  # which no writer of ours has
        changed["coreset.cells"] = kept.cells.astype("f2")
    kept.bank.core.save(coreset, "coreset", metadata, changed)
    with pytest.raises(StoreError, match="do not fit each other"):
        ks.Coreset.open(coreset)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_not_finite_are_found_before_they_are_used(
    tmp_path: Path, dtype: str, value: float
) -> None:
    path = tmp_path / "file"
    kept = ks.Gallery(dtype=dtype)
    kept.add(pyramid(), ["a", "b", "c"])
    kept.save(path)
    header, tensors = parts_of(path)
    # In the last image of the last level.
    bad = tensors[: -np.dtype(dtype).itemsize] + np.array(value, dtype).tobytes()
    path.write_bytes(signed(header, bad))
    opened = ks.Gallery.open(path)
    uses: list[Callable[[], object]] = [
        lambda: opened.search(pyramid(1)),
        lambda: opened.search(pyramid(1), images=["a", "c"]),
        lambda: opened.coreset(3),
        lambda: opened.pyramid(["c"]),
        lambda: opened.save(tmp_path / "again"),
        lambda: opened.search(pyramid(1), backend="sklearn"),
    ]
    for use in uses:
        with pytest.raises(StoreError, match='file: image "c" is damaged: its features are not'):
            use()
    assert opened.search(pyramid(1), images=["a", "b"]).k == 1, "the others can be used"


def test_features_in_a_folder_that_are_not_finite_are_found_before_they_are_used(
    folder: Path,
) -> None:
    from blake3 import blake3

    segment = folder / "features-00000001"
    features = bytearray(segment.read_bytes())
    n_bytes = len(features) // 3
    features[:4] = np.float32(np.nan).tobytes()
    segment.write_bytes(features)
    lines = lines_of(folder / "journal")
    checksum = blake3(bytes(features[:n_bytes])).hexdigest()[:32]
    lines[1]["add"][0]["checksums"][0] = checksum
    (folder / "journal").write_bytes(journal_of(lines))
    with pytest.raises(StoreError, match='folder: image "a" is damaged: its features are not'):
        ks.Gallery.open(folder).search(pyramid(1))
    with pytest.raises(StoreError, match='image "a" is damaged'):
        ks.Gallery.open(folder, verify=True)


def test_a_gallery_without_images_is_refused(gallery: Path) -> None:
    header, _ = parts_of(gallery)
    header["__metadata__"]["gallery.ids"] = "[]"
    for level in (header["gallery.level0"], header["gallery.level1"]):
        level["shape"][0], level["data_offsets"] = 0, [0, 0]
    gallery.write_bytes(signed(header, b""))
    with pytest.raises(StoreError, match="its gallery has no images"):
        ks.Gallery.open(gallery)


HUGE = 1 << 62


def change(lines: list[Any], at: int, **entries: Any) -> list[Any]:
    lines = copy.deepcopy(lines)
    lines[at] |= entries
    return lines


BAD_JOURNALS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "deep JSON": lambda lines: [lines[0], b'{"add":' + b"[" * 100_000],
    "deep JSON at first": lambda lines: [DEEP.encode(), *lines],
    "no object": lambda lines: [*lines, 7],
    "no header": lambda lines: lines[1:],
    "an image twice": lambda lines: [*lines, lines[1]],
    "removed twice": lambda lines: [*lines, lines[2]],
    "another shape between": lambda lines: [*lines, {"shape": [[2, 2, 3]]}],
    "no shape": lambda lines: [lines[0], {"add": lines[1]["add"]}],
    "a huge shape": lambda lines: change(lines, 1, shape=[[HUGE, HUGE, HUGE]]),
    "levels too large together": lambda lines: change(lines, 1, shape=[[1, 1, HUGE // 8]] * 40),
    "a larger shape": lambda lines: change(lines, 1, shape=[[4, 4, 1 << 40], [2, 2, 5]]),
    "a negative shape": lambda lines: change(lines, 1, shape=[[-4, 4, 3]]),
    "a shape of nothing": lambda lines: change(lines, 1, shape=[[0, 0, 0]]),
    "no levels": lambda lines: change(lines, 1, shape=[]),
    "a segment of no images": lambda lines: [
        *lines,
        {"add": [{"segment": 9, "first": 0, "ids": [], "checksums": []}]},
    ],
    "another dtype": lambda lines: change(lines, 0, dtype="float64"),
    "another upsampling": lambda lines: change(lines, 0, upsample=""),
    "a negative segment": lambda lines: change(lines, 0, next_segment=-1),
}


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("kind", BAD_JOURNALS)
def test_a_journal_of_nonsense_is_refused(kind: str, mode: str, folder: Path) -> None:
    journal = folder / "journal"
    journal.write_bytes(journal_of(BAD_JOURNALS[kind](lines_of(journal))))
    before = journal.read_bytes()
    with pytest.raises(StoreError, match=r"folder: is (damaged|not a gallery)"):
        ks.Gallery.open(folder, mode)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("next_segment", [(1 << 32) - 1, (1 << 32) - 2])
def test_where_no_segments_are_left_nothing_is_overwritten(folder: Path, next_segment: int) -> None:
    lines = lines_of(folder / "journal")
    (folder / "journal").write_bytes(journal_of(change(lines, 0, next_segment=next_segment)))
    before = ks.Gallery.open(folder).pyramid().levels[0].tobytes()
    with ks.Gallery.open(folder, "r+") as opened:

        def change_again_and_again() -> None:
            for _ in range(3):
                opened.compact()
                opened.remove(["c"])
                opened.add(pyramid()[:1], ["c"])

        with pytest.raises(StoreError, match="no numbers left"):
            change_again_and_again()
        assert "a" in opened
    again = ks.Gallery.open(folder, verify=True)
    assert again.pyramid(["a"]).levels[0].tobytes() == before[: len(before) // 2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_journal_with_endless_zeros_takes_little_memory(folder: Path) -> None:
    with (folder / "journal").open("r+b") as file:
        file.truncate(1 << 30)  # without taking room
    code = (
        "import sys, knnspect as ks\n"
        "gallery = ks.Gallery.open(sys.argv[1])\n"
        "assert gallery.ids == ['a', 'c']\n"
        "status = open('/proc/self/status').read()\n"  # getrusage would count its parent's
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 300_000, "kilobytes"


BAD_CHECKPOINTS: dict[str, tuple[str, object]] = {
    "deep settings": ("settings", DEEP),
    "deep state": ("state", DEEP),
    "settings of another type": ("settings", [1]),
    "images of another type": ("images", "x"),
    "a key twice": ("settings", '{"seed": 0, "seed": 0}'),
    "no JSON": ("state", "x"),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_a_checkpoint_of_nonsense_is_refused(kind: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", {"seed": 0})
    checkpoint.write({"epoch": 1}, {"a": np.ones(2)})
    (tmp_path / "c").write_bytes(with_entry(tmp_path / "c", *BAD_CHECKPOINTS[kind]))
    with pytest.raises(StoreError, match="c: is damaged"):
        checkpoint.read()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = np.random.default_rng(5).integers(100, 140, (2, 64, 64, 3)).astype("u1")
    path = tmp_path_factory.mktemp("model") / "model.ks"
    ks.Spade(ks.Backbone(levels=(1, 2), image_size=64), image_neighbors=1).fit(pictures).save(path)
    return path


BAD_MODELS: dict[str, dict[str, Any]] = {
    "a map of words": {"normal_map_max": "x"},
    "an endless map": {"normal_map_max": float("inf")},
    "a list of neighbours": {"image_neighbors": [1]},
    "endless neighbours": {"image_neighbors": float("inf")},
    "no score": {"score": None},
    "no backbone": {"backbone": None},
    "a deep setting": {"other": json.loads("[" * 300 + "]" * 300)},
    "numbers of many digits": {"sigma": -(10**400)},
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_model_of_nonsense_is_refused(kind: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.ks"
    path.write_bytes(with_changes(model, "config", BAD_MODELS[kind]))
    with pytest.raises(StoreError, match=r"bad\.ks: is damaged: "):
        ks.load(path)


def test_pooled_features_of_another_shape_are_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.ks"
    header, tensors = parts_of(model)
    pooled = header["pooled"]
    for shape in ([pooled["shape"][1], pooled["shape"][0]], [*pooled["shape"], 1], [640]):
        path.write_bytes(signed(header | {"pooled": pooled | {"shape": shape}}, tensors))
        with pytest.raises(StoreError, match=r"bad\.ks: is damaged"):
            ks.load(path)


def test_info_says_one_line_of_a_file_of_nonsense(coreset: Path, model: Path) -> None:
    cases = [
        with_changes(coreset, "coreset", {"shapes": None}),
        with_entry(coreset, "coreset", DEEP),
        with_entry(model, "config", "[]"),
        with_changes(model, "config", {"history": []}),
        with_changes(model, "config", {"history": [{"loss": "x"}]}),
    ]
    code = "import sys; from knnspect.cli import main; main()"
    for case in cases:
        coreset.write_bytes(case)
        done = subprocess.run(
            [sys.executable, "-c", code, "info", str(coreset)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 1, done
        assert done.stderr.startswith(f"knnspect: {coreset}: is damaged: "), done.stderr
        assert done.stderr.count("\n") == 1
        assert done.stdout == ""


def test_ids_of_any_length_and_kind_of_text_can_be_used(tmp_path: Path) -> None:
    ids = ["", "\0", "x" * 1_000_000, "\u2028\n", "ok\n"]
    with ks.Gallery.create(tmp_path / "g") as kept:
        kept.add(ks.FeaturePyramid([np.zeros((5, 2, 2, 1), "f4")]), ids)
        kept.remove([""])
    opened = ks.Gallery.open(tmp_path / "g", verify=True)
    assert opened.ids == sorted(ids[1:])
    opened.save(tmp_path / "file")
    assert ks.Gallery.open(tmp_path / "file").ids == opened.ids


def test_an_id_that_is_not_unicode_is_one_error(gallery: Path) -> None:
    opened = ks.Gallery.open(gallery)
    for id_ in ("\udc80", "a\ud800"):
        assert id_ not in opened
        uses: list[Callable[[list[str]], object]] = [
            lambda ids: opened.add(pyramid(1), ids),
            lambda ids: opened.replace(pyramid(1), ids),
            opened.remove,
            opened.pyramid,
            lambda ids: opened.search(pyramid(1), images=ids),
            opened.coreset(3).remove,
        ]
        for use in uses:
            with pytest.raises(ParameterError, match="valid Unicode") as error:
                use([id_])
            assert isinstance(error.value, KnnspectError)
