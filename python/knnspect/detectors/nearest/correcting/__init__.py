"""Corrections of fitted models that compare with normal images.

``correctable``  what users call: add, accept, reject, remove, rollback
``committing``   how a correction is made: images are read, features kept, the journal written
``corrected``    what holds after all corrections
``home``         the folder of a model
``rows``         which rows of an image a coreset takes, and which a defect has
``scores``       the scores of added images, from which decisions follow
"""

from __future__ import annotations

from knnspect.detectors.nearest.correcting.correctable import CorrectableDetector

__all__ = ["CorrectableDetector"]
