"""HADGAN on scenes of mixed spectra with a few implanted pixels, beside global RX.

Four smooth spectra are mixed in 40 x 40 pixels of 30 bands with abundances of a Dirichlet
distribution, lit unevenly, with noise; another spectrum is mixed into 12 pixels by 30 to 60 %. The
scene that is judged is the one that was learnt from, as in the paper. Measured is the pixel AUROC
of the map, of both of its parts, and of RX, for five scenes and two levels of noise.

    OMP_NUM_THREADS=1 python benches/python/spectral_scene.py
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import write_result
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import knnspect as ks


def mixed_scene(
    seed: int, side: int = 40, n_bands: int = 30, n_implants: int = 12, noise: float = 0.01
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a scene and which of its pixels another spectrum is mixed into, by 30 to 60 %.

    Four smooth spectra are mixed with abundances of a Dirichlet distribution, and lit unevenly.
    """
    rng = np.random.default_rng(seed)
    wavelengths = np.linspace(0, 1, n_bands)[:, None]

    def spectrum() -> NDArray[np.float64]:
        middles, widths = rng.random(4), rng.uniform(0.08, 0.3, 4)
        heights = rng.uniform(0.1, 0.5, 4)
        found = np.exp(-(((wavelengths - middles) / widths) ** 2)) @ heights
        return np.asarray(found + 0.1)

    materials = np.stack([spectrum() for _ in range(4)])
    scene = rng.dirichlet(np.ones(4), (side, side)) @ materials
    scene *= rng.uniform(0.9, 1.1, (side, side, 1))
    is_implant = np.zeros((side, side), bool)
    is_implant.flat[rng.choice(side * side, n_implants, replace=False)] = True
    share = rng.uniform(0.3, 0.6, (n_implants, 1))
    scene[is_implant] = (1 - share) * scene[is_implant] + share * spectrum()
    scene += rng.normal(scale=noise, size=scene.shape)
    return scene.astype(np.float32), is_implant


def rx(scene: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared Mahalanobis distance of each spectrum from the mean: global RX."""
    spectra = scene.reshape(-1, scene.shape[-1]).astype(np.float64)
    spectra -= spectra.mean(axis=0)
    inverse = np.linalg.inv(np.cov(spectra.T))
    found: NDArray[np.float64] = (spectra @ inverse * spectra).sum(axis=1)
    return found.reshape(scene.shape[:2])


def measure(seed: int, noise: float) -> dict[str, float]:
    """Return the pixel AUROC of HADGAN, of the parts of its map, and of RX."""
    scene, is_implant = mixed_scene(seed, noise=noise)
    detector = ks.HADGAN(ks.Scenes(device="cpu"), seed=seed)
    detector.fit(scene)
    maps: dict[str, Any] = {"HADGAN": detector.predict(scene)[0].map, "RX": rx(scene)}
    for name, share in (("spatial part", 1.0), ("spectral part", 0.0)):
        detector.spatial_weight = share
        maps[name] = detector.predict(scene)[0].map
    return {n: round(roc_auc_score(is_implant.ravel(), m.ravel()), 4) for n, m in maps.items()}


def main() -> None:
    """Measure all scenes, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=5)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for noise in (0.01, 0.05):
        of_each = [measure(seed, noise) for seed in range(options.scenes)]
        means = {k: round(float(np.mean([one[k] for one in of_each])), 4) for k in of_each[0]}
        found[f"noise {noise}"] = {"mean": means, "scenes": of_each}
        print(noise, means)
    command = f"OMP_NUM_THREADS=1 python benches/python/spectral_scene.py --scenes {options.scenes}"
    write_result("spectral_scene", {"command": command, **found})


if __name__ == "__main__":
    main()
