"""Networks of timm, in PyTorch, imported where they are used.

``network``       a network once it is loaded: prepared images in, feature maps out
``architectures`` which networks there are, how one is built, what its tensors and its maps are
``weights``       where pretrained weights come from
``weight_files``  files of weights: their tensors by name
``checkpoints``   tensors under the names that timm and hubs publish
``blocks``        the blocks of a transformer
``prefix``        a network, run only as far as its feature maps are needed
``onnx_graph``    a network as an ONNX graph
"""

from __future__ import annotations

from knnspect.extras import require

require("torch", "timm", for_="a network of timm")
