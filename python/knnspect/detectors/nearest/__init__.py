"""Detectors that compare with the nearest normal features.

``border``     how much larger distances are near the border of normal images
``patchcore``  PatchCore
``spade``      SPADE
"""
