"""The features of normal images, from which detectors learn.

``checks``           features and parameters that nothing can be learnt from
``extract``          filling a gallery with them, in memory or in a folder
``memory_plan``      what a limit of memory allows
``near_duplicates``  images that are nearly the same as others
``pending``          which images of a folder are not learnt yet, or have changed
"""
