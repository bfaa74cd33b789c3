"""What heads say of cells, in NumPy.

``arrays``           what scorers have in common
``autoencoder``      the autoencoder of DUAD, for models that were exported
``cells``            what those have in common that standardize features of cells
``cflow``            the flows of CFLOW, for models that were exported
``deep_svdd``        the layers and the centre of Deep SVDD, for models that were exported
``gaussians``        Mahalanobis distances
``one_class``        on which side of a plane in a kernel's space cells and images are
``resizing``         scores of a coarse grid on a finer one
``simplenet``        the adaptor and the discriminator of SimpleNet, for models that were exported
``student_teacher``  students, for models that were exported, and what they are shown
``transformations``  the map by which shifts are told apart, for models that were exported
"""
