"""What is measured: a search of features alone, or a detector from the image to the map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnspect.backends import Backend
from knnspect.bench.timing import timed
from knnspect.data import ImageItem, ImageSource, open_to_judge
from knnspect.detectors import Detector, Spade
from knnspect.detectors.nearest import NearestDetector
from knnspect.errors import DTypeError, ParameterError
from knnspect.gallery import Coreset, Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.validation import check_count

__all__ = ["Case", "DetectorCase", "SearchCase"]

Cells = NDArray[np.integer[Any]]


class Case(ABC):
    """Queries, and what they are looked up in.

    Backends are compared by `search`, which gives each of them the same features, and timed by
    `run`, which does all that a user waits for.
    """

    #: What `run` tells the seconds of, in the order in which it happens.
    stages: tuple[str, ...]
    #: Ids of the query images.
    ids: list[str]
    #: Their features.
    pyramid: FeaturePyramid
    #: Neighbours of each cell.
    k: int
    #: What is searched.
    target: Gallery | Coreset

    @abstractmethod
    def search(self, index: int, backend: str | Backend, threads: int | None) -> Neighbors:
        """Return the neighbours of one query image."""

    @abstractmethod
    def run(
        self, indices: Sequence[int], backend: str | Backend, threads: int | None
    ) -> dict[str, float]:
        """Do all the work for some query images together; return the seconds of each stage.

        Beside the `stages` there is "total".
        """

    @property
    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What is measured, JSON-compatible."""

    @property
    def dtype(self) -> str:
        """How the features that are searched are kept."""
        return self.target.bank.dtype if isinstance(self.target, Coreset) else self.target.dtype

    def __len__(self) -> int:
        return len(self.ids)

    def query_rows(self, index: int) -> NDArray[np.float32]:
        """Return a query's concatenated features, shape (height, width, n_features)."""
        rows: NDArray[np.float32] = self.pyramid[index].concatenated(self._upsample)[0]
        return rows

    def normal_rows(self, image: str, cells: Cells) -> NDArray[np.float32]:
        """Return the concatenated features of some cells of a normal image.

        Parameters
        ----------
        image : str
            Its id.
        cells : ndarray of integer, shape (n_cells, 2)
            (row, column) at the finest level.

        Returns
        -------
        ndarray of float32, shape (n_cells, n_features)
            Zeros and NaN nowhere but where the features have them: a place that does not exist
            has features of NaN, which are far from everything.
        """
        if isinstance(self.target, Coreset):
            return _coreset_rows(self.target, image, cells)
        height, width, _ = self.target.shapes[0]
        known = (
            (cells >= 0).all(axis=1)
            & (cells < (height, width)).all(axis=1)
            & (image in self.target)
        )
        n_features = sum(channels for _, _, channels in self.target.shapes)
        rows = np.full((len(cells), n_features), np.nan, np.float32)
        if known.any():
            normal = self.target.pyramid([image]).concatenated(self._upsample)[0]
            rows[known] = normal[cells[known, 0], cells[known, 1]]
        return rows

    @property
    def _upsample(self) -> Any:  # one of the two words
        return self.target.upsample


class SearchCase(Case):
    """A search of a gallery, without a network.

    Parameters
    ----------
    gallery : Gallery
        It is searched as a whole.
    queries : FeaturePyramid
        One query for each image.
    k : int, default 1
        Neighbours of each cell.
    ids : sequence of str, optional
        Ids of the query images; running numbers by default.
    description : str, default "features"
        What these features are.

    Raises
    ------
    ParameterError
        If `k` exceeds the number of cells in the gallery, or the ids are not one per image.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> gallery = Gallery()
    >>> _ = gallery.add(FeaturePyramid([rng.random((2, 4, 4, 3), dtype="f4")]))
    >>> case = SearchCase(gallery, FeaturePyramid([rng.random((3, 4, 4, 3), dtype="f4")]))
    >>> len(case), case.search(2, "rust", None)
    (3, Neighbors(n_images=1, cells=4x4, k=1))
    >>> list(case.run([0, 1], "rust", None))
    ['matching', 'total']
    """

    stages = ("matching",)
    target: Gallery

    def __init__(
        self,
        gallery: Gallery,
        queries: FeaturePyramid,
        k: int = 1,
        ids: Sequence[str] | None = None,
        description: str = "features",
    ) -> None:
        self.target, self.pyramid = gallery, queries
        self.ids = [f"{index:06d}" for index in range(len(queries))] if ids is None else list(ids)
        if len(self.ids) != len(queries):
            raise ParameterError(
                f"ids: expected {len(queries)}, one per image, got {len(self.ids)}"
            )
        height, width, _ = gallery.shapes[0]
        self.k = check_count("k", k)
        if k > len(gallery) * height * width:
            raise ParameterError(
                f"k: expected at most the {len(gallery) * height * width} cells of "
                f"{len(gallery)} images, got {k}"
            )
        self._description = description

    @property
    def about(self) -> dict[str, Any]:
        """What is measured, JSON-compatible."""
        return {
            "kind": "search",
            "features": self._description,
            "gallery_images": len(self.target),
            "levels": [list(shape) for shape in self.target.shapes],
            "upsample": self.target.upsample,
            "gallery_dtype": self.target.dtype,
            "k": self.k,
            "queries": len(self),
        }

    def search(self, index: int, backend: str | Backend, threads: int | None) -> Neighbors:
        """Return the neighbours of one query image."""
        return self.target.search(self.pyramid[index], self.k, None, threads, backend)

    def run(
        self, indices: Sequence[int], backend: str | Backend, threads: int | None
    ) -> dict[str, float]:
        """Search for some query images together; return the seconds of it."""
        queries = self.pyramid[list(indices)]
        seconds, _ = timed(lambda: self.target.search(queries, self.k, None, threads, backend))
        return {"matching": seconds, "total": seconds}


class DetectorCase(Case):
    """A fitted detector, from reading an image to its map.

    Parameters
    ----------
    detector : Detector
        Fitted, and one that searches, such as Spade or PatchCore. It is left as it is.
    images : folder, file, list of paths, arrays or PIL images, array, or loader
        The query images, as `knnspect.data.open_images` takes them.
    n_queries : int, optional
        Take so many of them, evenly spaced; all by default.
    n_workers : int, default 2
        Threads that read the images of a batch; a single image is read without any.

    Raises
    ------
    ImageError
        If an image cannot be used.
    NotFittedError
        If the detector is not fitted.
    DTypeError
        If it is another detector, one that does not search.

    Examples
    --------
    >>> import numpy as np
    >>> from knnspect import Backbone
    >>> images = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype("u1")
    >>> spade = Spade(Backbone(image_size=64), image_neighbors=3).fit(images[:3])
    >>> case = DetectorCase(spade, images, n_queries=2)
    >>> case.ids, list(case.run([0], "rust", None))
    (['000000', '000003'], ['decode', 'features', 'retrieval', 'matching', 'map', 'total'])
    """

    def __init__(
        self,
        detector: Detector,
        images: object,
        n_queries: int | None = None,
        n_workers: int = 2,
    ) -> None:
        if not isinstance(detector, NearestDetector):
            raise DTypeError(
                "detector: expected one that searches, such as a Spade or a PatchCore, "
                f"got {type(detector).__name__}"
            )
        detector.n_images_  # noqa: B018 - raises if it is not fitted
        self.target = detector.searched_
        self.k = detector.pixel_neighbors if isinstance(detector, Spade) else 1
        self._detector, self._n_workers = detector, n_workers
        items = list(open_to_judge(images))
        if n_queries is not None and check_count("n_queries", n_queries) < len(items):
            items = [
                items[place] for place in np.linspace(0, len(items) - 1, n_queries).astype(int)
            ]
        self._items = items
        # One by one, as they are timed.
        features = detector.backbone.extract(ImageSource(items, len(items)), 1, 0)
        self.ids, self.pyramid = features.ids, features.pyramid
        self.stages = ("decode", "features", "matching", "map")
        self._images: list[list[str]] | None = None
        if isinstance(detector, Spade):
            self.stages = ("decode", "features", "retrieval", "matching", "map")
            self._images = [
                [id_ for id_, _ in detector.nearest_images(pooled)] for pooled in features.pooled
            ]

    @property
    def detector(self) -> Detector:
        """The detector, as it was given."""
        return self._detector

    @property
    def about(self) -> dict[str, Any]:
        """What is measured, JSON-compatible."""
        detector = self._detector
        searched = (
            {"images_searched": detector.image_neighbors_}
            if isinstance(detector, Spade)
            else {"rows_searched": self.target.n_rows}
        )
        return {
            "kind": "detector",
            "method": detector.method,
            "backbone": detector.backbone.name,
            "gallery_images": detector.n_images_,
            "levels": [list(shape) for shape in self.target.shapes],
            "upsample": self.target.upsample,
            "gallery_dtype": self.dtype,
            "k": self.k,
            **searched,
            "queries": len(self),
        }

    def search(self, index: int, backend: str | Backend, threads: int | None) -> Neighbors:
        """Return the neighbours of one query image."""
        query = self.pyramid[index]
        if isinstance(self.target, Coreset):
            return self.target.search(query, self.k, threads, backend)
        images = None if self._images is None else self._images[index]
        return self.target.search(query, self.k, images, threads, backend)

    def run(
        self, indices: Sequence[int], backend: str | Backend, threads: int | None
    ) -> dict[str, float]:
        """Judge some query images together; return the seconds of each stage."""
        detector = self.with_backend(backend, threads)
        # A batch may have the same image twice, a source no id.
        source = ImageSource(
            [ImageItem(str(place), self._items[index].load) for place, index in enumerate(indices)],
            len(indices),
        )
        n_workers = 0 if len(indices) == 1 else self._n_workers
        total, _ = timed(
            lambda: detector.predict(source, batch_size=len(indices), n_workers=n_workers)
        )
        seconds = detector.seconds_ | {"map": detector.seconds_["maps"]}
        return {stage: seconds[stage] for stage in self.stages} | {"total": total}

    def with_backend(self, backend: str | Backend, threads: int | None) -> Detector:
        """Return the detector with a backend; what it searches is shared."""
        return copy(self._detector).set_params(backend=backend, threads=threads)


def _coreset_rows(coreset: Coreset, image: str, cells: Cells) -> NDArray[np.float32]:
    """Return the rows of a coreset that came from some cells of an image; NaN where none did."""
    rows = np.full((len(cells), coreset.rows.shape[1]), np.nan, np.float32)
    if image in coreset.image_ids:
        here = np.flatnonzero(coreset.image_index == coreset.image_ids.index(image))
        places = {
            tuple(cell): row for cell, row in zip(coreset.cells[here].tolist(), here, strict=True)
        }
        for index, cell in enumerate(cells.tolist()):
            if tuple(cell) in places:
                rows[index] = coreset.rows[places[tuple(cell)]]
    return rows
