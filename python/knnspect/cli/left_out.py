"""What was left out of the work, for the line at its end."""

from __future__ import annotations

import warnings
from typing import Any

from knnspect.errors import ImageWarning

__all__ = ["LeftOut"]


class LeftOut:
    """Collects why images were left out while it is entered; that is said at once, too."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __enter__(self) -> LeftOut:
        self._shown = warnings.showwarning
        warnings.showwarning = self._show
        return self

    def __exit__(self, *_: object) -> None:
        warnings.showwarning = self._shown

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, ImageWarning):
            self.reasons.append(str(message))
        self._shown(message, category, filename, lineno, file, line)

    def summary(self) -> str:
        """Return what is to be said at the end."""
        return f", {len(self.reasons)} left out" if self.reasons else ""
