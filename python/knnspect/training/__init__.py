"""Training of networks, in PyTorch, imported where it is used.

``checkpoint``  the file from which training goes on after an interruption
``loop``        epochs, early stopping, checkpoints, progress
``network``     what is trained
``schedule``    how the learning rate goes up and down
``sources``     what training reads: features, or images
"""

from __future__ import annotations

from knnspect.extras import require

require("torch", for_="training a network")
