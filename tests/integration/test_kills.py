"""Processes killed at random moments while they change a gallery: it is as before or after.

``KNNSPECT_KILLS`` says how often (20); ``KNNSPECT_KILLS_JSON`` names a file for what happened to a
gallery in one folder, ``KNNSPECT_KILLS_SHARDED_JSON`` one for a gallery in several.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from marked_images import state_of

from knnspect import Gallery, ShardedGallery

N_KILLS = int(os.environ.get("KNNSPECT_KILLS", "20"))

#: Changes a gallery until it is killed. Before each change it says what will be there after it.
CHANGE_FOR_EVER = """
import json, os, random, sys
import numpy as np
from knnspect import FeaturePyramid, Gallery

folder, saved, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
gallery = Gallery.open(folder, "r+")
chance = random.Random(seed)
state = {id_: float(gallery.pyramid([id_]).levels[0].flat[0]) for id_ in gallery.ids}

def say(what, state):
    sys.stdout.write(json.dumps([what, state]) + "\\n")
    sys.stdout.flush()

def images(values):
    shapes = [(48, 48, 24), (12, 12, 64)]
    return FeaturePyramid(
        [np.stack([np.full(shape, value, "f4") for value in values]) for shape in shapes]
    )

say("ready", state)
while True:
    what = chance.choice(
        ["add", "add", "add", "replace", "remove", "remove", "compact", "save", "move", "move"]
    )
    n = chance.randint(1, 4)
    values = [float(chance.randrange(1 << 20)) for _ in range(n)]
    if what == "add" and len(state) < 30:
        ids = [f"{chance.randrange(1 << 30):09d}" for _ in values]
        after = state | dict(zip(ids, values))
        say(what, after)
        gallery.add(images(values), ids)
    elif what in ("replace", "remove") and len(state) > n:
        ids = chance.sample(sorted(state), n)
        if what == "replace":
            after = state | dict(zip(ids, values))
            say(what, after)
            gallery.replace(images(values), ids)
        else:
            after = {id_: value for id_, value in state.items() if id_ not in ids}
            say(what, after)
            gallery.remove(ids)
    elif what == "compact":
        after = state
        say(what, after)
        gallery.compact()
    elif what == "move" and gallery.path.joinpath("manifest").exists():
        after = state
        names = [shard.name for shard in gallery.shards.shards]
        say("add a shard" if len(names) < 4 else "take a shard away", after)
        gallery.add_shard() if len(names) < 4 else gallery.remove_shard(chance.choice(names))
    elif what == "save" and state:
        after = state
        say(what, after)
        gallery.save(saved)
    else:
        continue
    state = after
    say("done", state)
"""


@pytest.mark.timeout(60 + 10 * N_KILLS)
@pytest.mark.parametrize("n_shards", [0, 3])
def test_every_kill_leaves_the_gallery_as_before_or_after(tmp_path: Path, n_shards: int) -> None:
    folder, saved, log = tmp_path / "gallery", tmp_path / "saved", tmp_path / "log"
    if n_shards:
        ShardedGallery.create(folder, shards=n_shards).close()
    else:
        Gallery.create(folder).close()
    chance = random.Random(4)
    known: dict[str, float] = {}
    saves: list[dict[str, float]] = []
    interrupted: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for kill in range(N_KILLS):
        with log.open("wb") as output:
            command = [sys.executable, "-c", CHANGE_FOR_EVER, folder, saved, str(kill)]
            with subprocess.Popen(list(map(str, command)), stdout=output) as process:
                while not log.stat().st_size and process.poll() is None:
                    time.sleep(0.005)
                time.sleep(chance.uniform(0, 0.5))
                assert process.poll() is None, "it works until it is killed"
                process.kill()
        said: list[Any] = [
            json.loads(line)
            for line in log.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]
        assert said[0] == ["ready", known], "the next one finds what the last one has left"
        before = next(state for what, state in reversed(said) if what in ("done", "ready"))
        last, after = said[-1]
        saves += [state for what, state in said if what == "save"]

        gallery = Gallery.open(folder, verify=True)
        known = state_of(gallery)
        assert known in (before, after), f"kill {kill}, while {last}"
        if last not in ("done", "ready"):
            interrupted[last] += 1
            if before != after:
                outcomes["after" if known == after else "before"] += 1
        if saved.exists():
            assert state_of(Gallery.open(saved)) in saves
        left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".knnspect-")]
        assert len(left) <= 1, "what was left before is removed by the next save"
    with Gallery.open(folder, "r+") as last_one:
        last_one.compact()
        if len(last_one):
            last_one.save(saved)
    assert not list(tmp_path.glob(".knnspect-*"))
    parts = sorted(folder.glob("shard-*")) if n_shards else [folder]
    if isinstance(last_one, ShardedGallery):
        assert parts == sorted(shard.path for shard in last_one.shards.shards)
    for path in parts:
        assert {path.name.split("-")[0] for path in path.iterdir()} <= {
            "journal",
            "features",
            "lock",
        }
    figures = {"kills": N_KILLS, "while": dict(interrupted), "found": dict(outcomes)}
    sys.stdout.write(f"{figures}\n")
    if (name := f"KNNSPECT_KILLS{'_SHARDED' if n_shards else ''}_JSON") in os.environ:
        Path(os.environ[name]).write_text(json.dumps(figures, indent=2) + "\n")
