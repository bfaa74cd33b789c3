"""Models that run without PyTorch: their backbone's network becomes an ONNX graph.

``export``           a detector whose backbone is a graph
``onnx_backbone``    such a backbone alone
``quantize``         an exported detector whose network computes in int8
``compare``          how far a detector and one that was exported differ on images
``network_seconds``  how long networks take for an image
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from knnspect.data import ImageSource, iterate_batches, open_images
from knnspect.data.loading import OnBad
from knnspect.detectors import Detector, Prediction
from knnspect.errors import DisagreementError, ImageError, ParameterError
from knnspect.features import Backbone, Extractor, Features
from knnspect.features.stored import exported, quantized
from knnspect.features.tiled import TiledNetwork
from knnspect.progress import Stopwatch
from knnspect.validation import some_ids

__all__ = [
    "LARGEST_DIFFERENCE",
    "Agreement",
    "compare",
    "export",
    "network_seconds",
    "onnx_backbone",
    "quantize",
]

#: A relative difference that rounding does not explain.
LARGEST_DIFFERENCE = 1e-3
#: How many images give ranges, and how many are timed: further ones hardly change either.
_N_RANGES, _N_TIMED, _N_ROUNDS = 64, 10, 3

_Detector = TypeVar("_Detector", bound=Detector)


def onnx_backbone(backbone: Backbone) -> Backbone:
    """Return a backbone that gives the same features by an ONNX graph, without PyTorch.

    The graph has all from prepared images to averaged, normed and pooled features, with batch
    normalization folded into convolutions. onnxruntime runs it, in float32, on the CPU unless a
    device is asked for where it is loaded. Features differ by rounding: about 1e-6 of the largest.

    Parameters
    ----------
    backbone : Backbone
        Whose network is one of timm.

    Returns
    -------
    Backbone
        With the graph loaded; `Backbone.state` and `Detector.save` keep it.

    Raises
    ------
    ParameterError
        If PyTorch cannot export the network, a transformer's input may have several sizes
        (``resize="shorter"``), or it is a graph already.
    MissingPackageError
        If PyTorch, onnx or onnxruntime is not installed (``pip install "knnspect[export]"``).

    Examples
    --------
    >>> import numpy as np
    >>> backbone = Backbone(levels=(1, 2), image_size=64)
    >>> images = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 3), np.uint8)
    >>> one, other = backbone.extract(images), onnx_backbone(backbone).extract(images)
    >>> bool(np.allclose(one.pooled, other.pooled, rtol=1e-4, atol=1e-4))
    True
    """
    return Backbone.from_state(*exported(*backbone.state()))


def export(detector: _Detector) -> _Detector:
    """Return a fitted detector that judges the same without PyTorch, to be saved.

    What it has learnt, its calibration and its corrections are those of the detector.

    Parameters
    ----------
    detector : Detector
        Fitted.

    Returns
    -------
    Detector
        Of the same class; its backbone is what `onnx_backbone` gives.

    Raises
    ------
    ParameterError, MissingPackageError
        See `onnx_backbone`.
    NotFittedError
        If it is not fitted.
    """
    detector._check_fitted()
    other = copy(detector)
    other.backbone = onnx_backbone(_backbone(detector))
    other._follow_backbone()
    return other


def quantize(detector: _Detector, images: object, *, skip_bad: bool | OnBad = False) -> _Detector:
    """Return an exported detector whose network computes in int8: faster, and less exactly.

    Weights have a scale for each channel; of the numbers between the nodes of the graph each tensor
    has a range, the one that images give, beyond which it is cut off. The first convolutions, in
    which rounding harms most, stay in float32. What the detector has learnt stays what it is.

    Scores change, so the calibration is left out: `Detector.calibrate` makes a new one
    from normal images that were neither learnt from nor given here.

    Parameters
    ----------
    detector : Detector
        Which `export` returned.
    images : folder, file, list of paths, arrays or PIL images, or array
        Such as are to be judged, normal and defective. Of more than 64, evenly spaced ones are
        used.
    skip_bad : bool or callable, default False
        Leave out images that cannot be used, and call this with the id and the error of each, if it
        can be called.

    Returns
    -------
    Detector
        Of the same class, without calibration.

    Raises
    ------
    ParameterError
        If its network is no ONNX graph, computes in int8 already, or cannot be quantized.
    MissingPackageError
        If onnx or onnxruntime is not installed (``pip install "knnspect[export]"``).
    ImageError
        If an image cannot be used, or there is none.

    Examples
    --------
    >>> from knnspect import Spade
    >>> images = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
    >>> spade = Spade(Backbone(levels=(1, 2), image_size=64)).fit(images[:2])
    >>> other = quantize(export(spade), images)
    >>> compare(spade, other, images).has_verdicts
    False
    """
    detector._check_fitted()
    backbone = _backbone(detector)
    other = copy(detector)
    inputs = _prepared(backbone, images, skip_bad)
    other.backbone = Backbone.from_state(*quantized(*backbone.state(), inputs))
    other.backbone.max_pixels = backbone.max_pixels
    other._follow_backbone()
    other._forget_calibration()
    return other


def _backbone(detector: Detector) -> Backbone:
    if not isinstance(detector.backbone, Backbone):
        raise ParameterError(
            f"detector: {type(detector).__name__} has no backbone that could be exported"
        )
    return detector.backbone


def _prepared(
    backbone: Backbone, images: object, skip_bad: bool | OnBad
) -> Iterator[NDArray[np.float32]]:
    """Go through some images as the network gets them, one by one; in tiles, one of each image."""
    source = open_images(images)
    step = -(-(source.n_images or 1) // _N_RANGES)
    some = ImageSource(islice(source, 0, None, step), None)
    on_bad = skip_bad if callable(skip_bad) else (lambda *_: None) if skip_bad else None
    network, reader = backbone._load(), backbone.reader()
    batches = iterate_batches(some, backbone.geometry, 1, 2, on_bad, reader)
    n_images = 0
    for n_images, batch in enumerate(islice(batches, _N_RANGES), 1):
        if isinstance(network, TiledNetwork):
            yield network.window(batch.images[0], n_images)[None]
        else:
            yield np.asarray(batch.images)
    if n_images == 0:
        raise ImageError("images: none can be used to find the ranges of int8")


def network_seconds(
    backbones: Sequence[Extractor], images: object, *, skip_bad: bool | OnBad = False
) -> list[float]:
    """Return how many seconds the network of each backbone takes for an image, at its best.

    Reading and resizing images does not count. Ten images are gone through three times, the
    backbones in turns.

    Parameters
    ----------
    backbones : sequence of Backbone
        The backbones.
    images : folder, file, list of paths, arrays or PIL images, or array
        Such as are to be judged.
    skip_bad : bool or callable, default False
        As in `Backbone.iterate`.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    >>> seconds = network_seconds([Backbone(levels=(1, 2), image_size=64)], images)
    >>> 0 < seconds[0] < 10
    True
    """
    fewest = [float("inf")] * len(backbones)
    for _ in range(_N_ROUNDS):
        for place, backbone in enumerate(backbones):
            watch = Stopwatch()
            features = backbone.iterate(images, 1, skip_bad=skip_bad, pooled=False, stopwatch=watch)
            before = 0.0
            for _ in islice(features, _N_TIMED):
                taken = watch.seconds["features"] - before
                before = watch.seconds["features"]
                fewest[place] = min(fewest[place], taken)
    return fewest


@dataclass(frozen=True)
class Agreement:
    """How far two detectors differ on images.

    Parameters
    ----------
    n_images : int
        How many images.
    features : float
        The largest difference of features, as a share of the largest of their level in the image.
    scores : float
        The largest difference of scores, as a share of the score, or of the threshold where that is
        larger: normal images that were learnt from may score next to nothing. Without a calibration
        as a share of the largest score of the images.
    maps : float
        The same of map values, as shares of the map's maximum, or of `Detector.normal_map_max_`.
    other_verdicts : tuple of str
        Images that one detector calls normal and the other anomalous.
    has_verdicts : bool
        Whether there are verdicts: whether both detectors are calibrated.
    """

    n_images: int
    features: float
    scores: float
    maps: float
    other_verdicts: tuple[str, ...]
    has_verdicts: bool

    def check(self, largest: float = LARGEST_DIFFERENCE) -> None:
        """Raise an error if the detectors differ by more than rounding.

        Parameters
        ----------
        largest : float, default 0.001
            The largest difference that may be.

        Raises
        ------
        DisagreementError
            If a difference is larger, is no number, or a verdict is another one.
        """
        for name in ("features", "scores", "maps"):
            difference = getattr(self, name)
            if not difference <= largest:
                raise DisagreementError(
                    f"the exported model differs: {name} by {difference:.2g} of their size, "
                    f"expected at most {largest:g}"
                )
        if self.other_verdicts:
            raise DisagreementError(
                f"the exported model differs: {len(self.other_verdicts)} of {self.n_images} images "
                f"have another verdict: {some_ids(list(self.other_verdicts))}"
            )


def compare(
    detector: Detector,
    other: Detector,
    images: object,
    *,
    batch_size: int = 16,
    n_workers: int = 2,
    skip_bad: bool | OnBad = False,
) -> Agreement:
    """Compare what a detector and one that was exported say of images.

    Parameters
    ----------
    detector, other : Detector
        The detectors.
    images : folder, file, list of paths, arrays or PIL images, or array
        Best such as are to be judged, normal and defective; they are gone through four times.
    batch_size, n_workers, skip_bad
        As in `Detector.predict`.

    Returns
    -------
    Agreement
        Its `check` raises an error if they differ by more than rounding.

    Raises
    ------
    ImageError
        If an image cannot be used, or there is none.

    Examples
    --------
    >>> from knnspect import Spade
    >>> images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    >>> spade = Spade(Backbone(levels=(1, 2), image_size=64)).fit(images)
    >>> found = compare(spade, export(spade), images)
    >>> found.check()
    >>> found.n_images, found.features < 1e-4, found.has_verdicts
    (3, True, True)
    """
    both = (detector, other)
    quiet = (lambda *_: None) if skip_bad else False  # what is left out is said once
    options: dict[str, Any] = {"batch_size": batch_size, "n_workers": n_workers}
    pairs = zip(
        *(one.backbone.iterate(images, skip_bad=quiet, pooled=True, **options) for one in both),
        strict=True,
    )
    of_features = max(_of_features(*pair) for pair in pairs)
    predictions: Iterator[tuple[Prediction, Prediction]] = zip(
        detector.iter_predict(images, skip_bad=skip_bad, **options),
        other.iter_predict(images, skip_bad=quiet, **options),
        strict=True,
    )
    scores, maps, verdicts = [], [], []
    known = np.nan_to_num(detector.normal_map_max_)
    is_calibrated, threshold = not detector.uncalibrated, 0.0
    has_verdicts = is_calibrated and not other.uncalibrated
    for one, two in predictions:
        scores.append((one.score, two.score))
        maps.append(_largest(one.map, two.map, at_least=known))
        threshold = one.threshold if is_calibrated else threshold
        if has_verdicts and one.is_anomalous != two.is_anomalous:
            verdicts.append(one.id)
    columns = np.array(scores).T
    scale = threshold if is_calibrated else np.abs(columns).max()
    shares = [_largest(a, b, at_least=scale) for a, b in columns.T]
    return Agreement(
        len(scores), of_features, max(shares), max(maps), tuple(verdicts), has_verdicts
    )


def _of_features(one: Features, other: Features) -> float:
    pairs = zip(
        [*one.pyramid.levels, one.pooled], [*other.pyramid.levels, other.pooled], strict=True
    )
    return max(_largest(a, b) for of_level in pairs for a, b in zip(*of_level, strict=True))


def _largest(
    one: NDArray[Any] | float, other: NDArray[Any] | float, at_least: float = 0.0
) -> float:
    """Return the largest difference as a share of the largest value; NaN if something is NaN.

    >>> _largest(4.0, 5.0), _largest(4.0, 5.0, at_least=10), _largest(0.0, 0.0)
    (0.25, 0.1, 0.0)
    """
    difference = float(np.abs(np.subtract(one, other)).max())
    size = max(float(np.abs(one).max()), at_least)
    return difference / size if size else difference
