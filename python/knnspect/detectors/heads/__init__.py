"""Detectors that train a network on frozen features of normal images, in PyTorch.

``base``               what they have in common
``cflow``              CFLOW-AD
``cflow_network``      one flow per level, and what their likelihoods are held against
``flow``               a conditional normalizing flow over the cells of one level
``simplenet``          SimpleNet
``simplenet_network``  a feature adaptor and a discriminator
``standardization``    mean and standard deviation of each channel

The networks import torch, so they are imported where they are used.
"""
