"""How features of normal images are summed up, without training a network.

``gaussians``  means and scatters, for each cell or for all
``learning``   those of the features in a gallery, with more images, and without some
``metrics``    how far a sample is from a Gaussian
``one_class``  a one-class SVM over an approximate kernel
"""
