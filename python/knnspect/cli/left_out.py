"""What was left out of the work: said at once, and counted for the line at its end."""

from __future__ import annotations

import typer

from knnspect.errors import ImageError

__all__ = ["LeftOut"]


class LeftOut:
    """Receives the images that are left out, as `skip_bad` of a detector."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, id_: str, error: ImageError) -> None:
        """Say that an image is left out, and count it."""
        reason = f"left out image {id_}: {error}"
        self.reasons.append(reason)
        typer.echo(f"knnspect: {reason}", err=True)

    def summary(self) -> str:
        """Return what is to be said at the end."""
        return f", {len(self.reasons)} left out" if self.reasons else ""
