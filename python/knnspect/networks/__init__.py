"""Networks that are trained on frozen features of normal images, in PyTorch.

``checkpoint``       the file from which training goes on after an interruption
``cflow``            CFLOW-AD: one flow per level, and what their likelihoods are held against
``flow``             a conditional normalizing flow over the cells of one level
``simplenet``        SimpleNet: a feature adaptor and a discriminator
``standardization``  mean and standard deviation of each channel
``training``         epochs, early stopping, checkpoints, progress

What is here imports torch, so it is imported where it is used.
"""
