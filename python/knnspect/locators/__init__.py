"""Finding one part in larger images, before it is judged.

``base``             what all locators have: fitting, a threshold, aligned images
``golden_template``  one picture of the part, looked for at all places, turns and scales
``part``             the part, cut out of its template, and drawn turned and scaled
``hypotheses``       where it may be: the part in all turns and scales, on coarse features
``correlation``      normalised cross-correlation of features
``matching``         cells that are mutual nearest neighbours
``similarity``       the transform on which most pairs of cells agree
``found``            what a locator says of an image
``aligned_images``   images that show the part upright and alone, for detectors
``files``            saving and loading
"""

from __future__ import annotations

from knnspect.locators.aligned_images import AlignedImages
from knnspect.locators.base import Locator
from knnspect.locators.files import load_locator, locator_methods, save_locator
from knnspect.locators.found import DrawnMask, FoundPart, RotatedBox
from knnspect.locators.golden_template import GoldenTemplate
from knnspect.locators.rectangles import mask_iou, rotated_box_of
from knnspect.locators.siam_mask import SiamMask

__all__ = [
    "AlignedImages",
    "DrawnMask",
    "FoundPart",
    "GoldenTemplate",
    "Locator",
    "RotatedBox",
    "SiamMask",
    "load_locator",
    "locator_methods",
    "mask_iou",
    "rotated_box_of",
    "save_locator",
]
