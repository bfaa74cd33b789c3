"""What a backend changes in how well defects are found, on labelled images."""

from __future__ import annotations

from knnspect import metrics
from knnspect.data import Labels, MVTecDataset, Need
from knnspect.detectors import Detector

__all__ = ["Labelled"]

_AREAS: dict[str, Need] = {
    "image_auroc": "images",
    "map_max_auroc": "images",
    "pixel_auroc": "pixels",
}


class Labelled:
    """The test images of a dataset, and what is known about them.

    Parameters
    ----------
    dataset : MVTecDataset
        Images and masks.

    Attributes
    ----------
    areas : tuple of str
        Those of "image_auroc", "map_max_auroc" and "pixel_auroc" that are defined.
    undefined : dict of str to str
        Why the others are not.

    Raises
    ------
    ImageError
        If a mask cannot be used.

    Warns
    -----
    DatasetWarning
        As `Labels`.
    """

    def __init__(self, dataset: MVTecDataset) -> None:
        self._paths = [image.path for image in dataset.test]
        self._labels = Labels(dataset, figures=_AREAS)
        self.undefined = self._labels.undefined
        self.areas = tuple(area for area in _AREAS if area not in self.undefined)

    def __len__(self) -> int:
        return len(self._paths)

    def accuracy(self, detector: Detector) -> dict[str, float]:
        """Judge all test images with a fitted detector.

        Parameters
        ----------
        detector : Detector
            With the backend that is to be judged.

        Returns
        -------
        dict of str to float
            Those of `areas`: "image_auroc" of its image scores, "map_max_auroc" of the largest
            values of its maps, and "pixel_auroc".
        """
        scores, maps = [], []
        for prediction in detector.iter_predict(self._paths):
            scores.append(prediction.score)
            maps.append(prediction.map)
        truth = self._labels.is_defective
        measures = {
            "image_auroc": lambda: metrics.auroc(truth, scores),
            "map_max_auroc": lambda: metrics.auroc(truth, [float(m.max()) for m in maps]),
            "pixel_auroc": lambda: metrics.pixel_auroc(*self._labels.pixels(maps)),
        }
        return {area: measures[area]() for area in self.areas}
