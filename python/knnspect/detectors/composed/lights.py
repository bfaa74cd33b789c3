"""Several pictures of one part, each in another light: a gallery a light, a verdict a part."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from knnspect.calibration.joint import JointCalibration
from knnspect.constraints import Choice
from knnspect.data import ImageSource, open_images
from knnspect.data.decoded import ImageArray
from knnspect.data.sources import ImageItem
from knnspect.detectors.composed.base import Composed
from knnspect.detectors.composed.subject import Shown, Subject
from knnspect.detectors.prediction import Prediction
from knnspect.errors import ImageError, ImageWarning
from knnspect.parameters import parameter
from knnspect.validation import some_ids
from knnspect.views.lights import IsLightPattern, LightPattern

__all__ = ["Lights"]


class Lights(Composed):
    r"""Judges parts of which there are several pictures, one in each light.

    A pattern tells from the names of pictures which part they show, and in which light. Each light
    has its own gallery and calibration; a part is anomalous by the smallest p-value of its lights,
    times their number, which keeps the false-alarm rate whatever the lights have to do with each
    other. Its score is that of the light in which it is farthest from normal, in a unit of all
    lights: -log10 of the p-value, and beyond the largest normal score c of a light (score - c) /
    (c - median of the normal scores) more; see `knnspect.calibration.joint.JointCalibration`. So
    parts are ordered as by p-values, also those beyond all normal ones.

    A prediction has the part's name as its id; its map, picture and regions are those of the light
    that decides (``prediction.shown_view``), and all lights are in ``prediction.views``.

    Parameters
    ----------
    detector : Detector or Composed, optional
        What judges each light; ``Spade()`` by default.
    pattern : str, default "{part}_{light}.*"
        How pictures are called; see `knnspect.views.lights.LightPattern`. The lights are those of
        the normal pictures.
    missing : {"error", "warn"}, default "error"
        What it is if a part that is judged has no picture in a light: an ImageError, so that it is
        left out with ``skip_bad=True``, or an ImageWarning, and the part is judged by the others.
        Of parts to learn from it is always an error.

    Examples
    --------
    >>> import knnspect as ks
    >>> random = np.random.default_rng(0)
    >>> pictures = {
    ...     f"{part}_{light}.png": random.integers(0, 200, (64, 64, 3), np.uint8)
    ...     for part in range(6)
    ...     for light in ("side", "top")
    ... }
    >>> lights = ks.Lights(ks.Spade(ks.Backbone(levels=(1, 2), image_size=64))).fit(pictures)
    >>> scratched = {name.replace("5", "new"): pictures[name] for name in ("5_side.png",)}
    >>> scratched["new_top.png"] = pictures["5_top.png"].copy()
    >>> scratched["new_top.png"][20:44, 20:44] = 255
    >>> (prediction,) = lights.predict(scratched)
    >>> prediction.id, prediction.shown_view, prediction.verdict, sorted(prediction.views)
    ('new', 'top', 'anomalous', ['side', 'top'])
    """

    pattern: str = parameter(IsLightPattern(), default="{part}_{light}.*")
    missing: Literal["error", "warn"] = parameter(
        Choice("error", "warn"), default="error", changes_training=False
    )

    method = "lights"

    def _subjects(self, source: ImageSource) -> Iterator[Subject]:
        pattern, parts = LightPattern(self.pattern), dict[str, dict[str, ImageItem]]()
        for item in source:
            name = pattern.of(item.id)
            if name is None:
                raise ImageError(
                    f"image {item.id}: its name does not match the pattern of lights, "
                    f"{self.pattern!r}",
                    image=item.id,
                    path=item.file,
                )
            lights = parts.setdefault(name.part, {})
            if name.light in lights:
                raise ImageError(
                    f"part {name.part}: expected one picture in the light {name.light}, got "
                    f"{lights[name.light].id} and {item.id}",
                    image=item.id,
                )
            lights[name.light] = item
        return (Subject(part, lights) for part, lights in parts.items())

    def first_pictures(self, images: object) -> list[str]:
        """Return the id of one picture of each part, in the order in which parts are judged."""
        subjects = self._subjects(open_images(images))
        return [next(iter(subject.pictures.values())).id for subject in subjects]

    def _n_subjects(self, source: ImageSource) -> int | None:
        return sum(1 for _ in self._subjects(source))

    def _names(self, source: ImageSource) -> list[str]:
        return sorted({light for subject in self._subjects(source) for light in subject.pictures})

    def _check_to_learn(self, source: ImageSource, names: Sequence[str]) -> None:
        for subject in self._subjects(source):
            self._check_lights(subject, names, "error")

    def _check_lights(self, subject: Subject, lights: Sequence[str], missing: str) -> None:
        """Raise an ImageError if a part is not there in a light, or in one that is not known."""
        if unknown := [light for light in subject.pictures if light not in lights]:
            raise ImageError(
                f"part {subject.id}: its light {some_ids(unknown)} is none of those that were "
                f"learnt: {', '.join(lights)}",
                image=subject.id,
            )
        if lacking := [light for light in lights if light not in subject.pictures]:
            words = f"part {subject.id}: has no picture in the light {some_ids(lacking)}"
            if missing == "error":
                raise ImageError(f"{words}, of {', '.join(lights)}", image=subject.id)
            others = ", ".join(sorted(subject.pictures))
            warnings.warn(f"{words}: it is judged by {others} alone", ImageWarning, stacklevel=2)

    def _views_of(self, subject: Subject) -> dict[str, Shown]:
        self._check_lights(subject, list(self.views_), self.missing)
        return super()._views_of(subject)

    def _item_of(self, name: str, subject: Subject) -> ImageItem | None:
        return subject.pictures.get(name)

    def _shown(self, name: str, item: ImageItem, image: ImageArray) -> Shown:  # noqa: ARG002
        return Shown(image)

    def _together(
        self, predictions: Mapping[str, Prediction], joint: JointCalibration, strongest: str
    ) -> Prediction:
        shown = predictions[strongest]
        map_ = np.asarray(joint.of_maps(strongest, shown.map), np.float32)
        return replace(shown, map=map_, shown_view=strongest)
