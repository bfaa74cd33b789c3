"""How good a detector is on a labelled dataset."""

from __future__ import annotations

from knnspect.evaluation.run import Evaluation, KindEvaluation, evaluate, peak_memory_mb

__all__ = ["Evaluation", "KindEvaluation", "evaluate", "peak_memory_mb"]
