"""Reports as one page of HTML, which needs no network and nothing beside it.

``report``      what was said of images, one by one, and the file
``cards``       an image, its anomalous regions and the normal places nearest to them
``pictures``    pictures, maps and crops as data in the page
``histogram``   the scores of normal and of judged images
``about``       the settings and the versions that gave them
``selection``   which images of a folder were dropped, and why
``template``    the templates, and how they are filled

A page is made of ``page.html.j2`` and ``card.html.j2``, with ``page.js``, or of
``selection.html.j2``; and of ``page.css``.
"""

from __future__ import annotations

from knnspect.report.html.report import HtmlReport
from knnspect.report.html.selection import write_selection

__all__ = ["HtmlReport", "write_selection"]
