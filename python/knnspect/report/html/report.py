"""The report: what is shown, image by image, and the file that shows it."""

from __future__ import annotations

import heapq
import os
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.detectors import Prediction
from knnspect.detectors.composed import AnyDetector
from knnspect.errors import ParameterError
from knnspect.files import replace_file
from knnspect.report.html.about import facts, promise
from knnspect.report.html.cards import Card, card_of
from knnspect.report.html.histogram import histogram
from knnspect.report.html.pictures import uri_of
from knnspect.report.html.template import environment, text
from knnspect.validation import check_count

__all__ = ["HtmlReport"]

#: Pixels of the longer side of pictures, by how many images there may be at most.
_LONGEST = ((100, 512), (300, 400), (1 << 62, 256))
#: Pictures of normal images, as JPEG, by their ids.
Thumbnail = Callable[..., bytes | None]


class HtmlReport:
    """Collects what a detector says of images, and writes it as one page of HTML.

    The page needs no network and no other file. Its pictures are small copies: at most 512 pixels a
    side for up to 100 images, 400 for up to 300, 256 beyond.

    Parameters
    ----------
    detector : Detector or Composed
        What judges.
    model : str
        What the model is called: its file, say.
    n_images : int, default 100
        How many images there will be, about.
    most_images : int, default 1000
        How many images the page shows: those with the largest scores. All of them are counted.

    Raises
    ------
    ParameterError
        If `most_images` is less than 1.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import knnspect as ks
    >>> backbone = ks.Backbone("efficientnet_lite0", levels=(1,), image_size=32)
    >>> random = np.random.default_rng(0)
    >>> images = random.integers(0, 255, (6, 32, 32, 3), np.uint8)
    >>> detector = ks.Spade(backbone).fit(images)
    >>> report = HtmlReport(detector, "noise")
    >>> for prediction in detector.iter_predict(images, keep_pictures=True):
    ...     report.add(prediction, prediction.picture)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report.write(f"{folder}/report.html")
    ...     Path(f"{folder}/report.html").read_text()[:15]
    '<!DOCTYPE html>'
    """

    def __init__(
        self, detector: AnyDetector, model: str, n_images: int = 100, most_images: int = 1000
    ) -> None:
        self._detector, self._model = detector, model
        self._most = check_count("most_images", most_images)
        n_shown = min(n_images, self._most)
        self._longest = next(side for most, side in _LONGEST if n_shown <= most)
        #: The map value with the strongest colour, as in overlays.
        self._scale = 1.5 * detector.normal_map_max_
        self._scores: list[float] = []
        self._n_anomalous = self._n_not_found = 0
        #: The images with the largest scores: (score, how many came after, card), the least first.
        self._cards: list[tuple[float, int, Card]] = []
        self._calibration: Calibration | None = None
        self._asked: float | None = None
        self._uncalibrated = ""

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, prediction: Prediction, image: NDArray[Any]) -> None:
        """Take an image, shape (height, width, 3), and what was said of it."""
        self._calibration = prediction.calibration
        self._asked, self._uncalibrated = prediction.false_alarm_rate, prediction.uncalibrated
        known = self._calibration is not None
        self._n_anomalous += known and prediction.is_anomalous
        entry = (prediction.score, -len(self._scores))
        self._scores.append(prediction.score)
        self._n_not_found += not prediction.is_found
        is_full = len(self._cards) == self._most
        if is_full and entry < self._cards[0][:2]:
            return
        card = card_of(prediction, image, self._scale, self._longest)
        (heapq.heappushpop if is_full else heapq.heappush)(self._cards, (*entry, card))

    def write(self, file: str | os.PathLike[str], left_out: Sequence[str] = ()) -> None:
        """Write the page, all of it or nothing.

        Parameters
        ----------
        file : path-like
            Where to. The folder has to exist; a file of that name is replaced.
        left_out : sequence of str
            Why images were left out.

        Raises
        ------
        ParameterError
            If there is no image.
        StoreError
            If the file cannot be written.
        """
        if not self._scores:
            raise ParameterError("images: expected at least one that was judged, got none")
        replace_file(file, self._page(left_out).encode("utf-8", "backslashreplace"))

    def _page(self, left_out: Sequence[str]) -> str:
        calibration, n_images = self._calibration, len(self._scores)
        threshold = rate = None
        if calibration is not None:
            rate = calibration.rate(self._asked)
            threshold = calibration.threshold(self._asked)
        cards = [card for _, _, card in sorted(self._cards, key=lambda one: one[:2], reverse=True)]
        script = text("page.js")
        normal = None if calibration is None else calibration.scores
        scores = [score for score in self._scores if np.isfinite(score)]
        return (
            environment()
            .get_template("page.html.j2")
            .render(
                model=self._model,
                n_images=n_images,
                n_anomalous=None if calibration is None else self._n_anomalous,
                rate=rate,
                threshold=threshold,
                pixel_threshold=None
                if calibration is None
                else calibration.pixel_threshold(self._asked),
                calibration=calibration,
                promise="" if calibration is None else promise(calibration, self._asked),
                n_not_found=self._n_not_found,
                uncalibrated=self._uncalibrated,
                cards=cards,
                thumbnails=self._thumbnails(cards),
                histograms=[
                    histogram(normal, scores, threshold, width) for width in (1190, 340) if scores
                ],
                facts=facts(self._detector, self._model),
                left_out=list(left_out),
                style=text("page.css"),
                script=script,
                script_digest=b64encode(sha256(script.encode()).digest()).decode("ascii"),
            )
        )

    def _thumbnails(self, cards: Sequence[Card]) -> dict[str, tuple[str, str]]:
        """Return the pictures of the normal images that are shown: a name in the page, and data."""
        thumbnail: Thumbnail = getattr(self._detector, "thumbnail", lambda _, **__: None)
        found: dict[str, tuple[str, str]] = {}
        for place in (place for card in cards for place in card.places):
            normal = place.normal
            if normal is not None and normal.key not in found:
                of_view = {"view": normal.view} if normal.view else {}
                contents = thumbnail(normal.image, **of_view)
                if contents is not None:
                    found[normal.key] = (f"normal-{len(found)}", uri_of(contents, "jpeg"))
        return found
