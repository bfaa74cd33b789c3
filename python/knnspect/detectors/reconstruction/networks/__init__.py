"""The networks of methods that learn to draw normal images.

``base``    what they have in common: values of pixels, batches, residuals
``blocks``  encoders, decoders, discriminators for images of any size
``latent``  codes: what draws by them, finds them by search, averages over steps
``losses``  terms of losses that several papers have
``joint``   how HADGAN judges residuals of spectra
``spectra`` of what: covariances, filters, spreads
"""

from __future__ import annotations

from knnspect.extras import require

require("torch", for_="a network that draws images")
