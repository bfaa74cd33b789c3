"""What things are called in the files of models."""

from __future__ import annotations

__all__ = ["BACKBONE", "MODEL", "OF_IMAGES"]

#: The file of a folder that is a model.
MODEL = "model"
#: Before the names of a backbone's tensors.
BACKBONE = "backbone."
#: The entry of the metadata that says which images are in the gallery beside the file.
OF_IMAGES = "images"
