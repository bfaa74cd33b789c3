"""Detectors made of others: several views of an image, each judged by a detector of its own.

``base``     what they have in common: views, fitting, judging, one decision an image
``judging``  judging the views, and deciding
``aligned``  one part that a locator finds first
``regions``  several regions of a product
``lights``   several pictures of a part
``subject``  what is judged as one: an image, or several pictures of a part
``parts``    what a file of theirs holds
``loading``  loading a detector, composed or not
"""

from __future__ import annotations

from knnspect.detectors.composed.aligned import Aligned
from knnspect.detectors.composed.base import AnyDetector, Composed
from knnspect.detectors.composed.lights import Lights
from knnspect.detectors.composed.loading import load, load_any
from knnspect.detectors.composed.regions import Regions

__all__ = ["Aligned", "AnyDetector", "Composed", "Lights", "Regions", "load", "load_any"]
