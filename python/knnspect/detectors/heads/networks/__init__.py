"""Networks over frozen features, in PyTorch, imported where they are used.

``cflow``            one flow per level, and what their likelihoods are held against
``flow``             a conditional normalizing flow over the cells of one level
``scorer``           what they have in common
``simplenet``        a feature adaptor and a discriminator
``standardization``  mean and standard deviation of each channel
"""

from __future__ import annotations

from knnspect.extras import require

require("torch", for_="a network over frozen features")
