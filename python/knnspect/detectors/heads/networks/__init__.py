"""Networks over frozen features, in PyTorch, imported where they are used.

``autoencoder``      those of DUAD: of images, and of cells
``cells``            what those over the standardized features of single cells have in common
``cflow``            one flow per level, and what their likelihoods are held against
``deep_svdd``        two layers without bias, and a centre
``flow``             a conditional normalizing flow over the cells of one level
``scorer``           what they have in common
``simplenet``        a feature adaptor and a discriminator
``standardization``  mean and standard deviation of each channel
``student_teacher``  students that guess a cell by those around it
``transformations``  random shifts, and a linear map by which they are told apart
"""

from __future__ import annotations

from knnspect.extras import require

require("torch", for_="a network over frozen features")
