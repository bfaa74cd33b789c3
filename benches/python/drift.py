"""How soon a light that fades is noticed on solar cells, and how often an alarm is false.

The functional monocrystalline cells of the ELPV data set: PatchCore learns 100 of them, in several
splits; all others are judged in a random order, the brightness of those after the first 300 lowered
by 10, 20 or 30 % (the pixels of the files multiplied and rounded). Scores are monitored with three
kinds of calibration: those that the model left out one by one (which are not like those of new
images: what becomes of the promise then), 100 cells held out from the others, and none; and each of
the quantities that ``knnspect watch`` watches, which are compared with one another alone, and all
of them together, as it does. The delay is the number of darker images up to
the alarm. Runs without a change are the same orders with the brightness as it is.

Each image of each brightness is judged once by each model; runs draw from what was found.

    python benches/python/drift.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import write_result
from numpy.typing import NDArray

import knnspect as ks
from knnspect.calibration import QUANTITIES, DriftWatch, quantities
from knnspect.data import read_image
from knnspect.data.elpv import _labelled
from knnspect.progress import Stopwatch

N_LEARNT, N_HELD_OUT, N_BEFORE = 100, 100, 300
LIGHTS = (1.0, 0.9, 0.8, 0.7)
#: The values of a split: by brightness and quantity one for each image that was not learnt from.
Found = dict[float, dict[str, NDArray[np.float64]]]


def darker(picture: NDArray[Any], light: float) -> NDArray[np.uint8]:
    return np.rint(picture * light).astype(np.uint8)


def judged(
    files: Sequence[Path], splits: Sequence[NDArray[np.intp]], detectors: Sequence[ks.PatchCore]
) -> list[Found]:
    """Judge all cells of all brightnesses that a split did not learn; NaN for the others."""
    found: list[Found] = [{} for _ in splits]
    for light in LIGHTS:
        for each in found:
            each[light] = {name: np.full(len(files), np.nan) for name in QUANTITIES}
        for begin in range(0, len(files), 16):
            places = range(begin, min(begin + 16, len(files)))
            pictures = [darker(read_image(files[place]), light) for place in places]
            features = list(detectors[0].backbone.iterate(pictures, batch_size=16))
            for learnt, detector, each in zip(splits, detectors, found, strict=True):
                predictions = detector._iter_predict(iter(features), Stopwatch())
                for place, picture, prediction in zip(places, pictures, predictions, strict=True):
                    if place not in learnt:
                        values = quantities(prediction.score, prediction.map, picture)
                        for name, value in values.items():
                            each[light][name][place] = value
        print(f"judged at {light:g}", flush=True)
    return found


class Run(NamedTuple):
    """What a monitor said of a run."""

    alarm: ks.DriftAlarm | None
    log_evidence: float  # an alarm at a probability takes the logarithm of its inverse
    n_images: int


def monitored(
    probability: float, calibration: NDArray[np.float64], values: NDArray[np.float64], seed: int
) -> Run:
    monitor = ks.DriftMonitor(calibration, false_alarm_probability=probability, seed=seed)
    monitor.update_all(values)
    return Run(monitor.alarm, monitor.max_log_martingale, len(values))


def watched(
    probability: float,
    calibration: NDArray[np.float64],
    values: dict[str, NDArray[np.float64]],
    seed: int,
) -> Run:
    """Return the first alarm of all quantities."""
    watch = DriftWatch(
        dict.fromkeys(QUANTITIES, ()) | {"score": calibration},
        false_alarm_probability=probability,
        seed=seed,
    )
    first = None
    for row in zip(*(values[name].tolist() for name in QUANTITIES), strict=True):
        raised = watch.update(dict(zip(QUANTITIES, row, strict=True)))
        first = first or next(iter(raised.values()), None)
    most = max(monitor.max_log_martingale for monitor in watch.monitors.values())
    return Run(first, most - math.log(len(QUANTITIES)), watch.n)


def seen(each: Found, light: float, places: NDArray[np.intp]) -> dict[str, NDArray[np.float64]]:
    """Return the values of cells in an order of which the later ones have another light."""
    before, after = places[:N_BEFORE], places[N_BEFORE:]
    return {
        name: np.concatenate([each[1.0][name][before], each[light][name][after]])
        for name in QUANTITIES
    }


def runs(
    found: list[Found],
    detectors: Sequence[ks.PatchCore],
    light: float,
    probability: float,
    n_orders: int,
) -> dict[str, list[Run]]:
    """Return some runs of each split, by what is monitored."""
    made: dict[str, list[Run]] = {}
    none = np.empty(0)
    for split, (each, detector) in enumerate(zip(found, detectors, strict=True)):
        assert detector.calibration_ is not None
        blocks = detector.calibration_.blocks  # of which near-duplicates share one
        left_out = detector.calibration_.scores[np.unique(blocks, return_index=True)[1]]
        others = np.flatnonzero(~np.isnan(each[1.0]["score"]))
        for order in range(n_orders):
            seed = split * n_orders + order
            drawn = np.random.default_rng([1, seed]).permutation(others)
            all_, rest = seen(each, light, drawn), seen(each, light, drawn[N_HELD_OUT:])
            held_out = each[1.0]["score"][drawn[:N_HELD_OUT]]
            of_one = {
                "score, leave one out": monitored(probability, left_out, all_["score"], seed),
                "score, held out": monitored(probability, held_out, rest["score"], seed),
                "all as in watch": watched(probability, none, all_, seed),
                "all as in watch, held out": watched(probability, held_out, rest, seed),
            }
            for name in QUANTITIES:
                run = monitored(probability, none, all_[name], seed)
                of_one[f"{name}, no calibration"] = run
            for name, run in of_one.items():
                made.setdefault(name, []).append(run)
    return made


def delays(made: list[Run]) -> dict[str, Any]:
    """Return how soon a change was noticed, in images."""
    alarms = [run.alarm for run in made if run.alarm is not None]
    found = [alarm for alarm in alarms if alarm.at >= N_BEFORE]
    delay = [alarm.at - N_BEFORE + 1 for alarm in found]
    off = [abs(alarm.since - N_BEFORE) for alarm in found]
    return {
        "runs": len(made),
        "darker_images": made[0].n_images - N_BEFORE,
        "false_alarms": len(alarms) - len(found),
        "noticed": len(found),
        "delay_median": float(np.median(delay)) if found else None,
        "delay_least_and_most": [min(delay), max(delay)] if found else None,
        "since_is_off_by_median": float(np.median(off)) if found else None,
    }


def false_alarms(made: list[Run]) -> dict[str, Any]:
    """Return how many runs without a change have an alarm at some probabilities."""
    return {
        "runs": len(made),
        "images": made[0].n_images,
        **{
            f"alarms_at_{probability:g}": sum(
                run.log_evidence >= -math.log(probability) for run in made
            )
            for probability in (0.01, 0.05)
        },
    }


def left_out_above_new(found: list[Found], detectors: Sequence[ks.PatchCore]) -> list[float]:
    """Return for each split how likely a leave-one-out score exceeds that of a new cell."""
    shares = []
    for each, detector in zip(found, detectors, strict=True):
        assert detector.calibration_ is not None
        new = each[1.0]["score"][~np.isnan(each[1.0]["score"])]
        shares.append(round(float((detector.calibration_.scores[:, None] > new).mean()), 3))
    return shares


def figures_of(
    found: list[Found], detectors: Sequence[ks.PatchCore], options: argparse.Namespace
) -> dict[str, Any]:
    """Return all figures, by the brightness and by what is monitored."""
    lowered = {
        f"{light:g}": runs(found, detectors, light, options.probability, options.orders)
        for light in LIGHTS[1:]
    }
    unchanged = {
        f"{n} runs": runs(found, detectors, 1.0, options.probability, n // len(found))
        for n in (options.orders * len(found), options.many * len(found))
    }
    return {
        "left_out_above_new": left_out_above_new(found, detectors),
        "lowered_to": {
            light: {name: delays(each) for name, each in made.items()}
            for light, made in lowered.items()
        },
        "without_a_change": {
            words: {name: false_alarms(each) for name, each in made.items()}
            for words, made in unchanged.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--orders", type=int, default=10, help="runs of each split with a change")
    parser.add_argument("--many", type=int, default=50, help="runs of each split without one")
    parser.add_argument("--probability", type=float, default=0.01)
    parser.add_argument("--try-out", action="store_true", help="write no results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(_labelled()[0])
    splits, detectors = [], []
    for split in range(options.splits):
        drawn = np.random.default_rng([0, split]).permutation(len(files))[:N_LEARNT]
        splits.append(drawn)
        detectors.append(ks.PatchCore(ks.Backbone(patch_size=3, device="cpu"), threads=1))
        detectors[-1].fit([files[place] for place in drawn])
        print(f"split {split} learnt: {detectors[-1].calibration_}", flush=True)
    found = judged(files, splits, detectors)
    figures: dict[str, Any] = {
        "command": "python benches/python/drift.py",
        "method": "patchcore",
        "cells": len(files),
        "learnt": N_LEARNT,
        "splits": options.splits,
        "false_alarm_probability": options.probability,
        **figures_of(found, detectors, options),
    }
    for part in ("lowered_to", "without_a_change"):
        for words, each in figures[part].items():
            for name, values in each.items():
                print(f"{part} {words:10} {name:26} {values}")
    if not options.try_out:
        write_result("drift", figures)


if __name__ == "__main__":
    main()
