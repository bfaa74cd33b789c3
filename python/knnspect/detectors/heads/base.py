"""What detectors have in common that train a network on the features of normal images."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.data import open_to_judge
from knnspect.detectors.base import Detector, Prediction
from knnspect.detectors.maps import check_sigma, pixel_map
from knnspect.errors import (
    DTypeError,
    ImageError,
    NotFittedError,
    ParameterError,
    StoreError,
)
from knnspect.features import Backbone
from knnspect.files import check_path, is_folder
from knnspect.forked import fork_safe
from knnspect.gallery import Gallery
from knnspect.memory import check_memory, parse_bytes
from knnspect.normal_features.checks import (
    backbone_tensors,
    check_backbone,
    held_out,
    stored_map_max,
    stored_tensors,
    weights_digest,
)
from knnspect.normal_features.extract import CHECKPOINT, Learnt, learn, save_learnt
from knnspect.normal_features.near_duplicates import NearDuplicates
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_choice, check_count, check_positive

if TYPE_CHECKING:
    from knnspect.training.checkpoint import Checkpoint
    from knnspect.training.loop import TrainableNetwork

__all__ = ["TrainedDetector"]

#: Before the names of the network's tensors in a file.
_NETWORK = "network."
#: What PyTorch's generators take, and what does not overflow in float32 at the first step.
_LARGEST_SEED, _LARGEST_RATE = 2**63 - 1, 1e6


class TrainedDetector(Detector):
    """A detector whose network gives each cell a score.

    Subclasses say what the network is, and what it depends on.
    """

    max_epochs: int
    patience: int | None
    validation_fraction: float
    learning_rate: float
    mixed_precision: bool
    gallery_dtype: Literal["float32", "float16", "int8"]
    sigma: float
    seed: int
    network_: TrainableNetwork
    #: For each epoch its "loss", and its "held_out_loss" where images were held out.
    history_: list[dict[str, float]]
    #: The epoch whose weights were kept, from 1.
    best_epoch_: int

    #: Parameters that only this detector has, by name; with them and those of all, it is rebuilt.
    _own: ClassVar[tuple[str, ...]]
    #: Parameters that all these detectors have, but for the backbone.
    _shared: ClassVar[tuple[str, ...]] = (
        "max_epochs",
        "patience",
        "validation_fraction",
        "learning_rate",
        "mixed_precision",
        "score",
        "gallery_dtype",
        "sigma",
        "seed",
    )
    #: Those that predictions depend on alone: they may differ when a training goes on.
    _of_prediction: ClassVar[tuple[str, ...]] = ("score", "sigma")

    @abstractmethod
    def _network(self, shapes: list[tuple[int, int, int]]) -> TrainableNetwork:
        """Build the untrained network for features of these shapes."""

    def __repr__(self) -> str:
        parts = [f"{name}={getattr(self, name)!r}" for name in (*self._own, *self._shared)]
        return f"{type(self).__name__}({self.backbone!r}, {', '.join(parts)})"

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters, and the network, once there is one, as arrays."""
        if not hasattr(self, "network_"):
            return dict(vars(self))
        return {**vars(self), "network_": self.network_.arrays()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "network_" in state:
            self._take_over(state["network_"])

    def _take_over(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Build the network of what its `arrays` returned."""
        self.network_ = self._new_network(self._shapes)
        self.network_.load_arrays(arrays)
        self.network_.eval()

    @property
    def n_images_(self) -> int:
        """Number of normal images that were learnt from, those held out included."""
        self._check_fitted()
        return self._n_images

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        self._check_fitted()
        return sum(array.nbytes for array in self.network_.arrays().values())

    def _fit(
        self,
        images: object,
        *,
        batch_size: int,
        n_workers: int,
        skip_bad: bool,
        progress: bool,
        max_memory: int | str | None,
        folder: str | os.PathLike[str] | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self._check_parameters()
        limit = None if max_memory is None else parse_bytes("max_memory", max_memory)
        # The user's own path may be a link to the file; names in a folder are no links of ours.
        follow_links = checkpoint is not None
        if checkpoint is not None:
            check_place(checkpoint)
        elif folder is not None:
            checkpoint = check_path(folder, "folder") / CHECKPOINT
        # A white level that is found on the images is not known yet; then `Training` checks alone.
        if checkpoint is not None and self.backbone.white != "auto":
            self._checkpoint(checkpoint, follow_links).check()
        watch = Stopwatch()
        found = learn(
            self.backbone,
            images,
            Gallery(dtype=self.gallery_dtype),
            batch_size=batch_size,
            n_workers=n_workers,
            skip_bad=skip_bad,
            progress=progress,
            watch=watch,
            max_memory=max_memory,
            folder=folder,
            with_digests=checkpoint is not None,
        )
        learnt = copy(self)  # so that a failure leaves what was learnt before
        with watch.stage("training"):
            held = learnt._train(found, checkpoint, follow_links, limit, progress)
        with watch.stage("calibration"):
            learnt.normal_map_max_ = learnt._normal_map_max(found, held)
        learnt.seconds_ = watch.seconds
        if checkpoint is not None:
            Path(checkpoint).unlink(missing_ok=True)
        self.__dict__.update(learnt.__dict__)

    def _train(
        self,
        found: Learnt,
        path: str | os.PathLike[str] | None,
        follow_links: bool,
        limit: int | None,
        progress: bool,
    ) -> list[str]:
        """Train a new network; return the images that were held out."""
        from knnspect.training.loop import Training, TrainingSettings

        ids, held = split(found.gallery.ids, self.validation_fraction, self.seed)
        network = self._new_network(found.gallery.shapes)
        settings = TrainingSettings(
            self.max_epochs, self.patience, self.seed, bool(self.mixed_precision)
        )
        checkpoint = None if path is None else self._checkpoint(path, follow_links, found)
        training = Training(
            network,
            found.gallery,
            ids,
            held,
            settings,
            checkpoint,
            lambda: check_memory(limit, "raise it: batches of images and the network need more"),
        )
        training.run(progress)
        self.network_ = network
        self.history_, self.best_epoch_ = training.history, training.best_epoch
        self._n_images = len(found.gallery)
        self._shapes = found.gallery.shapes
        return held

    @fork_safe
    def _new_network(self, shapes: list[tuple[int, int, int]]) -> TrainableNetwork:
        import torch

        # The generator of the whole process is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._network(shapes)
        return network.to(self.backbone.torch_device)

    def _checkpoint(
        self, path: str | os.PathLike[str], follow_links: bool, found: Learnt | None = None
    ) -> Checkpoint:
        """Return the checkpoint of a training on some images, by all that it depends on."""
        from knnspect.training.checkpoint import Checkpoint

        names = [name for name in (*self._own, *self._shared) if name not in self._of_prediction]
        settings, tensors = self.backbone.state()
        settings.pop("source")
        digests = {} if found is None else found.digests
        return Checkpoint(
            path,
            {
                "method": self.method,
                **{name: plain(getattr(self, name)) for name in names},
                **{f"backbone {name}": value for name, value in settings.items()},
                "backbone weights": weights_digest(tensors),
            },
            {id_: digests[id_].hex() for id_ in sorted(digests)},
            follow_links=follow_links,
        )

    def iter_predict(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """Judge images one after the other, in order, without keeping them all.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            As in `predict`.

        Returns
        -------
        iterator of Prediction
            One per image, in order; they have no neighbours.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            While iterating: if an image cannot be used, or there is none.
        """
        self._check_fitted()
        self._check_parameters()
        return self._iter_predict(images, batch_size, n_workers, skip_bad, progress)

    def _iter_predict(
        self, images: object, batch_size: int, n_workers: int, skip_bad: bool, progress: bool
    ) -> Iterator[Prediction]:
        watch = Stopwatch()
        self.seconds_ = watch.seconds
        for features in self.backbone.iterate(
            open_to_judge(images),
            batch_size,
            n_workers,
            skip_bad,
            progress,
            watch,
            "judging",
            pooled=False,
        ):
            for index, id_ in enumerate(features.ids):
                with watch.stage("matching"):
                    cells = self._cell_scores(id_, features.pyramid[index])
                with watch.stage("maps"):
                    map_ = self._map(cells, features.sizes[index])
                score = float(map_.max() if self.score == "map" else cells.max())
                yield Prediction(id_, score, map_)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector, with its backbone's weights, to one file.

        Parameters
        ----------
        path : path-like
            The file; safetensors with a versioned header and a checksum. What is there is replaced
            only when everything is written. If it is the `folder` of `fit`, this becomes the model.

        Raises
        ------
        NotFittedError
            Before `fit`.
        StoreError
            If the file cannot be written.
        """
        self._check_fitted()
        settings, tensors = self.backbone.state()
        known = self.normal_map_max_
        config = {
            "knnspect": _core.__version__,
            "backbone": settings,
            "images": self._n_images,
            "shapes": [list(shape) for shape in self._shapes],
            **{name: plain(getattr(self, name)) for name in (*self._own, *self._shared)},
            "history": self.history_,
            "best_epoch": self.best_epoch_,
            "normal_map_max": None if np.isnan(known) else known,
        }
        arrays = {_NETWORK + name: array for name, array in self.network_.arrays().items()}
        metadata = {"config": json.dumps(config, sort_keys=True)}
        save_learnt(path, self.method, metadata, backbone_tensors(tensors) | arrays)

    @classmethod
    def _from_store(
        cls,
        store: _core.Store,
        config: dict[str, Any],
        device: str | None,
        folder: Path | None,  # noqa: ARG003 - all of it is in the file
    ) -> TrainedDetector:
        from knnspect.training.loop import stored_history

        backbone = Backbone.from_state(config["backbone"], stored_tensors(store), device)
        parameters = {name: config[name] for name in (*cls._own, *cls._shared)}
        detector: TrainedDetector = cls(backbone, **parameters)  # type: ignore[call-arg]
        detector._check_parameters()
        detector._shapes = [(height, width, n) for height, width, n in config["shapes"]]
        detector._n_images = check_count("images", config["images"])
        arrays = stored_tensors(store, _NETWORK)
        detector._check_stored(arrays)
        detector._take_over(arrays)
        detector.history_ = stored_history(config["history"])
        detector.best_epoch_ = check_count("best_epoch", config["best_epoch"], 0)
        detector.normal_map_max_ = stored_map_max(config["normal_map_max"])
        detector.seconds_ = {}
        return detector

    def _check_stored(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Raise a ValueError or KeyError unless a file has the network that its settings describe.

        The network is built without values, so that its size is known before it takes memory.
        """
        import torch

        channels = [n for _, _, n in self._shapes]
        if channels != self.backbone.channels:
            raise ValueError(f"shapes: expected {self.backbone.channels} channels, got {channels}")
        largest = self.backbone.geometry.image_size
        if any(not (1 <= h <= largest[0] and 1 <= w <= largest[1]) for h, w, _ in self._shapes):
            raise ValueError(f"shapes: expected levels within {largest}, got {self._shapes}")
        if self._n_blocks > len(arrays):
            raise ValueError(f"it has {len(arrays)} tensors for {self._n_blocks} blocks")
        with torch.device("meta"):
            planned = self._network(self._shapes)
        planned.check_arrays(arrays)

    @property
    def _n_blocks(self) -> int:
        """How many equal parts, each with tensors of its own, the network has at least."""
        return 1

    def _normal_map_max(self, found: Learnt, held: list[str]) -> float:
        ids, largest = found.gallery.ids, float("nan")
        looked_at = [held[index] for index in held_out(len(held))]
        trained = set(ids).difference(held)
        duplicates = NearDuplicates(found.gallery, found.pooled)
        for id_ in looked_at:
            duplicates.of(ids.index(id_), among=trained)
            cells = self._cell_scores(id_, found.gallery.pyramid([id_]))
            largest = float(np.fmax(largest, self._map(cells, found.sizes[id_]).max()))
        duplicates.warn(len(looked_at), "normal_map_max_ may be too small")
        return largest

    @fork_safe
    def _cell_scores(self, id_: str, pyramid: FeaturePyramid) -> Any:
        if not all(np.isfinite(level).all() for level in pyramid.levels):
            raise ImageError(f"image {id_}: its features are not finite")
        return self.network_.cell_scores(pyramid)

    def _map(self, cells: Any, size: tuple[int, int]) -> Any:
        return pixel_map(cells, self.backbone.geometry, self.sigma, size)

    def _check_parameters(self) -> None:
        check_backbone(self.backbone)
        check_count("max_epochs", self.max_epochs)
        if self.patience is not None:
            check_count("patience", self.patience)
        if not check_positive("validation_fraction", self.validation_fraction) < 1:
            raise ParameterError(
                f"validation_fraction: expected less than 1, got {self.validation_fraction}"
            )
        if check_positive("learning_rate", self.learning_rate) > _LARGEST_RATE:
            raise ParameterError(
                f"learning_rate: expected at most {_LARGEST_RATE:g}, got {self.learning_rate}"
            )
        if not isinstance(self.mixed_precision, (bool, np.bool_)):
            kind = type(self.mixed_precision).__name__
            raise DTypeError(f"mixed_precision: expected True or False, got {kind}")
        check_choice("score", self.score, ["image", "map"])
        check_choice("gallery_dtype", self.gallery_dtype, ["float32", "float16", "int8"])
        check_sigma(self.sigma)
        check_count("seed", self.seed, 0, _LARGEST_SEED)

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            name = type(self).__name__
            raise NotFittedError(
                f"this {name} is not fitted yet: call fit with normal images first"
            )


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise a StoreError, before the work, if a checkpoint cannot be written there."""
    place = check_path(path, "checkpoint").absolute()
    if is_folder(place) or not is_folder(place.parent):
        raise StoreError(f"{path}: expected a file in a folder that exists")


def split(ids: list[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Return the images to train on and those held out, at least one of two or more.

    >>> split(["a", "b", "c"], 0.1, seed=0)
    (['a', 'b'], ['c'])
    >>> split(["a"], 0.1, seed=0)
    (['a'], [])
    """
    n_held = min(max(1, round(fraction * len(ids))), len(ids) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(ids))[:n_held].tolist())
    trained = [id_ for place, id_ in enumerate(ids) if place not in chosen]
    return trained, [id_ for place, id_ in enumerate(ids) if place in chosen]


def plain(value: Any) -> Any:
    """Return a parameter as JSON has it, without NumPy's types."""
    return value.item() if isinstance(value, np.generic) else value
