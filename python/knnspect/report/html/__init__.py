"""A report on judged images as one page of HTML, which needs no network and nothing beside it.

``report``      what is shown, image by image, and the file
``cards``       an image, its anomalous regions and the normal places nearest to them
``pictures``    pictures, maps and crops as data in the page
``histogram``   the scores of normal and of judged images
``about``       the settings and the versions that gave them

The page is made of ``page.html.j2``, ``card.html.j2``, ``page.css`` and ``page.js``.
"""

from __future__ import annotations

from knnspect.report.html.report import HtmlReport

__all__ = ["HtmlReport"]
