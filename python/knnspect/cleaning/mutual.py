"""Images of which nobody knows whether they are normal, scored by each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from knnspect.backends import Backend
from knnspect.constraints import Choice, Count, Instance, Optional, Positive
from knnspect.data import ImageSource, open_to_judge
from knnspect.data.loading import OnBad
from knnspect.data.sources import ImageItem
from knnspect.detectors import Prediction
from knnspect.detectors.maps import Sigma, pixel_map
from knnspect.detectors.nearest.base import BackendWord
from knnspect.errors import ImageError
from knnspect.features import Backbone, Extractor
from knnspect.gallery import Gallery
from knnspect.normal_features import Run, extract
from knnspect.parameters import Parametrized, parameter
from knnspect.progress import Progress
from knnspect.pyramid import FeaturePyramid
from knnspect.views import Placement

__all__ = ["MutualComparison", "MutualScoring"]

#: Distances that are held at a time: of some images to all others, 4 bytes each.
_MOST_DISTANCES = 2**25
#: Images that are compared with another one at a time, at most.
_AT_ONCE = 32


class MutualComparison(Sequence[Prediction]):
    """What `MutualScoring.compare` found: a prediction for each image, made when it is asked for.

    Attributes
    ----------
    ids : list of str
        The images.
    cells : ndarray of float64, shape (n_images, height, width)
        The scores of their cells.
    scores : ndarray of float64, shape (n_images,)
        Their image scores.
    """

    def __init__(
        self,
        ids: list[str],
        cells: NDArray[np.float64],
        placements: Mapping[str, Placement],
        sigma: float,
    ) -> None:
        self.ids, self.cells = ids, cells
        self._placements, self._sigma = placements, sigma
        self.scores = np.array([self._map(i).max() for i in range(len(ids))], np.float64)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        id_ = self.ids[index]
        score = float(self.scores[index])
        return Prediction(id_, score, self._map(index), placement=self._placements[id_])

    def _map(self, index: int) -> NDArray[np.float32]:
        return pixel_map(self.cells[index], self._placements[self.ids[index]], self._sigma)


class MutualScoring(Parametrized):
    """Score images by each other, where no image is known to be normal.

    What is normal is found again in most of the other images, a defect in few. Each cell of an
    image is compared with all cells of each other image, wherever they lie: its L2 distance (not
    squared) to the nearest of them.

    - cell score: the mean of its smallest distances, those to the `share` of the other images that
      have something nearest to it;
    - map: these, upsampled bilinearly and blurred;
    - image score: the maximum of the map.

    **Scores are relative to the batch**: the same image has another score among other images, and
    none by itself. They order the images of one batch, of one product, of which most are normal at
    any place. There is no threshold, and nothing is learnt for later images: clean the folder by
    the order, and fit a detector. Each image is compared with each other one: twice as many images
    take four times as long.

    Parameters
    ----------
    backbone : Backbone, optional
        The network; ``Backbone(levels=(2, 3), patch_size=3)`` by default.
    share : float, default 0.05
        The share of the other images whose distances are averaged, those with the smallest; at
        least one. It is to be more than the share of images that have the same defect, and much
        less than that of normal images.
    sigma : float, default 4.0
        Blur of the map: standard deviation in pixels of a 224 px input (0: none).
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one.
    gallery_dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept; see `Gallery`.
    backend : str or Backend, default "auto"
        What searches them. See `knnspect.backends`.
    threads : int, optional
        Threads of the search (by default all that the process may use).

    Source
    ------
    Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual
    Scoring of the Unlabeled Images" (2024), section 3.2. Deviations: one row of levels that are
    averaged over 3x3 cells, where the paper takes the mean over four blocks of a transformer, each
    averaged over 1, 3 and 5 cells a side, with features of norm 1; the lowest 5 % of the other
    images, not 30 %, which was better on solar cells and welds; the map is blurred; images are not
    scored anew by the neighbours of their pooled features (RsCIN), which was worse there.

    Examples
    --------
    >>> images = np.random.default_rng(0).integers(100, 120, (6, 64, 64, 3)).astype("u1")
    >>> images[4, 20:40, 20:40] = 255
    >>> mutual = MutualScoring(Backbone(levels=(2, 3), image_size=64))
    >>> found = mutual.score(images)
    >>> max(found, key=lambda prediction: prediction.score).id, found[0].map.shape
    ('000004', (64, 64))
    """

    backbone: Extractor = parameter(
        Instance(Backbone),
        default_factory=lambda: Backbone(levels=(2, 3), patch_size=3),
        kw_only=False,
    )
    share: float = parameter(Positive(at_most=1.0), default=0.05)
    sigma: float = parameter(Sigma(), default=4.0)
    upsample: Literal["bilinear", "block"] = parameter(
        Choice("bilinear", "block"), default="bilinear"
    )
    gallery_dtype: Literal["float32", "float16", "int8"] = parameter(
        Choice("float32", "float16", "int8"), default="float32"
    )
    backend: str | Backend = parameter(BackendWord(), default="auto")
    threads: int | None = parameter(Optional(Count()), default=None)

    #: The word for it in results, and how options are made of it.
    method: ClassVar[str] = "mutual"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def score(self, images: object, **how: Any) -> list[Prediction]:
        """Score the images of a batch.

        Parameters
        ----------
        images, **how
            As `compare` takes them.

        Returns
        -------
        list of Prediction
            One for each image, in order, with its map; without neighbours and decisions.

        Raises
        ------
        ImageError, ParameterError
            As `compare`.
        """
        return list(self.compare(images, **how))

    def compare(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        max_memory: int | str | None = None,
        folder: str | os.PathLike[str] | None = None,
    ) -> MutualComparison:
        """Score the images of a batch, and make their maps when they are asked for.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            At least two, as `knnspect.data.open_images` takes them.
        batch_size, n_workers, skip_bad, progress, max_memory, folder
            As in `Detector.fit`. Beside the features, 8 bytes for each cell of each image are kept,
            and up to 135 MB of distances.

        Returns
        -------
        MutualComparison
            A sequence of predictions, in the order of the images.

        Raises
        ------
        ImageError
            If an image cannot be used, or there are fewer than two.
        ParameterError, DTypeError
            If a parameter lies outside its values.
        StoreError, MemoryError
            As `Detector.fit`.
        """
        self.check_params()
        opened = open_to_judge(self.backbone.opened(images))
        order: list[str] = []
        source = ImageSource(_noting_ids(opened, order), opened.n_images)
        run = Run(batch_size, n_workers, skip_bad, progress, max_memory, folder)
        found = extract(self.backbone, source, Gallery(self.upsample, self.gallery_dtype), run)
        gallery = found.gallery
        if len(gallery) < 2:
            raise ImageError(
                "images: expected at least two to score by each other, got "
                f"{' and '.join(gallery.ids)} alone"
            )
        cells = self._cell_scores(gallery, progress)
        places = {id_: place for place, id_ in enumerate(gallery.ids)}
        ids = [id_ for id_ in order if id_ in places]
        placements = {id_: found.placement(id_) for id_ in ids}
        in_order = cells[[places[id_] for id_ in ids]]
        return MutualComparison(ids, in_order, placements, self.sigma)

    def _cell_scores(self, gallery: Gallery, progress: bool) -> NDArray[np.float64]:
        """Return the scores of the cells of all images of a gallery, in the order of its ids."""
        ids = gallery.ids
        height, width, _ = gallery.shapes[0]
        n_lowest = max(1, round(self.share * (len(ids) - 1)))
        cells = np.empty((len(ids), height, width))
        at_once = min(_AT_ONCE, max(1, _MOST_DISTANCES // (len(ids) * height * width)))
        how: dict[str, Any] = {"threads": self.threads, "backend": self.backend}
        with Progress("comparing", len(ids), progress) as bar:
            for start in range(0, len(ids), at_once):
                part = ids[start : start + at_once]
                rows = self._rows(gallery, part)
                far = np.empty((len(ids), len(part), height, width), np.float32)
                for place, id_ in enumerate(ids):
                    other = Gallery()
                    other.add(self._rows(gallery, [id_]), ["other"])
                    far[place] = other.search(rows, **how).sq_distances[..., 0]
                for index in range(len(part)):
                    far[start + index, index] = np.inf  # itself
                far.partition(n_lowest - 1, axis=0)
                lowest = np.sqrt(far[:n_lowest], dtype=np.float64)
                cells[start : start + len(part)] = np.sort(lowest, axis=0).mean(axis=0)
                bar.advance(len(part))
        return cells

    def _rows(self, gallery: Gallery, ids: list[str]) -> FeaturePyramid:
        """Return upsampled, concatenated features as one level, which are compared faster."""
        return FeaturePyramid([gallery.pyramid(ids).concatenated(self.upsample)])


def _noting_ids(items: Iterable[ImageItem], ids: list[str]) -> Iterator[ImageItem]:
    """Yield the same images; note their ids."""
    for item in items:
        ids.append(item.id)
        yield item
