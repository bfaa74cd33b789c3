"""Processes killed at random moments while they correct a model: it is as before or after.

``KNNSPECT_KILLS`` says how often (20); ``KNNSPECT_CORRECTIONS_JSON`` names a file for what
happened.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from knnspect import Backbone, PatchCore, Spade, load
from knnspect.corrections import Correction
from knnspect.data import elpv_split, read_image
from knnspect.detectors.nearest.base import NearestDetector

N_KILLS = int(os.environ.get("KNNSPECT_KILLS", "20"))


def image_of(number: int) -> NDArray[np.uint8]:
    """Return one of many images: the same for the same number."""
    return np.random.default_rng(number).integers(60, 200, (32, 32, 3)).astype(np.uint8)


def correct(detector: NearestDetector, step: list[Any]) -> None:
    """Do a step: its kind, and which images or which number."""
    kind, what = step
    if kind == "add":
        detector.add({f"{number}.png": image_of(number) for number in what})
    elif kind == "remove":
        detector.remove(what)
    elif kind == "rollback":
        detector.rollback(what)
    else:
        image = image_of(what)
        (prediction,) = detector.predict([image])
        id_ = f"{what}.png"
        if kind == "accept":
            detector.accept(prediction, image, id=id_)
        else:
            detector.reject(prediction, "noise", image, id=id_)


def step_of(correction: Correction) -> list[Any]:
    """Return the step that made a correction."""
    kind = correction.kind
    if kind == "rollback":
        return [kind, correction.to]
    if kind == "remove":
        return [kind, list(correction.images)]
    numbers = [int(id_.removesuffix(".png")) for id_ in correction.images]
    return [kind, numbers if kind == "add" else numbers[0]]


def correct_for_ever(folder: Path, seed: int, said: Connection) -> None:
    """Correct the model in a folder until the process is killed; say each step before it."""
    chance = random.Random(seed)
    detector = load(folder, device="cpu")
    assert isinstance(detector, NearestDetector)
    said.send(["ready", None])
    number = 1000 * (seed + 1)
    while True:
        kind = chance.choice(["add", "add", "accept", "accept", "reject", "remove", "rollback"])
        number += 3
        known = detector._stored.images
        step: list[Any] = [kind, number]
        if kind == "add":
            step[1] = list(range(number, number + chance.randint(1, 3)))
        elif kind == "remove":
            if len(known) < 8:
                continue
            step[1] = chance.sample(known, chance.randint(1, 2))
        elif kind == "rollback":
            step[1] = chance.randint(0, len(detector.history_))
        said.send(step)
        correct(detector, step)
        said.send(["done", None])


def state(detector: NearestDetector, probes: list[NDArray[Any]]) -> list[Any]:
    found: list[Any] = [detector.searched_.image_ids]
    for one in detector.predict(probes):
        known = None if one.known_defect is None else one.known_defect.image
        found.append((one.score, one.map.tobytes(), known))
    return found


@pytest.mark.timeout(120 + 10 * N_KILLS)
def test_every_kill_leaves_the_model_as_before_or_after(tmp_path: Path) -> None:
    backbone = Backbone(image_size=32, levels=(1, 2), device="cpu")
    cells = [np.asarray(read_image(file)[::9, ::9]) for file in elpv_split(n_train=8).train]
    folders, twins = [tmp_path / "spade", tmp_path / "coreset"], []
    for folder, made in zip(
        folders, (Spade(backbone), PatchCore(backbone, coreset=40)), strict=True
    ):
        made.fit(cells, folder=folder).save(folder)
        made.save(tmp_path / "twin.ks")
        twin = load(tmp_path / "twin.ks", device="cpu")
        assert isinstance(twin, NearestDetector)
        twins.append(twin)
    probes: list[NDArray[Any]] = [cells[0], image_of(1), image_of(2)]
    chance = random.Random(5)
    interrupted: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    fork = multiprocessing.get_context("fork")
    for kill in range(N_KILLS):
        folder, twin = folders[kill % 2], twins[kill % 2]
        here, there = fork.Pipe(duplex=False)
        process = fork.Process(target=correct_for_ever, args=(folder, kill, there))
        process.start()
        there.close()
        assert here.recv()[0] == "ready"
        time.sleep(chance.uniform(0, 0.4))
        assert process.is_alive(), "it works until it is killed"
        process.kill()
        process.join()
        said = []
        try:
            while True:
                said.append(here.recv())
        except EOFError:
            here.close()
        n_done = sum(kind == "done" for kind, _ in said)
        is_open = bool(said) and said[-1][0] != "done"

        found = load(folder, device="cpu")
        assert isinstance(found, NearestDetector)
        new = found.history_[len(twin.history_) :]
        assert len(new) in ((n_done, n_done + 1) if is_open else (n_done,)), f"kill {kill}"
        if is_open:
            interrupted[said[-1][0]] += 1
            outcomes["after" if len(new) > n_done else "before"] += 1
        for correction in new:
            correct(twin, step_of(correction))
        assert state(found, probes) == state(twin, probes), f"kill {kill}, while {said[-1:]}"
    figures = {"kills": N_KILLS, "while": dict(interrupted), "found": dict(outcomes)}
    sys.stdout.write(f"{figures}\n")
    if "KNNSPECT_CORRECTIONS_JSON" in os.environ:
        file = Path(os.environ["KNNSPECT_CORRECTIONS_JSON"])
        file.write_text(json.dumps(figures, indent=2) + "\n")
