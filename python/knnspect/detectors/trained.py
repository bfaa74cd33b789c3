"""What methods have in common that train a network on normal images, or on their features."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.calibration.blocks import blocks_of, merged_blocks
from knnspect.constraints import Count, Flag, Optional, Positive
from knnspect.detectors.scoring import ScoringDetector
from knnspect.detectors.state import State
from knnspect.errors import ImageError, StoreError
from knnspect.extras import require
from knnspect.files import check_path, is_folder
from knnspect.forked import fork_safe
from knnspect.memory import check_memory, parse_bytes
from knnspect.model_files import StoredModel
from knnspect.normal_features import NormalFeatures, Run
from knnspect.normal_features.checks import evenly_spaced
from knnspect.normal_features.folder import CHECKPOINT
from knnspect.normal_features.near_duplicates import SHARE, NearDuplicates
from knnspect.parameters import learnt, parameter, plain
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count, stored_history

if TYPE_CHECKING:
    from knnspect.detectors.heads.scorers.arrays import ArrayScorer
    from knnspect.training.checkpoint import Checkpoint
    from knnspect.training.network import TrainableNetwork

__all__ = ["TrainedDetector"]

#: Before the names of the network's tensors in a file.
_NETWORK = "network."
#: What PyTorch's generators take, and what does not overflow in float32 at the first step.
_LARGEST_SEED, _LARGEST_RATE = 2**63 - 1, 1e6


class TrainedDetector(ScoringDetector):
    """A detector that trains a network.

    Subclasses say what the network is, what it depends on, and how it judges an image.

    Parameters
    ----------
    max_epochs : int
        Passes through all images.
    patience : int or None
        Stop after so many epochs without a lower loss of the images held out, and keep the weights
        of the best epoch; None: never stop, and keep the last.
    validation_fraction : float, default 0.1
        The share of the normal images that is held out: at least one, unless there is only one.
    learning_rate : float
        The optimizer's, at its highest.
    mixed_precision : bool, default True
        Train in bfloat16 on CUDA devices that have it. Scores are float32 always.
    seed : int, default 0
        Decides the weights at the beginning, which images are held out, and the order of
        what is learnt.

    Attributes
    ----------
    history_ : list of dict
        For each epoch its "loss" and, where images are held out, "held_out_loss".
    best_epoch_ : int
        The epoch whose weights were kept, from 1.
    normal_map_max_ : float
        The largest map value of the images held out (at most 16 of them, evenly spaced): what a
        value of a map is to be held against. NaN where there are none.
    """

    max_epochs: int = parameter(Count(), default=12)
    patience: int | None = parameter(Optional(Count()), default=None)
    validation_fraction: float = parameter(Positive(below=1), default=0.1)
    learning_rate: float = parameter(Positive(at_most=_LARGEST_RATE), default=1e-3)
    mixed_precision: bool = parameter(Flag(), default=True)
    seed: int = parameter(Count(minimum=0, maximum=_LARGEST_SEED), default=0)

    trains: ClassVar[bool] = True
    #: The share of the usual difference below which images are near-duplicates.
    _share_of_duplicates: ClassVar[float] = SHARE
    #: What must be installed for the network.
    _needs: ClassVar[tuple[str, ...]] = ("torch",)
    _mark_of_fitted: ClassVar[str] = "network_"
    #: What was trained, or what judges in its place without PyTorch.
    network_: Any = learnt()
    history_: list[dict[str, float]] = learnt()
    best_epoch_: int = learnt()

    @abstractmethod
    def _network(self, shapes: list[tuple[int, int, int]]) -> TrainableNetwork[FeaturePyramid]:
        """Build the untrained network for features of these shapes."""

    def _scorer(
        self,
        arrays: dict[str, NDArray[Any]],  # noqa: ARG002 - subclasses need them
    ) -> ArrayScorer | None:
        """Return what judges without PyTorch, by the network's arrays; None if nothing does.

        Raises
        ------
        KeyError, ValueError
            If the arrays are not those of the network.
        """
        return None

    @property
    def _n_blocks(self) -> int:
        """How many equal parts, each with tensors of its own, the network has at least."""
        return 1

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
        """Build the network, or what judges in its place, of what its `arrays` returned."""
        scorer = self._scorer(arrays) if self.backbone.is_exported else None
        if scorer is not None:
            self.network_ = scorer
            return
        network = self._new_network(self._shapes)
        network.load_arrays(arrays)
        self.network_ = network.eval()

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        self._check_fitted()
        return sum(array.nbytes for array in self.network_.arrays().values())

    def _require(self) -> None:
        """Raise a MissingPackageError, before the work, if the network cannot be built here."""
        require(*self._needs, for_=type(self).__name__)

    def _follow_backbone(self) -> None:
        self._take_over(self.network_.arrays())

    def _prepare(self, run: Run) -> None:
        self._require()
        # The user's own path may be a link to the file; names in a folder are no links of ours.
        run.follow_links = run.checkpoint is not None
        if run.max_memory is not None:
            parse_bytes("max_memory", run.max_memory)
        if run.checkpoint is not None:
            _check_place(run.checkpoint)
        elif run.folder is not None:
            run.checkpoint = check_path(run.folder, "folder") / CHECKPOINT
        # A white level that is found on the images is not known yet; then `Training` checks alone.
        if run.checkpoint is not None and self.backbone.white != "auto":
            self._checkpoint(run.checkpoint, run).check()

    def _learn(self, normal: NormalFeatures, run: Run) -> None:
        self._note_params()
        n_images = len(normal.gallery)
        if n_images < self.fewest_images:
            raise ImageError(
                f"images: {type(self).__name__} needs at least {self.fewest_images} normal images "
                f"to learn from, got {n_images}"
            )
        with run.watch.stage("training"):
            held = self._train(normal, run)
        with run.watch.stage("calibration"):
            self._calibrate(normal, held, run)

    def _train(self, normal: NormalFeatures, run: Run) -> list[str]:
        """Train a new network; return the images that were held out."""
        from knnspect.training.loop import Training, TrainingSettings
        from knnspect.training.sources import FeatureSource

        gallery = normal.gallery
        limit = None if run.max_memory is None else parse_bytes("max_memory", run.max_memory)
        learnable = self._ids_to_learn(normal, run)
        ids, held = split(learnable, self.validation_fraction, self.seed)
        network = self._new_network(gallery.shapes)
        training = Training(
            network,
            FeatureSource(gallery),
            ids,
            held,
            TrainingSettings(self.max_epochs, self.patience, self.seed, bool(self.mixed_precision)),
            None
            if run.checkpoint is None
            else self._checkpoint(run.checkpoint, run, normal.digests),
            lambda: check_memory(limit, "raise it: batches of images and the network need more"),
        )
        training.run(run.progress)
        self.network_ = network
        self.history_, self.best_epoch_ = training.history, training.best_epoch
        self._n_images, self._shapes = len(learnable), gallery.shapes
        return held

    def _ids_to_learn(self, normal: NormalFeatures, run: Run) -> list[str]:  # noqa: ARG002
        """Return the images that are learnt from or held out; others are as if not there."""
        return normal.gallery.ids

    @fork_safe
    def _new_network(self, shapes: list[tuple[int, int, int]]) -> TrainableNetwork[FeaturePyramid]:
        self._require()
        import torch

        # The generator of the whole process is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self._network(shapes)
        return network.to(self.backbone.torch_device)

    def _checkpoint(
        self, path: str | os.PathLike[str], run: Run, digests: dict[str, bytes] | None = None
    ) -> Checkpoint:
        """Return the checkpoint of a training on some images, by all that it depends on."""
        from knnspect.training.checkpoint import Checkpoint

        parameters = {
            name: plain(getattr(self, name))
            for name, declared in self.parameters.items()
            if declared.is_saved and declared.changes_training and name != "backbone"
        }
        backbone = {f"backbone {name}": v for name, v in self.backbone.fingerprint().items()}
        return Checkpoint(
            path,
            {"method": self.method, **parameters, **backbone},
            {id_: digest.hex() for id_, digest in sorted((digests or {}).items())},
            follow_links=run.follow_links,
        )

    def _scored_of(
        self, ids: list[str], normal: NormalFeatures
    ) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Yield the scores and maps of normal images."""
        for id_ in ids:
            pyramid, placement = normal.gallery.pyramid([id_]), normal.placement(id_)
            yield self._scored(id_, pyramid, placement, Stopwatch())

    def _state(self) -> State:
        arrays = self.network_.arrays()
        return State(
            {
                "images": self._n_images,
                "shapes": [list(shape) for shape in self._shapes],
                "history": self.history_,
                "best_epoch": self.best_epoch_,
            },
            {_NETWORK + name: array for name, array in arrays.items()},
        )

    def _set_state(self, stored: StoredModel) -> None:
        config = stored.config
        self._set_size(config)
        arrays = stored.tensors(_NETWORK)
        self._check_stored(arrays)
        self._take_over(arrays)
        self.history_ = stored_history(config["history"])
        self.best_epoch_ = check_count("best_epoch", config["best_epoch"], 0)

    def _check_stored(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Raise a ValueError or KeyError unless a file has the network that its settings describe.

        The network is built without values, so that its size is known before it takes memory.
        """
        if self._n_blocks > len(arrays):
            raise ValueError(f"it has {len(arrays)} tensors for {self._n_blocks} blocks")
        if self.backbone.is_exported and self._scorer(arrays) is not None:
            return
        self._require()
        import torch

        with torch.device("meta"):
            planned = self._network(self._shapes)
        planned.check_arrays(arrays)

    def _calibrate(self, normal: NormalFeatures, held: list[str], run: Run) -> None:
        """Judge images that were held out: for the scale of maps, and for decisions."""
        ids = normal.gallery.ids
        few = {held[index] for index in evenly_spaced(len(held))}
        duplicates = NearDuplicates(normal.gallery, normal.pooled, share=self._share_of_duplicates)
        trained, pairs = set(ids).difference(held), []
        largest = float("nan")
        judged: dict[str, tuple[float, float]] = {}
        chosen = held if run.calibrates else sorted(few)
        for id_, (score, map_) in zip(chosen, self._scored_of(chosen, normal), strict=True):
            near = duplicates.of(ids.index(id_))
            pairs += [(id_, other) for other in near if other not in trained]
            judged[id_] = (score, float(map_.max()))
            if id_ in few:
                largest = float(np.fmax(largest, judged[id_][1]))
        duplicates.warn(
            len(judged), "normal_map_max_, and scores of images held out, may be too small"
        )
        self.normal_map_max_ = largest
        if run.calibrates and judged:
            scores, maxima = zip(*judged.values(), strict=True)
            blocks = merged_blocks(held, pairs, blocks_of(held, run.blocks))
            self._take(Calibration(scores, maxima, "validation", ids=held, blocks=blocks))


def _check_place(path: str | os.PathLike[str]) -> None:
    """Raise a StoreError, before the work, if a checkpoint cannot be written there."""
    place = check_path(path, "checkpoint").absolute()
    if is_folder(place) or not is_folder(place.parent):
        raise StoreError(f"{path}: expected a file in a folder that exists", path=place)


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
