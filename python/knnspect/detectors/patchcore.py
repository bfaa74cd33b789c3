"""PatchCore: nearest normal patches, of a coreset or of all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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
from knnspect.detectors.building import Learnt, learn, save_learnt
from knnspect.detectors.learning import (
    backbone_tensors,
    check_parameters,
    held_out,
    naming_images,
    stored_map_max,
    stored_tensors,
)
from knnspect.detectors.maps import pixel_map
from knnspect.detectors.memory import CoresetMemory, GalleryMemory, Memory, stored_memory
from knnspect.detectors.near_duplicates import LEFT_OUT, NearDuplicates
from knnspect.errors import NotFittedError, ParameterError
from knnspect.features import Backbone
from knnspect.gallery import Coreset, Gallery
from knnspect.progress import Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.validation import check_count, check_positive

__all__ = ["PatchCore"]

Floats = NDArray[np.float64]


class PatchCore(Detector):
    """Compare every cell of an image with the cells of all normal images, or with a coreset.

    - map: L2 distance (not squared) of each cell's upsampled, concatenated feature to the nearest
      normal one, near the border divided by how much larger those of normal images are there;
      upsampled bilinearly and blurred;
    - image score: the largest of these distances (not blurred), ``s*``, of the cell ``p*``, times
      ``1 - exp(d(p*, m*)) / sum of exp(d(p*, m))``, where ``m*`` is its nearest normal feature,
      ``m`` runs through the `neighbors` nearest of ``m*``, itself included, and ``d`` is the L2
      distance. What is nearest to a normal feature that lies apart from the others scores higher.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(1, 2, 3), patch_size=3)`` by default.
    coreset : float, int or None, default 0.01
        How many rows are kept, as a share of all cells of all normal images or as a number; see
        `Gallery.coreset`. None: all of them, searched level by level.
    projection : int, optional
        Pick the coreset by distances after a random projection to so many dimensions; by default
        they are exact, which takes no longer.
    neighbors : int, default 9
        b of the image score; more than there are normal features means all. 1: no weight.
    score : {"image", "map"}, default "image"
        The image score of the paper, or the maximum of the map.
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept while the coreset is picked from them, or for good where there is
        none; see `Gallery`. The rows of a coreset are float32.
    sigma : float, default 4.0
        Standard deviation of the map's Gaussian blur in pixels of a 224 px input; 0: none.
    seed : int, default 0
        Chooses the first row of the coreset, and the projection.
    backend : str or Backend, default "auto"
        What searches; see `knnspect.backends`.
    threads : int, optional
        Threads of the selection and the search; by default all that the process may use.

    Attributes
    ----------
    border_ : BorderFactors
        What the distances of cells near the border are divided by, as normal cells are farther from
        their nearest there.
    normal_map_max_ : float
        The largest map value of normal images, each compared with what came from the others only
        (at most 16 of them, evenly spaced): what a value of a map is to be held against. Near-
        duplicates of an image, such as the next frame of a video, are not compared with it. NaN
        where no other image is left.
    seconds_ : dict of str to float
        Time taken by each stage of the last `fit` or `predict`: "decode" (waiting for images),
        "features", "gallery" (filling it, and `normal_map_max_`), "coreset", "matching", "maps".

    Source
    ------
    Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2022), section 3, equations
    6 and 7. Deviations: the backbone and the levels are free; features are averaged over patches
    before they are upsampled and are not pooled to a common number of channels; the coreset is
    picked without a projection. As in anomalib and in the authors' code the map is not weighted;
    weights are 1 where there is one normal feature only. Normal images say how much larger
    distances are at the border, and the map goes on beyond it with its median (see `BorderFactors`,
    `pixel_map`).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> odd = normal[:1].copy()
    >>> odd[0, 20:30, 30:40] = 255
    >>> patchcore = PatchCore(Backbone(image_size=64, patch_size=3), coreset=0.1).fit(normal[1:])
    >>> patchcore.coreset_
    Coreset(n_rows=128, n_features=176, n_images=5, upsample='bilinear')
    >>> good, bad = patchcore.predict(np.concatenate([normal[:1], odd]))
    >>> good.score < bad.score, bad.map.shape
    (True, (64, 64))
    >>> row, column = np.unravel_index(bad.map.argmax(), bad.map.shape)
    >>> bool(16 <= row <= 34 and 26 <= column <= 44)
    True
    """

    method: ClassVar[str] = "patchcore"
    memory_: Memory

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        coreset: float | int | None = 0.01,
        projection: int | None = None,
        neighbors: int = 9,
        score: Literal["image", "map"] = "image",
        upsample: Literal["bilinear", "block"] = "bilinear",
        gallery_dtype: Literal["float32", "float16", "int8"] = "float32",
        sigma: float = 4.0,
        seed: int = 0,
        backend: str | Backend = "auto",
        threads: int | None = None,
    ) -> None:
        if backbone is None:
            backbone = Backbone(levels=(1, 2, 3), patch_size=3)
        self.backbone = backbone
        self.coreset = coreset
        self.projection = projection
        self.neighbors = neighbors
        self.score = score
        self.upsample = upsample
        self.gallery_dtype = gallery_dtype
        self.sigma = sigma
        self.seed = seed
        self.backend = backend
        self.threads = threads

    def __repr__(self) -> str:
        return (
            f"PatchCore({self.backbone!r}, coreset={self.coreset!r}, "
            f"projection={self.projection!r}, neighbors={self.neighbors}, score={self.score!r}, "
            f"upsample={self.upsample!r}, gallery_dtype={self.gallery_dtype!r}, "
            f"sigma={self.sigma:g}, seed={self.seed})"
        )

    @property
    def n_images_(self) -> int:
        """Number of normal images that were learnt from."""
        self._check_fitted()
        return self.memory_.n_images

    @property
    def nbytes_(self) -> int:
        """Bytes of all that was learnt."""
        self._check_fitted()
        return self.memory_.nbytes

    @property
    def coreset_(self) -> Coreset | None:
        """The rows that are kept, and which cells of which normal images they are."""
        self._check_fitted()
        return self.memory_.coreset if isinstance(self.memory_, CoresetMemory) else None

    @property
    def gallery_(self) -> Gallery | None:
        """The pyramids of all normal images, where there is no coreset."""
        self._check_fitted()
        return self.memory_.gallery if isinstance(self.memory_, GalleryMemory) else None

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
    ) -> PatchCore:
        """Learn the cells of normal images, and pick the coreset.

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
        max_memory, folder
            As in `Spade.fit`; the coreset is picked from the features in the folder, and is in
            memory.

        Returns
        -------
        PatchCore
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
        with watch.stage("coreset"):
            learnt.memory_ = self._remember(found.gallery, progress)
        with watch.stage("gallery"):
            learnt._calibrate(found)
        learnt.seconds_ = watch.seconds
        self.__dict__.update(learnt.__dict__)
        return self

    def _remember(self, gallery: Gallery, progress: bool) -> Memory:
        if self.coreset is None:
            return GalleryMemory(gallery)
        height, width, _ = gallery.shapes[0]
        n_rows = len(gallery) * height * width
        if not isinstance(self.coreset, (float, np.floating)) and self.coreset > n_rows:
            raise ParameterError(
                f"coreset: expected at most the {n_rows} cells of all images, got {self.coreset}"
            )
        picked = gallery.coreset(self.coreset, self.seed, self.projection, self.threads, progress)
        return CoresetMemory(picked)

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
            One per image, in order; their `neighbors` are the nearest normal cells.

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
            query = features.pyramid
            with watch.stage("matching"), naming_images(features):
                neighbors = self.memory_.search(query, self.threads, self.backend)
            for index, id_ in enumerate(features.ids):
                found = neighbors[index]
                with watch.stage("maps"):
                    map_ = self._map(_cell_distances(found), features.sizes[index])
                with watch.stage("matching"):
                    by_map = self.score == "map"
                    score = float(map_.max()) if by_map else self._score(query[index], found)
                yield Prediction(id_, score, map_, found)

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
            "coreset": self.coreset if self.coreset is None else _number(self.coreset),
            "projection": self.projection if self.projection is None else int(self.projection),
            "neighbors": int(self.neighbors),
            "score": self.score,
            "upsample": self.upsample,
            "gallery_dtype": self.gallery_dtype,
            "sigma": float(self.sigma),
            "seed": int(self.seed),
            "border_factors": self.border_.factors.tolist(),
            "normal_map_max": None if np.isnan(known) else known,
        }
        gallery, metadata, more = self.memory_.parts()
        metadata = {"config": json.dumps(config, sort_keys=True), **metadata}
        save_learnt(path, self.method, metadata, backbone_tensors(tensors), gallery, more)

    @classmethod
    def _from_store(
        cls,
        store: _core.Store,
        config: dict[str, Any],
        device: str | None,
        folder: Path | None,
    ) -> PatchCore:
        names = ("coreset", "projection", "neighbors", "score", "upsample", "gallery_dtype")
        patchcore = cls(
            Backbone.from_state(config["backbone"], stored_tensors(store), device),
            **{name: config[name] for name in (*names, "sigma", "seed")},
        )
        patchcore._check_parameters()
        patchcore.memory_ = stored_memory(store, folder)
        patchcore.border_ = BorderFactors(config.get("border_factors", ()))
        patchcore.normal_map_max_ = stored_map_max(config["normal_map_max"])
        patchcore.seconds_ = {}
        return patchcore

    def _score(self, query: FeaturePyramid, neighbors: Neighbors) -> float:
        """Image score of the only image of `query`: equation 7."""
        cells = self.border_.divide(_cell_distances(neighbors))
        row, column = map(int, np.unravel_index(cells.argmax(), cells.shape))
        score = float(cells[row, column])
        n_neighbors = min(self.neighbors, self.memory_.n_rows)
        if n_neighbors == 1:
            return score
        nearest, support = self.memory_.around(
            str(neighbors.images[0, row, column, 0]),
            (
                int(neighbors.cells[0, row, column, 0, 0]),
                int(neighbors.cells[0, row, column, 0, 1]),
            ),
            n_neighbors,
            self.threads,
            self.backend,
        )
        farthest: NDArray[np.float32] = query.concatenated(self.upsample)[0, row, column]
        return score * _weight(farthest, nearest, support)

    def _calibrate(self, found: Learnt) -> None:
        """Compare normal images with the rows of others: `border_` and `normal_map_max_`."""
        ids = found.gallery.ids
        looked_at = held_out(len(ids))
        duplicates = NearDuplicates(found.gallery, found.pooled)
        cells: dict[str, NDArray[Any]] = {}
        for index in looked_at:
            query = found.gallery.pyramid([ids[index]])
            left_out = [ids[index], *duplicates.of(index)]
            neighbors = self.memory_.search_others(query, left_out, self.threads, self.backend)
            if neighbors is not None:
                cells[ids[index]] = _cell_distances(neighbors)
        duplicates.warn(len(looked_at), LEFT_OUT)
        self.border_ = BorderFactors.of(list(cells.values()), found.gallery.shapes)
        maxima = [float(self._map(here, found.sizes[id_]).max()) for id_, here in cells.items()]
        self.normal_map_max_ = max(maxima, default=float("nan"))

    def _map(self, cells: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
        """Map of an image, at its original size, from the distances of its cells."""
        return pixel_map(self.border_.divide(cells), self.backbone.geometry, self.sigma, size)

    def _check_parameters(self) -> None:
        check_parameters(self)
        if isinstance(self.coreset, (float, np.floating)):
            if check_positive("coreset", self.coreset) > 1:
                raise ParameterError(
                    f"coreset: expected a share of at most 1.0, got {self.coreset}"
                )
        elif self.coreset is not None:
            check_count("coreset", self.coreset)
        if self.projection is not None:
            check_count("projection", self.projection)
        check_count("neighbors", self.neighbors)
        check_count("seed", self.seed, 0)

    def _check_fitted(self) -> None:
        if not hasattr(self, "memory_"):
            raise NotFittedError(
                "this PatchCore is not fitted yet: call fit with normal images first"
            )


def _cell_distances(neighbors: Neighbors) -> NDArray[np.float64]:
    """Return the L2 distances of the only image of `neighbors`, shape (height, width)."""
    return np.sqrt(neighbors.sq_distances[0, ..., 0].astype(np.float64))


def _weight(query: NDArray[Any], nearest: NDArray[Any], support: NDArray[Any]) -> float:
    """Weight of equation 7: a softmax over distances, less its largest exponent, in float64."""
    query = query.astype(np.float64)
    d_nearest = np.sqrt(np.square(query - nearest).sum())
    d_support = np.sqrt(np.square(query - support).sum(axis=1))
    largest = max(d_nearest, d_support.max())
    return float(1 - np.exp(d_nearest - largest) / np.exp(d_support - largest).sum())


def _number(value: float | int) -> float | int:
    return float(value) if isinstance(value, (float, np.floating)) else int(value)
