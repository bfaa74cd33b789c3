"""Judging the frames of a sequence, on the command line: one verdict a part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from numpy.typing import NDArray

from knnspect.cli.judged import Judged, apart
from knnspect.cli.options import parsed
from knnspect.constraints import Count, Positive
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.detectors import Prediction
    from knnspect.detectors.composed import AnyDetector

__all__ = ["FollowParts", "FollowedParts", "Missed", "PartShare", "is_sequence", "is_video"]

_PANEL = "Sequences"

FollowParts = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="The images are a sequence, in the order of the numbers in their names: follow a part "
        "from frame to frame, and give one verdict a part. Videos always are. For models with "
        "--locator, a siam_mask.",
        rich_help_panel=_PANEL,
    ),
]
PartShare = Annotated[
    float | None,
    typer.Option(
        help="Following: the share of a part's frames that is to be strange; 0.5 by default.",
        metavar="NUM",
        rich_help_panel=_PANEL,
    ),
]
Missed = Annotated[
    int | None,
    typer.Option(
        help="Following: frames after one another in which a part may be lost; 3 by default.",
        metavar="N",
        rich_help_panel=_PANEL,
    ),
]


def is_video(images: Path) -> bool:
    """Return whether a path is called as videos are, and is no folder."""
    from knnspect.data.sequences import VIDEO_SUFFIXES

    return images.suffix.lower() in VIDEO_SUFFIXES and not images.is_dir()


def is_sequence(
    images: Path, *, follow: bool, part_share: float | None, missed: int | None
) -> bool:
    """Return whether images are frames in their order.

    Raises
    ------
    ParameterError
        If an option is for sequences alone.
    """
    if follow or is_video(images):
        return True
    for name, given in (("part-share", part_share), ("missed", missed)):
        if given is not None:
            raise ParameterError(f"--{name}: goes with --follow, or a video")
    return False


class FollowedParts(Judged):
    """The parts that the frames of a sequence show, each followed from frame to frame.

    Parameters
    ----------
    detector : Detector or Composed
        What judges frames.
    images : Path
        A video, or a folder of frames.
    output : Path
        The folder for results.
    false_alarm_rate : str, optional
        The share of normal parts that may be called anomalous, as it was given.
    share : float, optional
        See `knnspect.detectors.following.joint_p_value`.
    missed : int, optional
        See `Aligned.iter_follow`.

    Raises
    ------
    ParameterError
        If the model does not follow parts, or an option lies outside its values.
    NotFittedError, CalibrationError
        As `knnspect.detectors.following.rate_of_parts`.
    """

    n_images = 1000  # only reading a video tells

    def __init__(
        self,
        detector: AnyDetector,
        images: Path,
        output: Path,
        false_alarm_rate: str | None,
        share: float | None,
        missed: int | None,
    ) -> None:
        from knnspect.data import open_sequence
        from knnspect.detectors import Aligned
        from knnspect.detectors.following import rate_of_parts
        from knnspect.locators import SiamMask

        if not (isinstance(detector, Aligned) and isinstance(detector.locator, SiamMask)):
            raise ParameterError(
                f"{images}: the frames of a sequence are judged by a model that follows a part: "
                "fit one with --locator FILE, of fit-locator --method siam_mask"
            )
        self._detector = detector
        self._missed = 3 if missed is None else missed
        self._share = 0.5 if share is None else share
        Count(minimum=0).check("--missed", self._missed)
        Positive(at_most=1).check("--part-share", self._share)
        declared = detector.parameters["false_alarm_rate"]
        asked = None if false_alarm_rate is None else parsed(declared, false_alarm_rate)
        self.rate: float = rate_of_parts(detector.calibration_, self._share, asked)
        source = open_sequence(images)
        self._frames = source if is_video(images) else apart(output, images, source)
        #: Of each part the id, the score and the p-value of every frame.
        self._parts: dict[int, list[tuple[str, float, float]]] = {}

    def predictions(self, **how: Any) -> Iterator[tuple[Prediction, NDArray[Any]]]:
        """Judge the frames in their order."""
        for number, one in self._detector.iter_follow(self._frames, missed=self._missed, **how):
            if number is not None:
                self._parts.setdefault(number, []).append((one.id, one.score, one.p_value))
            yield one, cast("NDArray[Any]", one.picture)  # composed detectors keep it

    @property
    def counted(self) -> str:
        """How many parts were found."""
        n = len(self._parts)
        return f"{n} part{'' if n == 1 else 's'}"

    @property
    def about(self) -> dict[str, Any]:
        """What is said of each part."""
        return {"part_false_alarm_rate": self.rate, "parts": self._decided()}

    @property
    def lines(self) -> list[str]:
        """A line for each part: number, verdict, p-value, first and last frame, strongest frame."""
        return [
            f"{part['number']}\t{part['verdict']}\t{part['p_value']:.4g}\t{part['frames'][0]}\t"
            f"{part['frames'][-1]}\t{part['strongest_frame']}"
            for part in self._decided()
        ]

    @property
    def n_anomalous(self) -> int:
        """How many parts are anomalous."""
        return sum(part["verdict"] == "anomalous" for part in self._decided())

    def _decided(self) -> list[dict[str, Any]]:
        from knnspect.detectors.following import is_within, joint_p_value

        decided = []
        for number, frames in self._parts.items():
            ids, scores, p_values = zip(*frames, strict=True)
            p_value = joint_p_value(p_values, self._share)
            decided.append(
                {
                    "number": number,
                    "verdict": "anomalous" if is_within(p_value, self.rate) else "normal",
                    "p_value": p_value,
                    "strongest_frame": max(zip(scores, ids, strict=True))[1],
                    "frames": list(ids),
                }
            )
        return decided
