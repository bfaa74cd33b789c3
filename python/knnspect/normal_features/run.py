"""How a fit is to be done: what its caller asked for, and the time that it takes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from knnspect.calibration.blocks import Blocks
from knnspect.cluster import OnCluster
from knnspect.data.loading import OnBad
from knnspect.progress import Stopwatch
from knnspect.views import Variants

__all__ = ["Run"]


@dataclass
class Run:
    """What `Detector.fit` was asked for; the parameters are described there."""

    batch_size: int = 16
    n_workers: int = 2
    skip_bad: bool | OnBad = False
    progress: bool = False
    max_memory: int | str | None = None
    folder: str | os.PathLike[str] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    #: Whether the checkpoint may be a symbolic link.
    follow_links: bool = True
    #: Receives the time of each stage.
    watch: Stopwatch = field(default_factory=Stopwatch)
    #: Whether images that were learnt from calibrate, as no others were given for it.
    calibrates: bool = True
    #: Which images belong together; see `Detector.fit`.
    blocks: Blocks = None
    #: Of how many images thumbnails are kept.
    n_thumbnails: int = 0
    #: In which variants images are learnt; None: each as it is.
    variants: Variants | None = None
    #: The cluster that helps, by its address; None: this process alone.
    cluster: str | None = None
    #: How that cluster extracts the features; None: this process does.
    on_cluster: OnCluster | None = None

    def of_reading(self) -> dict[str, Any]:
        """Return what `Backbone.iterate` is told of it, but for the size of batches."""
        return {
            "n_workers": self.n_workers,
            "skip_bad": self.skip_bad,
            "progress": self.progress,
            "stopwatch": self.watch,
            "views": self.variants,
        }
