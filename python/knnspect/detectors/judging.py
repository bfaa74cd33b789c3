"""Judging images: the same for every detector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Instance
from knnspect.data import open_to_judge
from knnspect.data.loading import OnBad, Views
from knnspect.detectors.judged_file import JudgedFile, noting_files
from knnspect.detectors.prediction import Prediction
from knnspect.errors import NotFittedError
from knnspect.features import Backbone, Extractor, Features
from knnspect.parameters import Parametrized, learnt, parameter
from knnspect.progress import Stopwatch
from knnspect.views import Sizes

__all__ = ["FeatureJudge", "Judge"]


class Judge(Parametrized, ABC):
    """Judges images by what it has learnt."""

    #: An attribute that it has as soon as it is fitted.
    _mark_of_fitted: ClassVar[str] = "normal_map_max_"

    #: Time taken by each stage of the last fit or predict.
    seconds_: dict[str, float] = learnt()

    if TYPE_CHECKING:  # a parameter of most

        @property
        def backbone(self) -> Extractor:
            """What makes the features."""

    @abstractmethod
    def iter_predict(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        keep_pictures: bool = False,
    ) -> Iterator[Prediction]:
        """Judge images one after the other, in order, without keeping them all.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            As in `predict`.
        keep_pictures : bool, default False
            Give the image as it came with each prediction, but for those of more than 2^24 pixels,
            of which a batch would fill the memory.

        Returns
        -------
        iterator of Prediction
            One per image, in order.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            While iterating: if an image cannot be used, or there is none.
        """

    def predict(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> list[Prediction]:
        """Judge images.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that are handled together. On the CPU predictions do not depend on it; on a GPU
            another size may round otherwise, but never the images that share a batch.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool or callable, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising; or
            call this with the id and the error of each.
        progress : bool, default False
            Report progress on standard error.

        Returns
        -------
        list of Prediction
            One per image, in order.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If an image cannot be used, or there is none.
        """
        return list(
            self.iter_predict(
                images,
                batch_size=batch_size,
                n_workers=n_workers,
                skip_bad=skip_bad,
                progress=progress,
            )
        )

    def scores(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> NDArray[np.float64]:
        """Return the score of each image; larger is worse.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            As in `predict`.

        Returns
        -------
        ndarray of float64, shape (n_images,)
            In the order of the images. Maps are not kept.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            If an image cannot be used, or there is none.
        """
        predictions = self.iter_predict(
            images,
            batch_size=batch_size,
            n_workers=n_workers,
            skip_bad=skip_bad,
            progress=progress,
        )
        return np.array([prediction.score for prediction in predictions])

    def _check_fitted(self) -> None:
        if not hasattr(self, self._mark_of_fitted):
            name = type(self).__name__
            raise NotFittedError(
                f"this {name} is not fitted yet: call fit with normal images first"
            )


class FeatureJudge(Judge):
    """Judges images by features that go through it batch by batch.

    Parameters
    ----------
    backbone : Backbone, optional
        What makes the features; each method has its own default.
    """

    backbone: Extractor = parameter(
        Instance(Backbone), default_factory=lambda: Backbone(), kw_only=False
    )

    #: Whether judging needs the pooled features of images.
    _needs_pooled: ClassVar[bool] = False

    #: The sizes of the normal images, where they are known.
    _normal_sizes: Sizes | None = learnt()

    @property
    def _query_views(self) -> Views | None:
        """What of each image goes through the network; None: the image as it is."""
        return None

    @abstractmethod
    def _judge(self, features: Features, watch: Stopwatch) -> Iterator[Prediction]:
        """Judge the images of a batch, in order."""

    def iter_predict(  # noqa: D102 - the text is inherited
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        keep_pictures: bool = False,
    ) -> Iterator[Prediction]:
        self._check_fitted()
        self.check_params()
        self._check_against_learnt()
        watch = Stopwatch()
        files: dict[str, JudgedFile] = {}
        batches = self.backbone.iterate(
            noting_files(open_to_judge(self.backbone.opened(images)), files),
            batch_size,
            n_workers,
            skip_bad,
            progress,
            watch,
            "judging",
            pooled=self._needs_pooled,
            keep_pictures=keep_pictures,
            views=self._query_views,
        )
        predictions = self._iter_predict(batches, watch)
        return (replace(one, file=files.pop(one.id, None)) for one in predictions)

    iter_predict.__doc__ = Judge.iter_predict.__doc__

    def _iter_predict(self, batches: Iterator[Features], watch: Stopwatch) -> Iterator[Prediction]:
        self.seconds_ = watch.seconds
        yield from self._judge_batches(batches, watch)

    def _judge_batches(self, batches: Iterator[Features], watch: Stopwatch) -> Iterator[Prediction]:
        """Judge the images of all batches, in order."""
        for features in batches:
            for index, prediction in enumerate(self._judge(features, watch)):
                yield replace(
                    prediction,
                    placement=features.placements[index],
                    normal_sizes=self._normal_sizes,
                    picture=features.pictures[index],
                )

    def _check_against_learnt(self) -> None:
        """Raise a ParameterError if a parameter does not suit what was learnt."""
