"""What a backend changes in how well defects are found, on labelled images."""

from __future__ import annotations

import numpy as np

from knnspect import metrics
from knnspect.data import MVTecDataset, read_image, read_mask
from knnspect.detectors import Detector
from knnspect.errors import ImageError

__all__ = ["Labelled"]


class Labelled:
    """The test images of a dataset, and what is known about them.

    Parameters
    ----------
    dataset : MVTecDataset
        Images and masks.

    Raises
    ------
    ImageError
        If a mask cannot be used, or the test images are all normal or all defective.
    """

    def __init__(self, dataset: MVTecDataset) -> None:
        self._paths = [image.path for image in dataset.test]
        self._is_defective = [image.is_defective for image in dataset.test]
        if all(self._is_defective) or not any(self._is_defective):
            raise ImageError(f"{dataset.root}: expected test images of both kinds, got one kind")
        self._masks = []
        for image in dataset.test:
            height, width, _ = read_image(image.path).shape
            self._masks.append(
                np.zeros((height, width), bool)
                if image.mask is None
                else read_mask(image.mask, (height, width))
            )

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
            "image_auroc" of its image scores, "map_max_auroc" of the largest values of its maps,
            and "pixel_auroc".
        """
        scores, maps = [], []
        for prediction in detector.iter_predict(self._paths):
            scores.append(prediction.score)
            maps.append(prediction.map)
        return {
            "image_auroc": metrics.auroc(self._is_defective, scores),
            "map_max_auroc": metrics.auroc(self._is_defective, [float(m.max()) for m in maps]),
            "pixel_auroc": metrics.pixel_auroc(self._masks, maps),
        }
