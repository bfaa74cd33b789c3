"""How long calibration by 200 normal images left out one by one takes, on solar cells.

python benches/python/leave_one_out.py
"""

from __future__ import annotations

import warnings

from common import write_result

import knnspect as ks
from knnspect.data import elpv_split


def main() -> None:
    """Fit, and keep the seconds of each stage: "gallery" is the calibration."""
    warnings.simplefilter("ignore")
    normal = elpv_split(n_train=200, n_functional=1, n_defective=0).train
    figures = {}
    for name, detector in (
        ("spade", ks.Spade()),
        ("patchcore", ks.PatchCore()),
        ("patchcore, coreset=.1", ks.PatchCore(coreset=0.1)),
    ):
        detector.fit(normal)
        figures[name] = {stage: round(value, 1) for stage, value in detector.seconds_.items()}
        print(name, figures[name], flush=True)
    write_result("leave_one_out", {"images": len(normal), "seconds": figures})


if __name__ == "__main__":
    main()
