"""Two versions of knnspect against each other, in one run: are answers the same, and how fast?

OLD and NEW are checkouts with a built extension module in their `python/knnspect`. Each runs in a
process of its own, from the start to the end of the comparison, and the two take turns call by
call; a pause before each turn lets PyTorch's threads come to rest. For each image, the fastest of
`--rounds` calls counts; what is shown is the median over images of new / old, and the quartiles.
Answers (scores, maps, distances, neighbours) are compared to the bit, and said to be the same or
not; a fit is compared by what the detector answers afterwards. `--answers` leaves timing out.

    git worktree add /tmp/old 0786b0b && (cd /tmp/old && cargo build --release -p knnspect-python)
    cp /tmp/old/target/release/lib_core.so /tmp/old/python/knnspect/_core.abi3.so
    python benches/python/versions.py /tmp/old . hazelnut=PATH transistor=PATH
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAUSE = 0.05
RESULTS = Path(__file__).parents[1] / "results"

#: A call: takes the number of an image, and returns the arrays of its answer.
Call = Callable[[int], list[Any]]


class Version:
    """One checkout, in a process that does nothing between its turns."""

    def __init__(self, checkout: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "python")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--work", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, *what: Any) -> tuple[float, str]:
        """Return the seconds that something took, and a digest of the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        seconds, digest = json.loads(self._process.stdout.readline())
        return seconds, digest

    def finish(self) -> None:
        """End the process."""
        self._process.communicate()


# --- What a process does. -------------------------------------------------------------------------


def work(threads: int) -> None:
    """Answer lines: the dataset and the name of a subject, and the number of an image or "fit"."""
    import torch

    torch.set_num_threads(threads)
    calls: dict[tuple[str, str], Callable[[], Call]] = {}
    ready: dict[tuple[str, str], Call] = {}
    for line in sys.stdin:
        folder, subject, what = json.loads(line)
        key = folder, subject
        if key not in calls:
            calls.update({(folder, name): made for name, made in subjects(Path(folder), threads)})
        start = time.perf_counter()
        if what == "fit":
            ready.clear()  # the one before is not needed any more
            ready[key] = calls[key]()
            answer: list[Any] = []
        else:
            answer = ready[key](what)
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, digest_of(answer)]), flush=True)


def digest_of(arrays: list[Any]) -> str:
    """Return a digest of values, shapes and types."""
    import numpy as np

    digest = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def subjects(folder: Path, threads: int) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Yield what is compared: its name, a function that makes it ready and returns its call."""
    import numpy as np

    import knnspect as ks
    from knnspect.data import MVTecDataset, read_image

    images = MVTecDataset(folder)
    test = [image.path for image in images.test]
    train = images.train
    features = [ks.Backbone(device="cpu").extract(paths).pyramid for paths in (train, test)]

    def detector(make: Callable[[ks.Backbone], Any], patch_size: int = 1) -> Callable[[], Call]:
        def fit() -> Call:
            fitted = make(ks.Backbone(patch_size=patch_size, device="cpu")).fit(train)

            def predict(number: int) -> list[Any]:
                (prediction,) = fitted.predict([test[number]], n_workers=0)
                return [np.float64(prediction.score), prediction.map]

            return predict

        return fit

    def searching(make: Callable[[], Any], k: int) -> Callable[[], Call]:
        def fit() -> Call:
            searched = make()

            def search(number: int) -> list[Any]:
                found = searched.search(features[1][number], k, threads=threads)
                ids = np.array(found.image_ids)
                return [found.sq_distances, ids[found.image_index], found.cells.astype(np.int64)]

            return search

        return fit

    def gallery(upsample: str) -> Callable[[], Any]:
        def make() -> Any:
            made = ks.Gallery(upsample)
            made.add(features[0])
            return made

        return make

    yield "block", searching(gallery("block"), 1)
    yield "bilinear", searching(gallery("bilinear"), 1)
    yield "flat", searching(lambda: gallery("block")().coreset(0.1), 9)
    # Settings whose defaults have changed are said here, so that both versions do the same.
    same: dict[str, Any] = {"threads": threads, "score": "image"}
    yield "spade", detector(lambda backbone: ks.Spade(backbone, **same))
    yield "patchcore", detector(lambda backbone: ks.PatchCore(backbone, coreset=0.01, **same), 3)
    yield "cflow", detector(lambda backbone: ks.CFlow(backbone, max_epochs=2, coupling_blocks=4), 3)
    yield "simplenet", detector(lambda backbone: ks.SimpleNet(backbone, max_epochs=2), 3)
    yield "reading", lambda: lambda number: [read_image(test[number])]


# --- The comparison. ------------------------------------------------------------------------------


def compare(
    old: Version, new: Version, folder: str, subject: str, n_images: int, options: Any
) -> dict[str, Any]:
    """Return the ratios and whether answers are the same."""
    fits: list[list[float]] = [[], []]
    for turn in range(options.fits):
        for side in order(turn):
            time.sleep(PAUSE)
            fits[side].append((old, new)[side].ask(folder, subject, "fit")[0])
    digests: list[list[str]] = [[], []]
    fastest = [[float("inf"), float("inf")] for _ in range(n_images)]
    for turn in range(options.rounds):
        for number in range(n_images):
            for side in order(turn + number):
                time.sleep(PAUSE)
                seconds, digest = (old, new)[side].ask(folder, subject, number)
                fastest[number][side] = min(fastest[number][side], seconds)
                if turn == 0:
                    digests[side].append(digest)
    ratios = sorted(after / before for before, after in fastest)
    quarters = statistics.quantiles(ratios, n=4)
    return {
        "same answers": sum(a == b for a, b in zip(*digests, strict=True)),
        "of": n_images,
        "fit ratio": round(min(fits[1]) / min(fits[0]), 4),
        "fit seconds": [round(min(seconds), 4) for seconds in fits],
        "ratio": round(statistics.median(ratios), 4),
        "quartiles": [round(quarters[0], 4), round(quarters[2], 4)],
        "milliseconds": [
            round(1000 * statistics.median(pair[side] for pair in fastest), 3) for side in (0, 1)
        ],
    }


def order(turn: int) -> tuple[int, int]:
    """Return who begins, in turns."""
    return (0, 1) if turn % 2 == 0 else (1, 0)


def main() -> None:
    """Compare, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fits", type=int, default=3)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--subjects", default="reading,block,bilinear,flat,spade,patchcore")
    parser.add_argument("--answers", action="store_true", help="compare answers only")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    options = parser.parse_args()
    if options.answers:
        options.fits = options.rounds = 1
    found: dict[str, Any] = {}
    for entry in options.datasets:
        name, folder = entry.split("=", 1)
        old, new = (Version(path, options.threads) for path in (options.old, options.new))
        for subject in options.subjects.split(","):
            figures = compare(old, new, folder, subject, options.images, options)
            found.setdefault(name, {})[subject] = figures
            same = f"{figures['same answers']} of {figures['of']} the same"
            print(
                f"{name:12} {subject:10} {same:17} fit {figures['fit ratio']:.3f}   "
                f"call {figures['ratio']:.3f} {figures['quartiles']}  "
                f"{figures['milliseconds']} ms",
                flush=True,
            )
        for version in (old, new):
            version.finish()
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(int(sys.argv[2]))
    else:
        main()
