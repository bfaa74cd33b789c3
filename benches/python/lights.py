"""Parts in two lights, of which one hides defects: both as one part against each light alone.

    python benches/python/lights.py hazelnut=PATH transistor=PATH

The light *top* is a picture as it is; *side* is mirrored, darker, of another contrast and noisier.
Where a light hides the defect of a part, it shows the part without it: of painted textures
(`painted.py`) and of solar cells with painted scratches, the picture before it was painted; of
hazelnuts and transistors, the real defect is filled from around it (scikit-image's biharmonic
inpainting), which leaves traces. *one*: the side
light hides all defects. *half*: each light hides those of every other part, so that neither shows
all. Scores of a light alone are those that its detector gives to the same pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import write_result
from numpy.typing import NDArray
from painted import TEXTURES, painted
from PIL import Image

import knnspect as ks
from knnspect.data import MVTecDataset, elpv_split, read_mask
from knnspect.metrics import auroc

Picture = NDArray[np.uint8]
LIGHTS, CASES = ("side", "top"), ("one", "half")
NOISE, GAIN, GAMMA = 3, 0.75, 1.4


@dataclass(frozen=True)
class Parts:
    """Normal parts to learn from, normal ones to judge, and defective ones with and without."""

    train: list[Picture]
    good: list[Picture]
    seen: list[Picture]
    hidden: list[Picture]
    image_size: int


def of_texture(name: str, seed: int) -> Parts:
    found = painted(name, seed)
    good = list(found.good)
    return Parts(list(found.train), good, list(found.middle), good, image_size=128)


def of_cells(seed: int) -> Parts:
    """Solar cells: 60 to learn from, 40 normal ones, and 40 others with a scratch."""
    split = elpv_split(n_train=60, n_functional=80, n_defective=1, seed=seed)
    normal = [picture(path) for path in split.functional]
    rng = np.random.default_rng([seed, 7])
    hidden = normal[40:]
    seen = [scratched(image, rng) for image in hidden]
    return Parts([picture(path) for path in split.train], normal[:40], seen, hidden, 256)


def scratched(image: Picture, rng: np.random.Generator) -> Picture:
    """The image with a dark or bright line, 30 to 60 pixels long and two wide."""
    rows, columns = np.indices(image.shape[:2]) - rng.uniform(50, 206, (2, 1, 1))
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    mask = (np.abs(along) < rng.uniform(15, 30)) & (np.abs(across) < 1)
    changed = image.astype(np.int16)
    changed[mask] += rng.choice([-1, 1]) * 30
    return changed.clip(0, 255).astype(np.uint8)


def of_dataset(root: Path) -> Parts:
    """The last 15 normal images are judged with those of the test set, since these are few."""
    dataset = MVTecDataset(root)
    defective = [image for image in dataset.test if image.mask is not None]
    good = [image.path for image in dataset.test if not image.is_defective]
    seen = [picture(image.path) for image in defective]
    hidden = [filled(one, image.mask) for one, image in zip(seen, defective, strict=True)]
    held = [picture(path) for path in (*dataset.train[-15:], *good)]
    return Parts([picture(path) for path in dataset.train[:-15]], held, seen, hidden, 256)


def picture(path: Path) -> Picture:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))


def filled(image: Picture, mask_file: Path | None) -> Picture:
    from scipy.ndimage import binary_dilation
    from skimage.restoration import inpaint_biharmonic

    assert mask_file is not None
    mask = binary_dilation(read_mask(mask_file, image.shape[:2]), iterations=3)
    found = inpaint_biharmonic(image, mask, channel_axis=2, split_into_regions=True)
    whole: Picture = (255 * found).clip(0, 255).astype(np.uint8)
    return whole


def in_light(image: Picture, light: str, rng: np.random.Generator) -> Picture:
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    if light == "top":
        return rgb
    darker = 255 * GAIN * (rgb[:, ::-1] / 255.0) ** GAMMA + rng.normal(0, NOISE, rgb.shape)
    return darker.clip(0, 255).astype(np.uint8)


def pictures(
    parts: list[tuple[str, Picture, Picture, str]], seed: int
) -> Iterator[tuple[str, Picture]]:
    """Names and pictures of parts: name, with and without defect, and the light that hides it."""
    rng = np.random.default_rng(seed)
    for name, seen, hidden, hidden_in in parts:
        for light in LIGHTS:
            image = hidden if light == hidden_in else seen
            yield f"{name}_{light}.png", in_light(image, light, rng)


def measured(parts: Parts, seed: int) -> dict[str, object]:
    backbone = ks.Backbone(image_size=parts.image_size, patch_size=3)
    lights = ks.Lights(ks.PatchCore(backbone))
    start = time.perf_counter()
    train = [(f"train {n}", image, image, "") for n, image in enumerate(parts.train)]
    lights.fit(dict(pictures(train, seed)))
    hides: dict[str, Callable[[int], str]] = {
        "one": lambda _: "side",
        "half": lambda n: LIGHTS[n % 2],
    }
    found: dict[str, object] = {
        "train": len(parts.train),
        "good": len(parts.good),
        "defective": len(parts.seen),
    }
    for case in CASES:
        good = [(f"good {n}", image, image, "") for n, image in enumerate(parts.good)]
        both = enumerate(zip(parts.seen, parts.hidden, strict=True))
        bad = [(f"bad {n}", seen, hidden, hides[case](n)) for n, (seen, hidden) in both]
        judged = lights.predict(dict(pictures([*good, *bad], seed + 1)))
        truth = [one.id.startswith("bad") for one in judged]
        aurocs = {"both": auroc(truth, [one.score for one in judged])} | {
            light: auroc(truth, [one.views[light].score for one in judged]) for light in LIGHTS
        }
        anomalous = np.array([one.is_anomalous for one in judged])
        found[case] = {
            **{name: round(value, 4) for name, value in aurocs.items()},
            "not_below_the_better": aurocs["both"] >= max(aurocs[light] for light in LIGHTS),
            "false_alarms": int(anomalous[~np.array(truth)].sum()),
            "detections": int(anomalous[truth].sum()),
        }
    calibration = lights.calibration_
    assert calibration is not None
    found["false_alarm_rate"] = round(calibration.rate(None), 4)
    found["seconds"] = round(time.perf_counter() - start, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("datasets", nargs="*", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, object] = {
        "command": "python benches/python/lights.py hazelnut=… transistor=…"
    }
    for name in TEXTURES:
        for seed in range(options.seeds):
            figures[f"{name} {seed}"] = measured(of_texture(name, seed), seed)
            print(name, seed, figures[f"{name} {seed}"], flush=True)
    for seed in range(options.seeds):
        figures[f"cells {seed}"] = measured(of_cells(seed), seed)
        print("cells", seed, figures[f"cells {seed}"], flush=True)
    for entry in options.datasets:
        name, _, path = entry.partition("=")
        figures[name] = measured(of_dataset(Path(path)), 0)
        print(name, figures[name], flush=True)
    write_result("lights", figures)


if __name__ == "__main__":
    main()
