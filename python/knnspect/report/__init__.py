"""What a detector found, for people: maps laid over their images, contact sheets, tables.

Pictures are plain uint8 arrays of shape ``(height, width, 3)``, red, green, blue; Pillow draws
them. :func:`colorize` turns values into colours, :func:`overlay` lays a map over its image,
:func:`contact_sheet` puts many of these side by side, :func:`save_png` writes a picture, and a
:class:`ResultsFolder` keeps the predictions of many images as files.
"""

from __future__ import annotations

from knnspect.report.colors import colorize
from knnspect.report.contact_sheet import SheetEntry, contact_sheet
from knnspect.report.overlay import overlay, save_png
from knnspect.report.results import ResultsFolder, check_apart

__all__ = [
    "ResultsFolder",
    "SheetEntry",
    "check_apart",
    "colorize",
    "contact_sheet",
    "overlay",
    "save_png",
]
