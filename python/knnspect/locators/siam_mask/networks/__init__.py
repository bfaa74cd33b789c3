"""The network of SiamMask, in PyTorch, imported where it is used.

``siamese``   template and window in, answers at all locations out
``blocks``    its parts: depth-wise correlation, branches, refinement
``losses``    what it learns from
``training``  how it is trained on pasted pairs
"""

from __future__ import annotations

from knnspect.extras import require

require("torch", for_="SiamMask")
