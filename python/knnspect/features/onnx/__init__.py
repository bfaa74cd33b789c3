"""Networks as ONNX graphs, run by onnxruntime, without PyTorch; imported where they are used.

``network``       a network that was exported: prepared images in, feature maps out
``session``       a graph that runs: devices, threads, processes
``file``          ONNX files that others made, and the tensors of their graphs
``image_input``   what such a graph takes
``maps``          its tensors as feature maps
``file_network``  the network of such a file
``listing``       what such a file has, for people
"""

from __future__ import annotations

from knnspect.extras import require

require("onnxruntime", for_="an ONNX network")
