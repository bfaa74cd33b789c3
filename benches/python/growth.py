"""How the time of a search grows: with the gallery, with k, with threads; and where nothing prunes.

Solar cells, EfficientNet-Lite0, levels 1-3, 224 px; median over query images of the median of a few
runs. Random features are compared with the exhaustive matcher, in turns.

    python benches/python/growth.py
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import assert_same, features_of, ratios, timed, write_result

import knnspect as ks
from knnspect.backends import RustBackend


def median_ms(gallery: ks.Gallery, query: ks.FeaturePyramid, repeats: int, **options: Any) -> float:
    """Return the median time of a search over query images, in milliseconds."""
    medians = []
    for image in range(query.n_images):
        one = query[image]
        search = lambda one=one: gallery.search(one, **options)  # noqa: E731
        medians.append(np.median([timed(search)[0] for _ in range(repeats)]))
    return round(1000 * float(np.median(medians)), 2)


def where_nothing_prunes(repeats: int, threads: int) -> dict[str, Any]:
    """Compare with the exhaustive matcher on random features, 50 images and a flat bank of 5."""
    rng = np.random.default_rng(0)
    shapes = {
        "pyramids": (50, [(56, 56, 24), (28, 28, 40), (14, 14, 112)]),
        "one level": (5, [(56, 56, 176)]),
    }
    figures = {}
    for name, (n_images, levels) in shapes.items():

        def noise(n: int, levels: list[tuple[int, int, int]] = levels) -> ks.FeaturePyramid:
            return ks.FeaturePyramid(
                [rng.standard_normal((n, *level), dtype=np.float32) for level in levels]
            )

        gallery = ks.Gallery()
        gallery.add(noise(n_images))
        seconds: dict[str, list[float]] = {"exhaustive": [], "auto": []}
        for _ in range(3):
            query = noise(1)
            times: dict[str, list[float]] = {matcher: [] for matcher in seconds}
            found = {}
            for _ in range(repeats):
                for matcher in seconds:
                    backend = RustBackend(matcher=matcher)
                    taken, found[matcher] = timed(
                        lambda g=gallery, q=query, b=backend: g.search(  # type: ignore[misc]
                            q, threads=threads, backend=b
                        )
                    )
                    times[matcher].append(taken)
            assert_same(found["exhaustive"], found["auto"])
            for matcher in seconds:
                seconds[matcher].append(float(np.median(times[matcher])))
        figures[name] = ratios(seconds["exhaustive"], seconds["auto"])
        print(f"random features, {name}: {figures[name]} of the exhaustive matcher's speed")
    return figures


def main() -> None:
    """Measure, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    threads, repeats = options.threads, options.repeats
    random = where_nothing_prunes(repeats, threads)
    train, test = features_of(None, 6, n_train=400)
    query, figures = test.pyramid, []
    for upsample in ("bilinear", "block"):
        gallery = ks.Gallery(upsample=upsample)
        ids = gallery.add(train.pyramid)
        changes: list[dict[str, Any]] = [
            *({"images": n} for n in (10, 20, 50, 100, 200, 400)),
            *({"k": k} for k in (2, 5, 10, 20, 50)),
            {"threads": 1},
        ]
        for change in changes:
            case = {"images": 50, "k": 1, "threads": threads, **change}
            chosen = {**case, "images": ids[: case["images"]]}
            time = median_ms(gallery, query, repeats, **chosen)
            figures.append({"upsample": upsample, **case, "median_ms": time})
            print(upsample, case, f"{time} ms", flush=True)
    write_result("growth", {"random_features": random, "searches": figures})


if __name__ == "__main__":
    main()
