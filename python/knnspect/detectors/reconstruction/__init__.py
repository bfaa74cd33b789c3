"""Methods that learn to draw normal images, and score what they cannot draw.

``base``      what they have in common
``networks``  their networks, in PyTorch: ``blocks``, ``losses`` and ``latent`` are shared

Each other module is a method, called as its file, by the name of its paper; its network has a file
of the same name in ``networks``.
"""
