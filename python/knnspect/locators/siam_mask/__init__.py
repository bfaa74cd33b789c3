"""SiamMask: a network that finds a part, draws its mask, and follows it.

``locator``   the locator
``learning``  what it is trained on
``parts``     parts, cut out of the user's images
``grounds``   what they are pasted on
``pairs``     windows with the part at a known place
``geometry``  windows, and where their locations lie
``places``    from what the network says to the place of the part
``tracking``  following it from frame to frame
``networks``  the network, in PyTorch
"""

from __future__ import annotations

from knnspect.locators.siam_mask.locator import SiamMask

__all__ = ["SiamMask"]
