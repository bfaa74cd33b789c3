"""Methods that learn what frozen features of normal images are like; each is one module.

Those that train a network have a ``networks`` module, those that do not an ``estimates`` module.

``base``       what methods have in common whose network gives each cell a score
``gaussian``   what methods have in common that describe features by Gaussians
``growing``    what methods have in common that learn from more images without a new fit
``estimates``  how features are summed up, without training
``networks``   the networks, in PyTorch
``scorers``    what judges cells in NumPy
"""
