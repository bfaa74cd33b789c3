"""What learning into a folder will take: memory and disk."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knnspect.data.decoded import ImageArray
from knnspect.data.sources import ImageSource
from knnspect.errors import ImageError, ParameterError, StoreError
from knnspect.features import Extractor
from knnspect.gallery import Gallery
from knnspect.memory import PeakMemory, anonymous_bytes, describe_bytes
from knnspect.normal_features.pending import Pending
from knnspect.normal_features.run import Run
from knnspect.normal_features.thumbnails import THUMBNAIL_BYTES

__all__ = ["Plan", "check_room", "plan_build", "warn_of_variants"]


@dataclass(frozen=True)
class Plan:
    """What a build will take; the number of images is None where only reading them tells.

    `image_bytes` are those of all variants of an image.
    """

    n_images: int | None
    n_known: int
    n_changed: int
    batch_size: int
    n_workers: int
    memory: int
    image_bytes: int
    n_variants: int = 1

    @property
    def in_variants(self) -> str:
        """What messages say of variants, if there are several."""
        return f" in {self.n_variants} variants each" if self.n_variants > 1 else ""

    def describe(self, limit: int | None) -> str:
        """Say it in words, for `limit` bytes of memory if there is a limit."""
        words = f"{describe_bytes(self.image_bytes)} of disk an image{self.in_variants}"
        if self.n_images is not None:
            disk = self.n_images * self.image_bytes
            words = (
                f"{self.n_images} images to learn{self.in_variants}, {describe_bytes(disk)} of disk"
            )
        if self.n_images == 0:
            words = "nothing to learn"
        if self.n_known:
            changed = f" ({self.n_changed} of them changed)" if self.n_changed else ""
            words = f"{self.n_known} images are there{changed}, {words}"
        words += f", about {describe_bytes(self.memory)} of memory"
        if limit is not None:
            words += f" of {describe_bytes(limit)} (batches of {self.batch_size})"
        return words


def plan_build(
    backbone: Extractor,
    pending: ImageSource,
    new: Pending,
    gallery: Gallery,
    run: Run,
    limit: int | None,
) -> Plan:
    """Measure what an image takes, and choose how many are handled together."""
    n_images = pending.n_images
    first = None if n_images is None else _first_image(pending, backbone)
    largest = 0 if first is None else first.nbytes
    geometry = backbone.geometry
    height, width = geometry.image_size
    if first is not None:
        height, width = geometry.input_size((first.shape[0], first.shape[1]))
    n_bands = 3 if first is None else first.shape[2]
    prepared = 4 * n_bands * height * width
    before = anonymous_bytes() or 0
    with PeakMemory() as memory:
        features = backbone.extract(np.zeros((1, height, width, n_bands), np.uint8))
    network = max(memory.peak - before, 0)
    pyramid = features.pyramid.nbytes
    sample = Gallery(gallery.upsample, gallery.dtype)
    sample.add(features.pyramid)
    n_variants = 1 if run.variants is None else len(run.variants)
    # With its share of the journal.
    image_bytes = n_variants * (sample.nbytes + features.pooled.nbytes + 300)
    image_bytes += THUMBNAIL_BYTES if run.n_thumbnails else 0
    n_thumbnails = run.n_thumbnails if n_images is None else min(run.n_thumbnails, n_images)
    now = anonymous_bytes() or 0

    def needed(batch: int, workers: int) -> int:
        # Batches are prepared two ahead, stacked, and their features exist as parts and as a whole.
        decoding = 4 * largest * max(workers, 1)
        if n_variants > 1:
            # They are made of the decoded image, and those of two images a thread may wait.
            decoding += (8 * largest + 2 * n_variants * prepared) * max(workers, 1)
        decoding += n_thumbnails * THUMBNAIL_BYTES
        return now + network + decoding + batch * (4 * prepared + 3 * pyramid)

    batch, workers = run.batch_size, run.n_workers
    while limit is not None and needed(batch, workers) > limit and (batch > 1 or workers > 1):
        if batch > 1:
            batch //= 2
        else:
            workers -= 1
    memory_needed = needed(batch, workers)
    if limit is not None and memory_needed > limit:
        raise ParameterError(
            f"max_memory: expected at least {describe_bytes(memory_needed)}, got "
            f"{describe_bytes(limit)}: the process has {describe_bytes(now)}, one image"
            f"{f' in {n_variants} variants' if n_variants > 1 else ''} needs "
            f"{describe_bytes(memory_needed - now)}"
        )
    n_known, n_changed = len(gallery) // n_variants, len(new.changed)
    return Plan(
        n_images, n_known, n_changed, batch, workers, memory_needed, image_bytes, n_variants
    )


def _first_image(pending: ImageSource, backbone: Extractor) -> ImageArray | None:
    try:
        for item in pending:
            return item.read(backbone.reader())
    except ImageError:
        pass  # what is to be done about it is decided when its turn has come
    return None


def warn_of_variants(plan: Plan, limit: int | None) -> None:
    """Warn, before the work, if variants take more disk than the memory that may be used."""
    n_images = (plan.n_images or 0) + plan.n_known
    needed = n_images * plan.image_bytes
    if limit is not None and plan.n_variants > 1 and needed > limit:
        warnings.warn(
            f"variants: {n_images} images{plan.in_variants} take {describe_bytes(needed)} of disk, "
            f"more than max_memory, {describe_bytes(limit)}: each search may have to read them "
            "from the disk; fewer variants, a coreset or gallery_dtype='int8' take less",
            stacklevel=5,
        )


def check_room(folder: Path, plan: Plan) -> None:
    """Raise a StoreError, before the work, if the disk has not enough room for a plan."""
    free = shutil.disk_usage(folder).free
    needed = (plan.n_images or 0) * plan.image_bytes
    if needed > free:
        raise StoreError(
            f"{folder}: {plan.n_images} images{plan.in_variants} need {describe_bytes(needed)} of "
            f"disk, {describe_bytes(free)} are free",
            path=folder,
        )
