"""What trained networks say of cells, in NumPy: for models that were exported.

``arrays``     what scorers have in common
``cflow``      the flows of CFLOW
``simplenet``  the adaptor and the discriminator of SimpleNet
"""
