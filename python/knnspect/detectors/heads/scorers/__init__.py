"""What heads say of cells, in NumPy.

``arrays``     what scorers have in common
``cflow``      the flows of CFLOW, for models that were exported
``gaussians``  Mahalanobis distances
``resizing``   scores of a coarse grid on a finer one
``simplenet``  the adaptor and the discriminator of SimpleNet, for models that were exported
"""
