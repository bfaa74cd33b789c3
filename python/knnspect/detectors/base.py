"""What every detector has in common: parameters, fitting, judging, files.

A method is a class that declares its parameters, and says how it learns (`Detector._learn`), how it
judges (`Detector._judge`), and what of it is kept in a file (`Detector._state`, `_set_state`). Its
file in `nearest`, `heads` or `reconstruction`, or an entry point of another package, names it.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.calibration.blocks import Blocks
from knnspect.cluster import OnCluster
from knnspect.constraints import Choice, Positive
from knnspect.data.loading import OnBad
from knnspect.detectors.deciding import Decider, shortened_digests
from knnspect.detectors.maps import Sigma, mean_of_top, pixel_map
from knnspect.detectors.state import State
from knnspect.errors import ParameterError
from knnspect.gallery import Gallery
from knnspect.model_files import StoredModel, write_model
from knnspect.normal_features import NormalFeatures, Run, extract
from knnspect.normal_features.thumbnails import Thumbnails
from knnspect.parameters import learnt, parameter, section
from knnspect.validation import check_choice
from knnspect.views import Placement, Sizes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Detector", "Presets", "State"]

#: Settings by a word, as `Detector.set_params` takes them.
Presets = Mapping[str, Mapping[str, Any]]


class Detector(Decider):
    """Learns what normal looks like; judges other images.

    Parameters are checked by `fit` and before predicting; what is learnt has names that end in an
    underscore. Detectors can be pickled, for other processes, and deep-copied; `save` is for files.
    Two detectors are equal if they are of one class and all of their parameters are, fitted or not.

    Parameters
    ----------
    score : {"image", "map", "top"}, default "image"
        The image score of the paper, the maximum of the map, or the mean of the largest values of
        the map, of which there are `top`.
    top : float, default 0.01
        The share of the map's pixels that ``score="top"`` takes; at least one is taken.
    sigma : float, default 4.0
        Blur of the map: standard deviation in pixels of a 224 px input (0: none).
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept; see `Gallery`.

    Attributes
    ----------
    n_images_ : int
        Number of normal images that were learnt from.
    nbytes_ : int
        Bytes of all that was learnt.
    normal_map_max_ : float
        The largest map value of normal images: what a value of a map is to be held against. NaN
        where it is not known.
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`.
    """

    score: Literal["image", "map", "top"] = parameter(
        Choice("image", "map", "top"), default="image", changes_training=False
    )
    top: float = parameter(Positive(at_most=1.0), default=0.01, changes_training=False)
    sigma: float = parameter(Sigma(), default=4.0, changes_training=False)
    gallery_dtype: Literal["float32", "float16", "int8"] = parameter(
        Choice("float32", "float16", "int8"), default="float32"
    )

    #: The word for it on the command line and in files.
    method: ClassVar[str]
    #: Whether it trains a network, and `fit` takes a checkpoint.
    trains: ClassVar[bool] = False
    #: Normal images that it needs to learn from.
    fewest_images: ClassVar[int] = 1
    #: Settings that belong together, by a word, as `set_params` takes them; see `from_preset`.
    presets: ClassVar[Presets] = {}

    normal_map_max_: float = learnt()
    #: Small copies of normal images, of those methods that keep some.
    _thumbnails: Thumbnails | None = learnt()
    #: What a model keeps of parameters that belong to a machine, such as threads: to be told, not
    #: to be used again.
    fitted_with_: dict[str, Any] = learnt()

    def _begin(self) -> None:
        self._normal_sizes = None

    def __copy__(self) -> Self:
        """Return a detector of the same parameters that shares what was learnt."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    # --- What a method brings. --------------------------------------------------------------------

    @property
    @abstractmethod
    def n_images_(self) -> int:
        """Number of normal images that were learnt from."""

    @property
    @abstractmethod
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""

    @abstractmethod
    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        """Learn from the features of normal images; `self` is a copy, of which `fit` takes over.

        With ``run.calibrates``, also score those that were left out or held out, for `_take`.
        """

    @abstractmethod
    def _state(self) -> State:
        """Return what is kept in a file besides parameters and backbone."""

    @abstractmethod
    def _set_state(self, stored: StoredModel) -> None:
        """Take over what `_state` returned; raise a KeyError, TypeError or ValueError if it cannot.

        Parameters and backbone are set, and checked.
        """

    def _follow_backbone(self) -> None:
        """Have what was learnt run by what runs the backbone, which may be another one now."""

    def _prepare(self, run: Run) -> None:
        """Check, before images are read, what else a fit depends on."""
        if run.checkpoint is not None and not self.trains:
            raise ParameterError(
                f"checkpoint: is for detectors that train a network, {type(self).__name__} does not"
            )

    def _gallery(self) -> Gallery:
        """Return the empty gallery that receives the features of normal images."""
        return Gallery(dtype=self.gallery_dtype)

    @classmethod
    def from_preset(cls, preset: str, **params: Any) -> Self:
        """Return a detector with settings that belong together, such as those of its paper.

        Parameters
        ----------
        preset : str
            One of `presets`: ``"paper"`` has the paper's settings where those of this class differ
            by default. The network stays the default one.
        **params
            Other parameters, as `set_params` takes them, such as ``backbone__name``.

        Raises
        ------
        ParameterError
            If there is no such preset, or no parameter of a name.

        Examples
        --------
        >>> from knnspect import Spade
        >>> spade = Spade.from_preset("paper", image_neighbors=30)
        >>> spade.score, spade.image_neighbors, spade.backbone.patch_size
        ('image', 30, 1)
        """
        if not cls.presets:
            raise ParameterError(f"preset: {cls.__name__} has no presets", parameter="preset")
        check_choice("preset", preset, list(cls.presets))
        return cls().set_params(**cls.presets[preset]).set_params(**params)

    @classmethod
    def paper(cls) -> str:
        """Return the paper that the method comes from, as its documentation names it."""
        return re.split(r"(?<=\d\))", section(cls.__doc__ or "", "Source"))[0]

    # --- What all have. ---------------------------------------------------------------------------

    def fit(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        max_memory: int | str | None = None,
        folder: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        calibration_images: object = None,
        blocks: Blocks = None,
        cluster: str | OnCluster | None = None,
    ) -> Self:
        """Learn from normal images.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            Normal images, as `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that go through the backbone together; see `predict`.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool or callable, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising; or
            call this with the id and the error of each.
        progress : bool, default False
            Report progress on standard error.
        max_memory : int or str, optional
            Anonymous memory that the process may use, in bytes or such as ``"2GB"``: features go to
            a folder as they come, and images are handled in smaller batches where needed. With
            `progress`, what memory and disk it will take is said before it starts.
        folder : path-like, optional
            The folder for the features; a temporary one by default when there is a `max_memory`.
            An interrupted `fit` goes on where it stopped: images that are in the folder already,
            with the same id and the same contents, are not learnt again. Those that changed since
            are, with a warning, and those that are not among `images` are removed. So the next
            `fit` with some more images costs only these. A file is not read again if its size and
            the times of its last change are those of then, and not of the last two seconds.
        checkpoint : path-like, optional
            For detectors that train a network: a file for the state of the training, written at the
            end of every epoch and every 30 seconds of a long one; in `folder` by default, if there
            is one. An interrupted `fit` with the same images and parameters goes on from it, and
            ends as if it had not been interrupted. With others, also under the same names, it is
            refused. It is deleted when the training is done.
        calibration_images : optional
            Normal images that are not learnt from, and decide where thresholds lie; see
            `calibrate`. By default, and with less of a promise, images that were learnt from do:
            each compared with the others, or held out from training.
        blocks : {"folder"}, mapping or callable, optional
            Which images belong together, such as frames of one video: the folder that they lie in,
            or by their ids. Images of one block are not compared with each other to calibrate, and
            count as one. By default near-duplicates are found by their features.
        cluster : str or OnCluster, optional
            The Ray cluster whose processes extract the features, and write them into the shards of
            a gallery in `folder`: its address, ``"auto"`` or ``"local"``; with more settings, such
            as `num_gpus`, an `OnCluster`. `batch_size`, `n_workers` and `max_memory` are those of
            each of these processes. What of the learning goes shard by shard is done there, too.

        Returns
        -------
        Detector
            Itself.

        Raises
        ------
        ImageError
            If an image cannot be used, there is none, or the features are constant or not finite.
        ParameterError, DTypeError
            If a parameter of the detector or its backbone lies outside its values, or the
            checkpoint is of another training.
        CalibrationError
            If there are too few normal images for the `false_alarm_rate` asked for, or
            calibration images were learnt from; then nothing is taken over.
        StoreError
            If the backbone's weights cannot be read, the checkpoint is damaged, or a file or folder
            cannot be written or is full.
        MemoryError
            If more than `max_memory` is in use.
        BackendUnavailable
            If there is no such cluster, or its processes die again and again.
        """
        self.check_params()
        run = Run(batch_size, n_workers, skip_bad, progress, max_memory, folder, checkpoint)
        run.blocks, run.calibrates = blocks, calibration_images is None
        run.on_cluster = OnCluster.of(cluster)
        run.cluster = None if run.on_cluster is None else run.on_cluster.address
        self._prepare(run)
        normal = extract(self.backbone, images, self._gallery(), run)
        learnt = copy(self)  # so that a failure leaves what was learnt before
        learnt.calibration_, learnt._calibrated_with = None, {}
        learnt._digests = shortened_digests(normal.digests.values())
        learnt._digests_are_in_order = True
        learnt._learn(normal, run)
        learnt._normal_sizes = Sizes(normal.sizes)
        learnt._thumbnails = normal.thumbnails
        learnt.fitted_with_ = self._unsaved_params()
        if calibration_images is not None:
            learnt.calibrate(
                calibration_images,
                blocks=blocks,
                batch_size=batch_size,
                n_workers=n_workers,
                skip_bad=skip_bad,
                progress=progress,
            )
        learnt._check_rate()
        learnt.seconds_ = run.watch.seconds
        if run.checkpoint is not None:
            Path(run.checkpoint).unlink(missing_ok=True)
        self.__dict__.update(learnt.__dict__)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector, with its backbone's weights, to one file.

        Parameters
        ----------
        path : path-like
            The file; safetensors with a versioned header and a checksum. What is there is replaced
            only when everything is written. If it is the `folder` of `fit`, the features stay where
            they are, and the folder becomes the model.

        Raises
        ------
        NotFittedError
            Before `fit`.
        StoreError
            If the file cannot be written.
        """
        self._check_fitted()
        self._write(path, self.backbone.state())

    def _write(
        self,
        path: str | os.PathLike[str],
        backbone: tuple[dict[str, Any], dict[str, NDArray[Any]]],
    ) -> None:
        """Write what is learnt to one file, with what is to be kept of the backbone."""
        state, decisions = self._state(), self._state_of_decisions()
        known = self.normal_map_max_
        config = {
            "knnspect": _core.__version__,
            **self.saved_params(),
            **state.values,
            **decisions.values,
            "normal_map_max": None if np.isnan(known) else known,
            **({} if self._normal_sizes is None else {"sizes": self._normal_sizes.to_json()}),
            **({"fitted_with": self.fitted_with_} if self.fitted_with_ else {}),
        }
        write_model(
            path,
            self.method,
            config,
            backbone,
            state.arrays | decisions.arrays,
            state.searched,
            state.about_images,
            state.of_fit,
        )

    @classmethod
    def _from_store(cls, stored: StoredModel, device: str | None) -> Self:
        """Rebuild a detector from an open model."""
        config = stored.config
        given = {
            name: declared.constraint.restored(name, config[name])
            for name, declared in cls.parameters.items()
            # A parameter that is younger than the file has its default.
            if declared.is_saved and name != "backbone" and name in config
        }
        detector = cls(stored.backbone(device), **given)
        detector.check_params()
        detector._set_state(stored)
        detector._set_decisions(stored)
        detector.normal_map_max_ = stored.normal_map_max()
        detector.fitted_with_ = dict(config.get("fitted_with", {}))
        if "sizes" in config:  # earlier versions did not keep them
            detector._normal_sizes = Sizes.from_json(config["sizes"])
        detector.seconds_ = {}
        detector._set_corrections(stored)
        return detector

    def _set_corrections(self, stored: StoredModel) -> None:
        """Take over what was corrected since the fit, where a method can be."""

    def _map(self, cells: NDArray[Any], placement: Placement) -> NDArray[np.float32]:
        """Return the map of an image, at its original size, from the scores of its cells."""
        return pixel_map(cells, placement, self.sigma)

    def _score_of_map(self, map_: NDArray[np.float32]) -> float | None:
        """Return the score of an image by its map; None if the method's own is asked for."""
        if self.score == "map":
            return float(map_.max())
        return mean_of_top(map_, self.top) if self.score == "top" else None

    def _unsaved_params(self) -> dict[str, Any]:
        """Return the parameters that a model does not keep, such as threads, in words."""
        return {
            name: value if isinstance(value, (int, float, str)) else str(value)
            for name, declared in self.parameters.items()
            if not declared.is_saved and (value := getattr(self, name)) is not None
        }
