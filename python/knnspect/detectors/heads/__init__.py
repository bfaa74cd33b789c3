"""Methods that train a network on frozen features; each module but ``base`` is one.

``base``      what they have in common
``networks``  the networks, in PyTorch
``scorers``   the same in NumPy, for models that were exported
"""
