"""The templates of pages, and what else lies beside this file."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["environment", "text"]


def environment() -> Environment:
    """Return what fills templates; what they are given is escaped, as file names are in it."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        autoescape=True,
        loader=FunctionLoader(text),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = lambda value: f"{value:.4g}"
    return made


def text(name: str) -> str:
    """Return a file that lies beside this one."""
    return resources.files("knnspect.report.html").joinpath(name).read_text("utf-8")
