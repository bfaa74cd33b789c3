"""Altered files of every kind: refused by an error of ours, or as if nothing had been altered.

Every byte is flipped by four masks, every length is cut, and headers, settings and journals are
forged under the right checksum. Forged ones may also be taken for what they say, and then have to
work. The suite takes a sample; ``make fuzz`` goes on for ``KNNSPECT_FUZZ_SECONDS`` (25) and writes
what happened to ``KNNSPECT_FUZZ_JSON``; ``KNNSPECT_FUZZ_SEED`` repeats a run.
"""

from __future__ import annotations

import copy
import faulthandler
import json
import os
import random
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import journal_of, lines_of, parts_of, signed

import knnspect as ks
from knnspect.bench.machine import machine
from knnspect.model_files.inspect import contents
from knnspect.normal_features.folder import make_folder
from knnspect.training.checkpoint import Checkpoint

SECONDS = float(os.environ.get("KNNSPECT_FUZZ_SECONDS", "25"))
SEED = int(os.environ.get("KNNSPECT_FUZZ_SEED", "0"))
MASKS = (0x01, 0x20, 0x80, 0xFF)
#: Of files with fewer bytes every one is altered.
SMALL = 10_000
#: A case that takes longer has hung: the process is ended, with a traceback.
HANGS = 60
#: More memory than this is never needed, whatever a file says.
MEMORY_LIMIT = 1 << 30

QUERY = ks.FeaturePyramid(
    [np.linspace(0, 1, 48, dtype="f4").reshape(1, 4, 4, 3), np.ones((1, 2, 2, 5), "f4")]
)
PICTURES = np.random.default_rng(5).integers(100, 140, (4, 64, 64, 3)).astype("u1")
SETTINGS = {"seed": 0, "levels": [1, 2], "name": "ä"}


@dataclass(frozen=True)
class Target:
    """A file, and what is done with it: `use` returns the answer that must stay as it is."""

    kind: str
    file: Path
    use: Callable[[], object]
    #: Answers that a file which was cut may have, too: those of before.
    earlier: tuple[object, ...] = ()


def answer(found: ks.Neighbors) -> object:
    return found.sq_distances.tobytes(), found.images.tolist(), found.cells.tobytes()


def use_gallery(path: Path) -> Callable[[], object]:
    def use() -> object:
        gallery = ks.Gallery.open(path)
        return gallery.ids, answer(gallery.search(QUERY, 2)) if len(gallery) else None

    return use


def use_coreset(path: Path) -> Callable[[], object]:
    def use() -> object:
        coreset = ks.Coreset.open(path)
        return coreset.sq_radius, coreset.image_ids, answer(coreset.search(QUERY, 2))

    return use


def use_model(path: Path) -> Callable[[], object]:
    def use() -> object:
        found = ks.load(path).predict(PICTURES[:1])[0]
        list(contents(path, True))
        return found.score, found.map.tobytes()

    return use


def use_checkpoint(path: Path) -> Callable[[], object]:
    def use() -> object:
        state, tensors = Checkpoint(path, SETTINGS).read() or ({}, {})
        return state, {name: array.tobytes() for name, array in tensors.items()}

    return use


def to_write(path: Path) -> Callable[[], object]:
    def use() -> object:
        with ks.Gallery.open(path, "r+") as gallery:
            return gallery.ids

    return use


def small_gallery(**settings: str) -> ks.Gallery:
    gallery = ks.Gallery(**settings)
    rng = np.random.default_rng(1)
    levels = [rng.random((3, 4, 4, 3), "f4"), rng.random((3, 2, 2, 5), "f4")]
    gallery.add(ks.FeaturePyramid(levels), ids=["a", "ä", 'c"\n'])
    return gallery


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    """Files of some kilobytes."""
    base = tmp_path_factory.mktemp("small")
    targets = []
    for dtype in ("float32", "float16", "int8"):
        path = base / dtype
        small_gallery(dtype=dtype).save(path)
        targets.append(Target(f"gallery, {dtype}", path, use_gallery(path)))
    small_gallery().coreset(9).save(base / "coreset")
    targets.append(Target("coreset", base / "coreset", use_coreset(base / "coreset")))
    state = {"history": [{"loss": 1.5}], "n_done": 3}
    Checkpoint(base / "checkpoint", SETTINGS).write(state, {"a.b": np.arange(9.0)})
    path = base / "checkpoint"
    targets.append(Target("checkpoint", path, use_checkpoint(path)))
    (base / "build").mkdir()
    make_folder(base / "build", SETTINGS)
    settings = base / "build" / "settings.json"
    targets.append(Target("settings", settings, lambda: make_folder(base / "build", SETTINGS)))

    folder, earlier = base / "folder", []
    with ks.Gallery.create(folder) as gallery:
        earlier.append(use_gallery(folder)())
        every = small_gallery().pyramid()
        gallery.add(every, ids=["a", "b", "c"])
        earlier.append(use_gallery(folder)())
        gallery.remove(["b"])
        earlier.append(use_gallery(folder)())
        gallery.replace(every[1], ids=["a"])
    use = use_gallery(folder)
    targets.append(Target("folder, journal", folder / "journal", use, tuple(earlier)))
    targets.append(Target("folder, features", folder / "features-00000001", use))
    targets.append(Target("folder, lock", folder / "lock", to_write(folder)))
    return targets


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Target]:
    """A model of each kind: megabytes, for the network's weights."""
    base = tmp_path_factory.mktemp("models")
    backbone = ks.Backbone(levels=(1, 2), image_size=64)
    detectors: dict[str, ks.Detector] = {
        "spade": ks.Spade(backbone, image_neighbors=2),
        "patchcore": ks.PatchCore(backbone, coreset=0.1),
        "simplenet": ks.SimpleNet(backbone, hidden=8, max_epochs=1),
        "cflow": ks.CFlow(backbone, coupling_blocks=1, max_epochs=1),
    }
    for name, detector in detectors.items():
        detector.fit(PICTURES).save(base / name)
    return [Target(f"model, {name}", base / name, use_model(base / name)) for name in detectors]


class Fuzz:
    """Alters files, looks at what happens, and counts."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Counter[str]] = {}
        self._memory = peak_memory()

    def look(self, target: Target, how: str, expected: object, forged: bool = False) -> None:
        """Use the file as it is now."""
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            found = target.use()
        except ks.KnnspectError:
            outcome = "refused"
        except BaseException as error:
            raise AssertionError(f"{self._where(target, how)}: {type(error).__name__}") from error
        else:
            outcome = "as before" if found == expected else "taken for what it says"
            may_differ = forged or (how.startswith("cut") and found in target.earlier)
            assert found == expected or may_differ, self._where(target, how)
        finally:
            faulthandler.cancel_dump_traceback_later()
        grown = peak_memory() - self._memory
        assert grown < MEMORY_LIMIT, f"{self._where(target, how)}: {grown / 1e6:.0f} MB"
        kind = f"{target.kind}: {how.split()[0]}"
        self.outcomes.setdefault(kind, Counter())[outcome] += 1

    def _where(self, target: Target, how: str) -> str:
        kept = target.file.with_name(f"failed-{target.file.name}")
        shutil.copy(target.file, kept)
        return f"{target.kind}, {how} (seed {SEED}; kept as {kept})"


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def flipped(target: Target, at: int, mask: int) -> Iterator[None]:
    """Flip a byte in place, and back."""
    with target.file.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ mask]))
        file.flush()
        yield
        file.seek(at)
        file.write(bytes([byte]))


HOSTILE: list[Any] = [
    *(None, True, [], {}, "", "x", "\ud800", "0", "x" * 5000, [[]], [None], {"a": None}),
    *(-1, 0, 1, 2, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63), 10**400),
    *(0.5, -0.0, 1e-320, 1e308, -1e308, float("inf"), float("nan")),
]


def mutated(value: Any, chance: random.Random) -> Any:
    """Return JSON with one part of it changed; JSON within a str is looked into."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            inner = json.loads(value)
        except ValueError:
            pass
        else:
            if chance.random() < 0.05:
                return chance.choice(["[" * 100_000, value[:-1], value * 2, "NaN", ""])
            return json.dumps(mutated(inner, chance))
    if isinstance(value, (dict, list)) and value and chance.random() < 0.9:
        value = copy.deepcopy(value)
        key = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        how = chance.random()
        if how < 0.1:
            del value[key]
        elif how < 0.15 and isinstance(value, list):
            value.insert(key, value[key])
        elif how < 0.2 and isinstance(value, dict):
            value["other"] = value.pop(key)
        else:
            value[key] = mutated(value[key], chance)
        return value
    if isinstance(value, int) and chance.random() < 0.3:
        return value + chance.choice([-1, 1, 8])
    return copy.deepcopy(chance.choice(HOSTILE))


def forged(good: bytes, target: Target, chance: random.Random) -> tuple[str, bytes]:
    """Return the file with other contents and the right checksum, and how it was made."""
    target.file.write_bytes(good)
    if target.file.name == "journal":
        lines: list[Any] = lines_of(target.file)
        for _ in range(chance.choice([1, 1, 2])):
            how = chance.random()
            at = chance.randrange(len(lines))
            if how < 0.1:
                del lines[at]
            elif how < 0.2:
                lines.insert(at, copy.deepcopy(chance.choice(lines)))
            else:
                lines[at] = mutated(lines[at], chance)
            lines = lines or [None]
        lines = [json.dumps(line).encode() for line in lines]
        if chance.random() < 0.05:
            lines[-1] = b'{"add":' * 50_000
        return "forged journal", journal_of(lines)
    if target.file.name == "settings.json":
        return "forged settings", json.dumps(mutated(SETTINGS, chance)).encode()
    header, tensors = parts_of(target.file)
    how = chance.random()
    if how < 0.15:
        noise = bytearray(tensors)
        for _ in range(chance.choice([1, 4, 100])):
            noise[chance.randrange(len(noise))] = chance.randrange(256)
        return "forged tensors", signed(header, bytes(noise))
    if how < 0.2:
        text = json.dumps(header).encode()
        return "forged length", (
            chance.choice([0, 1, len(text) + 1, 1 << 40, (1 << 64) - 1]).to_bytes(8, "little")
            + text
            + tensors
        )
    metadata = header["__metadata__"]
    if how < 0.8:
        names = [name for name in metadata if name[0] != "f" and name not in ("kind", "checksum")]
        name = chance.choice(names)
        changed = mutated(metadata[name], chance)
        metadata[name] = changed if isinstance(changed, str) else json.dumps(changed)
    else:
        header = mutated(header, chance)
    return "forged header", signed(json.dumps(header).encode(), tensors)


def cases(target: Target, good: bytes, chance: random.Random) -> Iterator[tuple[str, int, int]]:
    """Yield ways to alter a file, for ever; of a small one each flip and each cut once."""
    size, is_small = len(good), len(good) < SMALL
    header = size if is_small else 8 + int.from_bytes(good[:8], "little")

    def anywhere() -> int:
        # The tensors of a model are the same to a checksum.
        return chance.randrange(header if chance.random() < 0.7 else size)

    places = range(size if is_small else 0)
    every = [("flipped byte", at, mask) for at in places for mask in MASKS]
    every += [("cut to", at, 0) for at in places]
    chance.shuffle(every)
    while True:
        if chance.random() < 0.3 or (is_small and not every):
            yield "forged", 0, 0
        elif chance.random() < 0.02:
            yield "longer by", chance.choice([1, 8, 4096]), 0
        elif every:
            yield every.pop()
        elif chance.random() < 0.7:
            yield "flipped byte", anywhere(), chance.choice(MASKS)
        else:
            yield "cut to", anywhere(), 0


def run(fuzz: Fuzz, targets: list[Target], seconds: float, weight: float = 1.0) -> None:
    """Take turns until the time is over."""
    chance = random.Random(SEED)
    good = {target.kind: target.file.read_bytes() for target in targets}
    expected = {target.kind: target.use() for target in targets}
    ways = {target.kind: cases(target, good[target.kind], chance) for target in targets}
    end = time.monotonic() + seconds * weight
    while time.monotonic() < end:
        for target in targets:
            contents_ = good[target.kind]
            how, number, mask = next(ways[target.kind])
            expect = expected[target.kind]
            if how == "flipped byte":
                with flipped(target, number, mask):
                    fuzz.look(target, f"flipped byte {number} by {mask:#x}", expect)
                continue
            if how == "cut to":
                target.file.write_bytes(contents_[:number])
                fuzz.look(target, f"cut to {number}", expect)
            elif how == "longer by":
                target.file.write_bytes(contents_ + bytes(number))
                fuzz.look(target, f"longer by {number}", expect)
            elif target.kind not in ("folder, features", "folder, lock"):
                how, altered = forged(contents_, target, chance)
                target.file.write_bytes(altered)
                fuzz.look(target, how, expect, forged=True)
            target.file.write_bytes(contents_)


@pytest.mark.timeout(120 + 2 * SECONDS)
def test_altered_files_are_refused_or_change_nothing(
    small: list[Target], models: list[Target]
) -> None:
    fuzz = Fuzz()
    start = time.monotonic()
    run(fuzz, small, SECONDS, 0.6)
    run(fuzz, models, SECONDS, 0.4)
    outcomes = {kind: dict(sorted(found.items())) for kind, found in sorted(fuzz.outcomes.items())}
    total = sum(sum(found.values()) for found in outcomes.values())
    sys.stdout.write(f"{total} altered files\n")
    assert {kind.partition(":")[0] for kind in outcomes} == {t.kind for t in small + models}
    if "KNNSPECT_FUZZ_JSON" in os.environ:
        figures = {
            "command": "make fuzz",
            "machine": machine(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "seed": SEED,
            "seconds": round(time.monotonic() - start, 1),
            "altered_files": total,
            "result": "passed",
            "peak_memory_grown_mb": round((peak_memory() - fuzz._memory) / 1e6, 1),
            "outcomes": outcomes,
        }
        Path(os.environ["KNNSPECT_FUZZ_JSON"]).write_text(json.dumps(figures, indent=2) + "\n")
