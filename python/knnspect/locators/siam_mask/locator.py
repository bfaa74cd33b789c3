"""SiamMask: a network, trained on pasted pictures of the part, that finds it and draws its mask."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.calibration import Calibration
from knnspect.constraints import Count, Positive
from knnspect.data import ImageArray, open_images, open_sequence
from knnspect.data.sources import ImageItem
from knnspect.errors import ImageError, ParameterError, errors_about
from knnspect.extras import require
from knnspect.features import Backbone
from knnspect.forked import fork_safe
from knnspect.locators.base import Best, Locator
from knnspect.locators.found import FoundPart
from knnspect.locators.siam_mask.geometry import CELLS, INPUT, factor_of
from knnspect.locators.siam_mask.learning import Learning, Plan
from knnspect.locators.siam_mask.parts import template_window
from knnspect.locators.siam_mask.places import Place, Places
from knnspect.locators.siam_mask.tracking import Follower
from knnspect.parameters import learnt, parameter, plain
from knnspect.validation import stored_history

if TYPE_CHECKING:
    from typing_extensions import Self

    from knnspect.locators.siam_mask.networks.judging import Judge, Said
    from knnspect.locators.siam_mask.networks.siamese import Siamese

__all__ = ["SiamMask"]

#: Before the names of the network's tensors in a file.
_NETWORK = "network."


def _default_backbone() -> Backbone:
    return Backbone(levels=(0, 1, 2, 3), image_size=INPUT)


class SiamMask(Locator):
    """Finds a part of a kind and draws its mask, by a network trained on pasted pictures.

    Frozen features of the template and of a window of an image, twice as wide, each go through a
    3x3 convolution, are correlated channel by channel, and judged at 25 x 25 locations: whether the
    part is there, its box and turn, and, where it is, its mask of 127 x 127 pixels, drawn by finer
    features, too. Windows lie all over an image; one more is laid around the best place.

    To train the small network on top of the features, the part of the template and other ones are
    cut out and pasted in other places, turns, scales and lights.

    Parameters
    ----------
    backbone : Extractor
        What makes the features: of 256 x 256 pixels, one level with stride 8 and, if there are,
        finer ones, which draw masks, and coarser ones.
    turn : float, default 180
        Degrees by which parts are turned, at most, either way. 180: they lie anyhow.
    smallest, largest : float, default 0.7 and 1.4
        How many times as large as in the template, pixel for pixel, a part may be.
    width : int, default 64
        Channels of the network.
    pairs : int, default 1024
        Windows of an epoch.
    max_epochs : int, default 8
        Epochs. Each window takes about a twentieth of a second of one core.
    learning_rate : float, default 2e-3
        Adam's, at its highest.
    seed : int, default 0
        Decides the network at the beginning, and what is pasted.
    scale_penalty : float, default 0.04
        Tracking: how much places count less whose box changes its size or shape between frames.
    window_influence : float, default 0.3
        Tracking: how much being near the last place counts, of 1.
    least_score : float, default 0.5
        The score from which on a part counts as found, where no normal frames tell.

    Attributes
    ----------
    history_ : list of dict
        For each epoch its "loss".

    Source
    ------
    Wang, Zhang, Bertinetto, Hu and Torr, "Fast Online Object Tracking and Segmentation: A Unifying
    Approach" (2019), the variant of three branches. Deviations:

    - the backbone is frozen, and may be any; the paper fine-tunes a ResNet-50;
    - windows have 256 pixels, and show one row and column more than the paper's 255; the template,
      127 pixels, is shown in the middle of such a window, and its 8 x 8 middle cells count (7 x 7);
    - the network learns one kind of part, from pairs that are pasted, not tracking, from videos;
    - one anchor, the template's box, so that 12 pixels around the part's middle count as the part,
      and what is farther than 24 as none; boxes and turns are learnt where the part is;
    - the box branch also tells the turn, its cosine and sine, as parts are to be turned upright;
    - all is trained at once, with Adam; the paper trains the refinement after the rest;
    - masks go on beyond the border of an image; from .5 on, not .3, a pixel is the part's.

    Notes
    -----
    Of what is set after `fit`, `least_score`, `false_alarm_rate`, `scale_penalty` and
    `window_influence` count at once, all else from the next `fit` on.

    Examples
    --------
    >>> import knnspect as ks
    >>> frame = np.full((200, 240, 3), 90, np.uint8)
    >>> frame[60:120, 50:110] = np.kron(np.eye(4)[..., None] * 200, np.ones((15, 15, 3)))
    >>> locator = SiamMask(turn=0, width=16, pairs=64, max_epochs=3)
    >>> found = locator.fit(frame, box=(60, 50, 120, 110)).locate(np.roll(frame, (20, 70), (0, 1)))
    >>> found.mask.shape, 0 <= found.score <= 1
    ((200, 240), True)
    """

    backbone: Backbone = parameter(default_factory=_default_backbone, kw_only=False)
    turn: float = parameter(Positive(or_zero=True, at_most=180), default=180.0)
    smallest: float = parameter(Positive(), default=0.7)
    largest: float = parameter(Positive(), default=1.4)
    width: int = parameter(Count(maximum=1024), default=64)
    pairs: int = parameter(Count(maximum=10**6), default=1024)
    max_epochs: int = parameter(Count(), default=8)
    learning_rate: float = parameter(Positive(at_most=1e6), default=2e-3)
    seed: int = parameter(Count(minimum=0, maximum=2**63 - 1), default=0)
    scale_penalty: float = parameter(
        Positive(or_zero=True, at_most=100), default=0.04, changes_training=False
    )
    window_influence: float = parameter(
        Positive(or_zero=True, below=1), default=0.3, changes_training=False
    )
    least_score: float = parameter(default=0.5, changes_training=False)
    false_alarm_rate: float | None = parameter(default=None, changes_training=False)

    method = "siam_mask"

    history_: list[dict[str, float]] = learnt()
    _siamese: Siamese = learnt()
    _judge: Judge = learnt()
    _places: Places = learnt()

    def fit(
        self,
        template: object,
        *,
        box: object = None,
        mask: object = None,
        frames: object = None,
        parts: object = None,
        masks: object = "foreground",
        backgrounds: object = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> Self:
        """Learn what to look for.

        Parameters
        ----------
        template, box, mask : object
            A picture of the part; see `Locator.fit`.
        frames : folder, file, list of paths, arrays or PIL images, array, or loader, optional
            Images that show the part, by which the threshold is calibrated. Pieces of them, too
            small for the part, are also what parts are pasted on.
        parts : like `frames`, optional
            Pictures of other parts of the kind, one in each, as large as in the template: a network
            that saw several finds others. By default the template's is the only one.
        masks : {"foreground", "template"}, list or dict of masks, default "foreground"
            Where `parts` show theirs: told by features, which needs a ground unlike the part;
            where the template shows its own; or a mask for each picture.
        backgrounds : like `frames`, optional
            Images without the part, on which it is pasted, best such as it will lie on. Else
            it is pasted on patterns and on pieces of all other images.
        checkpoint : path-like, optional
            A file from which training goes on after an interruption.
        progress : bool, default False
            Report progress on standard error.

        Returns
        -------
        SiamMask
            Itself.

        Raises
        ------
        ParameterError, ShapeError, DTypeError
            If a parameter lies outside its values, the backbone has no level of stride 8, or box or
            masks do not suit the images.
        ImageError
            If an image cannot be used, or the foreground of one cannot be told.
        CalibrationError
            If there are too few frames for the `false_alarm_rate`.
        MissingPackageError
            If PyTorch is not installed.
        """
        require("torch", for_="SiamMask")
        self.check_params()
        picture, part = self._cut_out(template, box, mask)
        fitted = type(self)(**self.get_params(deep=False))
        fitted._check()
        if frames is not None:
            fitted._check_number(frames)
        learning = Learning.of(
            fitted.backbone, picture, part, (box, mask), parts, masks, frames, backgrounds
        )
        siamese = fitted._new_network()
        fitted.history_ = learning.train(siamese, fitted._plan(), checkpoint, progress)
        fitted._siamese = siamese
        fitted.restore(part, None)
        if frames is not None:
            fitted._calibrate(frames)
        vars(self).update(vars(fitted))
        return self

    def track(self, frames: object) -> Iterator[FoundPart]:
        """Find the part in frames in their order, each near to where it was in the one before.

        Where it is lost, its score below the threshold, the whole frame is searched, as is the
        first one. The template stays the same.

        Parameters
        ----------
        frames : path, or anything that `knnspect.data.open_images` takes
            A video file, a numbered folder, or images in their order; see
            `knnspect.data.open_sequence`.

        Yields
        ------
        FoundPart
            That of the next frame.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If an image cannot be used, or is smaller than the part.
        """
        for _, found in self.tracked(frames):
            yield found

    def tracked(self, frames: object) -> Iterator[tuple[ImageItem, FoundPart]]:
        """Yield each frame with what `track` says of it."""
        follow, reader = self.follower(), self.backbone.reader()
        for item in open_images(self.backbone.opened(open_sequence(frames))):
            yield item, follow(item, item.read(reader))
            reader.warn(at_end=False)
        reader.warn()

    def follower(self) -> Callable[[ImageItem, ImageArray], FoundPart]:
        """Return what takes each frame, in order, and says of it what `track` says."""
        self._check_fitted()
        self.check_params()
        follower = Follower(
            self._places, self.threshold_, self.scale_penalty, self.window_influence
        )

        def follow(item: ImageItem, image: ImageArray) -> FoundPart:
            with errors_about(image=item.id, path=item.file):
                try:
                    place = follower.follow(image)
                except ImageError as error:
                    raise ImageError(f"image {item.id}: {error}") from None
            return self._as_found(item, self._as_best(place, image))

        return follow

    def levels(self, window: ImageArray) -> list[NDArray[np.float32]]:
        """Return the frozen features of a window, (256, 256, 3): levels, each of one image."""
        features = next(self.backbone.iterate([window], 1, 0, pooled=False))
        return [np.asarray(level) for level in features.pyramid.levels]

    def _check(self) -> None:
        if self.smallest > self.largest:
            raise ParameterError(
                f"smallest: expected at most largest, {self.largest:g}, got {self.smallest:g}",
                parameter="smallest",
            )
        size = self.backbone.geometry.image_size
        sides = {shape[:2] for shape in self._shapes()} if size == (INPUT, INPUT) else set()
        if (CELLS, CELLS) not in sides or any(
            height != width or max(height, CELLS) % min(height, CELLS) for height, width in sides
        ):
            raise ParameterError(
                f"backbone: expected image_size={INPUT} and a level of stride {INPUT // CELLS}, "
                f"such as Backbone(levels=(0, 1, 2, 3), image_size={INPUT}), got {self.backbone!r}",
                parameter="backbone",
            )

    def _check_number(self, frames: object) -> None:
        """Raise a CalibrationError, before the work, if there are too few frames for the rate."""
        n_frames = open_images(frames).n_images
        if n_frames is not None:
            scores = [0.0] * n_frames
            Calibration(scores, scores).rate(self.false_alarm_rate)

    def _plan(self) -> Plan:
        parameters: dict[str, Any] = {
            name: plain(getattr(self, name))
            for name, declared in self.parameters.items()
            if declared.changes_training and name != "backbone"
        }
        backbone = {f"backbone {name}": v for name, v in self.backbone.fingerprint().items()}
        return Plan(
            self.turn,
            (self.smallest, self.largest),
            self.pairs,
            self.max_epochs,
            self.learning_rate,
            self.seed,
            self.levels,
            {"method": self.method, **parameters, **backbone},
        )

    def _shapes(self) -> list[tuple[int, int, int]]:
        levels = self.levels(np.zeros((INPUT, INPUT, 3), np.uint8))
        return [(each.shape[1], each.shape[2], each.shape[3]) for each in levels]

    @fork_safe
    def _new_network(self) -> Siamese:
        import torch

        from knnspect.locators.siam_mask.networks.siamese import Siamese

        # The generator of the whole process is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = Siamese(self._shapes(), self.width)
        return network.to(self.backbone.torch_device)

    def _prepare(self) -> None:
        from knnspect.locators.siam_mask.networks.judging import Judge

        template = template_window(self.part_, factor_of(self.part_))
        self._judge = Judge(self._siamese, self.levels(template))
        self._places = Places(self.part_, self._look, (self.smallest, self.largest))

    def _look(self, window: ImageArray) -> Said:
        return self._judge.judge(self.levels(window))

    def _best(self, image: ImageArray) -> Best:
        return self._as_best(self._places.search(image), image)

    def _as_best(self, place: Place, image: ImageArray) -> Best:
        view = self._places.view(place, (image.shape[0], image.shape[1]))
        return Best(place.score, view, place.drawn)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what files have of the network."""
        return {_NETWORK + name: array for name, array in self._siamese.arrays().items()}

    def state(self) -> dict[str, Any]:
        """Return what else files have."""
        return {"history": self.history_}

    def take_over(self, state: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        """Take over what `state` and `arrays` returned, before `restore`.

        Raises
        ------
        ParameterError, KeyError, ValueError
            If they do not go together with the parameters.
        """
        require("torch", for_="SiamMask")
        self._check()
        network = self._new_network()
        network.load_arrays({name.removeprefix(_NETWORK): array for name, array in arrays.items()})
        self._siamese, self.history_ = network, stored_history(state["history"])

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters, and the network as arrays."""
        if not hasattr(self, "part_"):
            return dict(vars(self))
        kept = {k: v for k, v in vars(self).items() if k not in ("_siamese", "_judge", "_places")}
        return {**kept, "_arrays": self.arrays()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("_arrays", None)
        vars(self).update(state)
        if arrays is not None:
            self.take_over(self.state(), arrays)
            self._prepare()
