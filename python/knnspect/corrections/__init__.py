"""What was changed of a model after `fit`: normal images added or removed, defects remembered.

``history``  the corrections, and what holds after each
``journal``  a history as bytes: in a file of its own, which grows, or inside a model
"""

from __future__ import annotations

from knnspect.corrections.history import Added, Correction, CorrectionKind, History, Rows, Standing
from knnspect.corrections.journal import Journal

__all__ = ["Added", "Correction", "CorrectionKind", "History", "Journal", "Rows", "Standing"]
