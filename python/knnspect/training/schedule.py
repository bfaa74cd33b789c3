"""How the learning rate goes up and down in the course of a training."""

from __future__ import annotations

import math

__all__ = ["rate_factor"]

#: The learning rate rises from a tenth for this share of the training (the paper of CFLOW-AD: 2 of
#: 25 epochs), then falls along a cosine to a hundredth.
_WARM_UP, _FIRST_RATE, _LAST_RATE = 0.08, 0.1, 0.01


def rate_factor(done: float) -> float:
    """Return what the learning rate is multiplied by when a share of the training is done.

    >>> rate_factor(0.0), rate_factor(0.08), round(rate_factor(1.0), 6)
    (0.1, 1.0, 0.01)
    """
    if done < _WARM_UP:
        return _FIRST_RATE + (1 - _FIRST_RATE) * done / _WARM_UP
    angle = math.pi * min((done - _WARM_UP) / (1 - _WARM_UP), 1)
    return _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(angle)) / 2
