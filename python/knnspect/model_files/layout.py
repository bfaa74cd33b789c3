"""What things are called in the files of models."""

from __future__ import annotations

from pathlib import Path

from knnspect.files import is_folder

__all__ = [
    "BACKBONE",
    "CALIBRATION",
    "CORRECTIONS",
    "LINES",
    "MODEL",
    "OF_IMAGES",
    "drift_file",
]

#: The file of a folder that is a model.
MODEL = "model"
#: Before the names of a backbone's tensors.
BACKBONE = "backbone."
#: Before the names of a calibration's arrays.
CALIBRATION = "calibration."
#: The file of a folder with what was corrected since its model was fitted.
CORRECTIONS = "corrections"
#: Of a model that is one file: the arrays with the same.
LINES = "corrections.lines"
#: The entry of the metadata that says which images are in the gallery beside the file.
OF_IMAGES = "images"


def drift_file(model: Path) -> Path:
    """Return where the drift monitor of a model is: in its folder, or beside its file.

    >>> drift_file(Path("cells.ks")).name
    'cells.ks.drift.json'
    """
    if is_folder(model):
        return model / "drift.json"
    return model.with_name(f"{model.name}.drift.json")
