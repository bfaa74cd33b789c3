"""Networks as ONNX graphs, run by onnxruntime, without PyTorch; imported where they are used.

``network``  a network once it is loaded: prepared images in, feature maps out
``session``  a graph that runs: devices, threads, processes
"""

from __future__ import annotations

from knnspect.extras import require

require("onnxruntime", for_="an ONNX network")
