"""Pictures of what a detector found: maps in colour, laid over their images, on one sheet.

Pictures are plain uint8 arrays of shape ``(height, width, 3)``, red, green, blue; Pillow draws
them. :func:`colorize` turns values into colours, :func:`overlay` lays a map over its image,
:func:`contact_sheet` puts many of these side by side, and :func:`save_png` writes a picture.
"""

from __future__ import annotations

from knnspect.report.colors import colorize
from knnspect.report.contact_sheet import SheetEntry, contact_sheet
from knnspect.report.overlay import overlay, save_png

__all__ = ["SheetEntry", "colorize", "contact_sheet", "overlay", "save_png"]
