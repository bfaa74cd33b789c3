"""How good a detector is on a labelled dataset."""

from __future__ import annotations

from knnspect.evaluation.figures import DecisionEvaluation, Evaluation, KindEvaluation
from knnspect.evaluation.run import evaluate, peak_memory_mb

__all__ = ["DecisionEvaluation", "Evaluation", "KindEvaluation", "evaluate", "peak_memory_mb"]
