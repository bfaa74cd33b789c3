"""SPADE: semantic pyramid anomaly detection."""

from __future__ import annotations

import heapq
import json
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import Backend
from knnspect.data import open_to_judge
from knnspect.detectors.base import Detector, Prediction
from knnspect.detectors.border import BorderFactors
from knnspect.detectors.building import learn, save_learnt, stored_gallery, stored_pooled
from knnspect.detectors.learning import (
    backbone_tensors,
    check_parameters,
    check_pooled,
    held_out,
    naming_images,
    stored_map_max,
    stored_tensors,
)
from knnspect.detectors.maps import pixel_map
from knnspect.detectors.near_duplicates import LEFT_OUT, NearDuplicates
from knnspect.errors import NotFittedError, ParameterError, ShapeError
from knnspect.features import Backbone, Features
from knnspect.gallery import Gallery
from knnspect.progress import Stopwatch
from knnspect.search import Neighbors
from knnspect.validation import check_count

__all__ = ["Spade"]


class Spade(Detector):
    """Compare an image with its nearest normal images, cell by cell.

    *Image stage*: the K normal images whose pooled features are nearest. *Pixel stage*: for each
    cell of the feature pyramid, the kappa nearest cells in those K images, wherever they lie.

    - image score: mean of the K smallest squared distances between pooled features;
    - pixel score: mean of the kappa smallest squared distances between upsampled, concatenated
      features, near the border divided by how much larger those of normal images are there; the
      map of these is upsampled bilinearly and blurred.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone()`` by default.
    image_neighbors : int, default 50
        K. Larger than the number of normal images, it means all of them, with a warning.
    pixel_neighbors : int, default 1
        kappa.
    score : {"image", "map"}, default "image"
        The image score of the paper, or the maximum of the map.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How the gallery keeps features; see `Gallery`.
    sigma : float, default 4.0
        Standard deviation of the map's Gaussian blur in pixels of a 224 px input; 0: none.
    backend : str or Backend, default "auto"
        What searches the gallery; see `knnspect.backends`.
    threads : int, optional
        Threads of the search; by default all that the process may use.

    Attributes
    ----------
    gallery_ : Gallery
        The pyramids of the normal images.
    pooled_ : ndarray of float32, shape (n_images, n_features)
        Their pooled features, in the order of ``gallery_.ids``.
    image_neighbors_ : int
        K as it is used: at most the number of normal images. Parameters of prediction
        (`image_neighbors`, `pixel_neighbors`, `score`, `sigma`) may be changed after `fit`.
    border_ : BorderFactors
        What the scores of cells near the border are divided by, as normal cells are farther from
        their nearest there.
    normal_map_max_ : float
        The largest map value of normal images, each compared with the others only (at most 16 of
        them, evenly spaced): what a value of a map is to be held against. Near-duplicates of an
        image, such as the next frame of a video, are not compared with it. NaN where no other image
        is left.
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (filling it, and `normal_map_max_`), "retrieval" (the image stage),
        "matching" (the pixel stage), "maps".

    Source
    ------
    Cohen and Hoshen, "Sub-Image Anomaly Detection with Deep Pyramid Correspondences" (2020),
    sections 3.1 to 3.3. Deviations: the backbone and the levels are free; K of the image stage and
    kappa are separate parameters, as they need different values; normal images say how
    much larger distances are at the border, and the map goes on beyond it with its median (see
    `BorderFactors`, `pixel_map`).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> spade = Spade(Backbone(image_size=64), image_neighbors=5, score="map")
    >>> good, bad = spade.fit(normal[1:]).predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(18 <= row <= 32 and 28 <= column <= 42)
    True
    """

    method: ClassVar[str] = "spade"
    gallery_: Gallery
    pooled_: NDArray[np.float32]

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        image_neighbors: int = 50,
        pixel_neighbors: int = 1,
        score: Literal["image", "map"] = "image",
        upsample: Literal["bilinear", "block"] = "bilinear",
        gallery_dtype: Literal["float32", "float16", "int8"] = "float32",
        sigma: float = 4.0,
        backend: str | Backend = "auto",
        threads: int | None = None,
    ) -> None:
        self.backbone = Backbone() if backbone is None else backbone
        self.image_neighbors = image_neighbors
        self.pixel_neighbors = pixel_neighbors
        self.score = score
        self.upsample = upsample
        self.gallery_dtype = gallery_dtype
        self.sigma = sigma
        self.backend = backend
        self.threads = threads

    def __repr__(self) -> str:
        return (
            f"Spade({self.backbone!r}, image_neighbors={self.image_neighbors}, "
            f"pixel_neighbors={self.pixel_neighbors}, score={self.score!r}, "
            f"upsample={self.upsample!r}, gallery_dtype={self.gallery_dtype!r}, "
            f"sigma={self.sigma:g})"
        )

    @property
    def image_neighbors_(self) -> int:
        """K as it is used: at most the number of normal images."""
        self._check_fitted()
        return min(self.image_neighbors, len(self.gallery_))

    @property
    def n_images_(self) -> int:
        """Number of normal images that were learnt from."""
        self._check_fitted()
        return len(self.gallery_)

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt: the gallery and the pooled features."""
        self._check_fitted()
        return self.gallery_.nbytes + self.pooled_.nbytes

    def fit(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool = False,
        progress: bool = False,
        max_memory: int | str | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> Spade:
        """Build the gallery of normal images.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            Normal images, as `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that are handled together; see `predict`.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising.
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
            `fit` with some more images costs only these.

        Returns
        -------
        Spade
            Itself.

        Raises
        ------
        ImageError
            If an image cannot be used, there is none, or the features are constant or not finite.
        ParameterError, DTypeError
            If a parameter of the detector or its backbone lies outside its values.
        StoreError
            If the backbone's weights cannot be read, or the folder cannot be written or is full.
        MemoryError
            If more than `max_memory` is in use.
        """
        self._check_parameters()
        watch = Stopwatch()
        found = learn(
            self.backbone,
            images,
            Gallery(self.upsample, self.gallery_dtype),
            batch_size=batch_size,
            n_workers=n_workers,
            skip_bad=skip_bad,
            progress=progress,
            watch=watch,
            max_memory=max_memory,
            folder=folder,
        )
        learnt = copy(self)  # so that a failure leaves what was learnt before
        learnt.gallery_ = found.gallery
        learnt.pooled_ = found.pooled
        learnt._check_pixel_neighbors()
        with watch.stage("gallery"):
            learnt._calibrate(found.sizes)
        learnt.seconds_ = watch.seconds
        self.__dict__.update(learnt.__dict__)
        n_images = len(self.gallery_)
        if self.image_neighbors > n_images:
            warnings.warn(
                f"image_neighbors={self.image_neighbors} exceeds the number of normal images: "
                f"using all {n_images}",
                stacklevel=2,
            )
        return self

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
            One per image, in order.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ImageError
            While iterating: if an image cannot be used, or there is none.
        """
        self._check_fitted()
        self._check_parameters()
        self._check_pixel_neighbors()
        return self._iter_predict(images, batch_size, n_workers, skip_bad, progress)

    def _iter_predict(
        self, images: object, batch_size: int, n_workers: int, skip_bad: bool, progress: bool
    ) -> Iterator[Prediction]:
        watch = Stopwatch()
        self.seconds_ = watch.seconds
        for features in self.backbone.iterate(
            open_to_judge(images), batch_size, n_workers, skip_bad, progress, watch, "judging"
        ):
            with watch.stage("retrieval"):
                check_pooled(features)
                nearest = [self.nearest_images(pooled) for pooled in features.pooled]
            with watch.stage("matching"):
                neighbors = self._match(features, [[id_ for id_, _ in near] for near in nearest])
            for index, near in enumerate(nearest):
                with watch.stage("maps"):
                    prediction = self._prediction(
                        features.ids[index],
                        features.sizes[index],
                        near,
                        neighbors[index],
                    )
                yield prediction

    def nearest_images(
        self, pooled: NDArray[np.float32], without: str | Collection[str] = ()
    ) -> list[tuple[str, float]]:
        """Return the K normal images that an image is compared with: the image stage alone.

        Parameters
        ----------
        pooled : ndarray of float32, shape (n_features,)
            The image's pooled features, as `Backbone.extract` gives them.
        without : str or collection of str, default ()
            Ids of normal images to leave out.

        Returns
        -------
        list of (str, float)
            Ids and squared L2 distances, nearest first; ties go to the lowest id.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ShapeError
            If `pooled` has another shape.
        """
        self._check_fitted()
        if pooled.shape != self.pooled_.shape[1:]:
            raise ShapeError(f"pooled: expected shape {self.pooled_.shape[1:]}, got {pooled.shape}")
        left_out = {without} if isinstance(without, str) else set(without)
        sq_distances = np.concatenate(
            [
                np.square(np.subtract(others, pooled, dtype=np.float64)).sum(axis=1)
                for others in np.array_split(self.pooled_, 1 + len(self.pooled_) // 1024)
            ]
        )
        pairs = zip(sq_distances.tolist(), self.gallery_.ids, strict=True)
        nearest = heapq.nsmallest(self.image_neighbors_, (p for p in pairs if p[1] not in left_out))
        return [(id_, sq_distance) for sq_distance, id_ in nearest]

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
        settings, tensors = self.backbone.state()
        config = {
            "knnspect": _core.__version__,
            "backbone": settings,
            "image_neighbors": int(self.image_neighbors),
            "pixel_neighbors": int(self.pixel_neighbors),
            "score": self.score,
            "upsample": self.gallery_.upsample,
            "sigma": float(self.sigma),
            "border_factors": self.border_.factors.tolist(),
            "normal_map_max": None if np.isnan(self.normal_map_max_) else self.normal_map_max_,
        }
        save_learnt(
            path,
            self.method,
            {"config": json.dumps(config, sort_keys=True)},
            backbone_tensors(tensors),
            self.gallery_,
            {"pooled": self.pooled_},
        )

    @classmethod
    def _from_store(
        cls,
        store: _core.Store,
        config: dict[str, Any],
        device: str | None,
        folder: Path | None,
    ) -> Spade:
        gallery = stored_gallery(store, folder)
        spade = cls(
            Backbone.from_state(config["backbone"], stored_tensors(store), device),
            image_neighbors=config["image_neighbors"],
            pixel_neighbors=config["pixel_neighbors"],
            score=config["score"],
            upsample=config["upsample"],
            gallery_dtype=gallery.dtype,  # type: ignore[arg-type]  # one of the three
            sigma=config["sigma"],
        )
        spade._check_parameters()
        spade.gallery_ = gallery
        spade.pooled_ = stored_pooled(store, folder, gallery)
        spade.border_ = BorderFactors(config.get("border_factors", ()))
        spade.normal_map_max_ = stored_map_max(config["normal_map_max"])
        spade.seconds_ = {}
        return spade

    def _calibrate(self, sizes: dict[str, tuple[int, int]]) -> None:
        """Compare normal images with the others: `border_` and `normal_map_max_`."""
        ids = self.gallery_.ids
        looked_at = held_out(len(ids))
        duplicates = NearDuplicates(self.gallery_, self.pooled_)
        cells: dict[str, NDArray[Any]] = {}
        for index in looked_at:
            left_out = {ids[index], *duplicates.of(index)}
            near = self.nearest_images(self.pooled_[index], without=left_out)
            if near:
                neighbors = self.gallery_.search(
                    self.gallery_.pyramid([ids[index]]),
                    min(self.pixel_neighbors, len(near) * self._n_cells),
                    [id_ for id_, _ in near],
                    self.threads,
                    self.backend,
                )
                cells[ids[index]] = _cell_scores(neighbors)
        duplicates.warn(len(looked_at), LEFT_OUT)
        self.border_ = BorderFactors.of(list(cells.values()), self.gallery_.shapes)
        maxima = [float(self._map(found, sizes[id_]).max()) for id_, found in cells.items()]
        self.normal_map_max_ = max(maxima, default=float("nan"))

    def _match(self, features: Features, images: Sequence[Sequence[str]]) -> Neighbors:
        with naming_images(features):
            return self.gallery_.search(
                features.pyramid, self.pixel_neighbors, images, self.threads, self.backend
            )

    def _prediction(
        self, id_: str, size: tuple[int, int], near: list[tuple[str, float]], neighbors: Neighbors
    ) -> Prediction:
        map_ = self._map(_cell_scores(neighbors), size)
        if self.score == "map":
            score = float(map_.max())
        else:
            score = float(np.mean([sq_distance for _, sq_distance in near]))
        return Prediction(id_, score, map_, neighbors, tuple(near))

    def _map(self, cells: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
        """Map of an image, at its original size, from the scores of its cells."""
        return pixel_map(self.border_.divide(cells), self.backbone.geometry, self.sigma, size)

    def _check_parameters(self) -> None:
        check_parameters(self)
        check_count("image_neighbors", self.image_neighbors)
        check_count("pixel_neighbors", self.pixel_neighbors)

    def _check_pixel_neighbors(self) -> None:
        n_images = min(self.image_neighbors_, max(1, len(self.gallery_) - 1))
        if self.pixel_neighbors > n_images * self._n_cells:
            raise ParameterError(
                f"pixel_neighbors: expected at most the {n_images * self._n_cells} cells of "
                f"{n_images} images, got {self.pixel_neighbors}"
            )

    @property
    def _n_cells(self) -> int:
        height, width, _ = self.gallery_.shapes[0]
        return height * width

    def _check_fitted(self) -> None:
        if not hasattr(self, "gallery_"):
            raise NotFittedError("this Spade is not fitted yet: call fit with normal images first")


def _cell_scores(neighbors: Neighbors) -> NDArray[Any]:
    """Return the scores of the cells of the only image of `neighbors`, shape (height, width)."""
    return np.asarray(neighbors.sq_distances[0].mean(axis=-1))
