"""Options of a fit on a cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.options import OptionGroup, flag
from knnspect.errors import ParameterError

if TYPE_CHECKING:
    from knnspect.cluster import OnCluster

__all__ = ["ClusterOptions", "with_address"]

_PANEL = "Cluster"
#: What `--ray` means without an address.
_DEFAULT = "auto"

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Extract features on a Ray cluster: host:6379, local to start one here, or, by "
        "default, auto: the one that runs. OUTPUT becomes a folder, which all nodes reach.",
        metavar="[ADDRESS]",
        rich_help_panel=_PANEL,
    ),
]
NumShards = Annotated[
    int | None,
    typer.Option(
        help="With --ray: folders in which the features are kept; one for each node, and at least "
        "2, by default.",
        rich_help_panel=_PANEL,
    ),
]
NumActors = Annotated[
    int | None,
    typer.Option(
        help="With --ray: processes that extract features; one for each GPU or node by default.",
        rich_help_panel=_PANEL,
    ),
]
NumGpus = Annotated[
    float | None,
    typer.Option(
        help="With --ray: GPUs for each of these; 1 by default if the cluster has some.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(OptionGroup):
    """On which cluster features are extracted, and how."""

    ray: Ray = None
    shards: NumShards = None
    actors: NumActors = None
    num_gpus: NumGpus = None

    def cluster(self) -> OnCluster | None:
        """Return the cluster that they describe; None if there is none.

        Raises
        ------
        ParameterError
            If an option goes with ``--ray``, which is not given.
        """
        from knnspect.cluster import OnCluster

        if self.ray is not None:
            return OnCluster(self.ray, self.shards, self.actors, self.num_gpus)
        for name in ("shards", "actors", "num_gpus"):
            if getattr(self, name) is not None:
                raise ParameterError(f"{flag(name)}: goes with --ray")
        return None


def with_address(arguments: Sequence[str]) -> list[str]:
    """Return a command line that says ``--ray auto`` where ``--ray`` has no address.

    >>> with_address(["fit", "--ray", "images", "--output=m"])
    ['fit', '--ray', 'auto', 'images', '--output=m']
    >>> with_address(["fit", "images", "--ray", "first-host:6379"])
    ['fit', 'images', '--ray', 'first-host:6379']
    """
    found = []
    for place, argument in enumerate(arguments):
        found.append(argument)
        if argument == "--ray":
            following = next(iter(arguments[place + 1 :]), "")
            if not re.fullmatch(r"auto|local|(ray://)?[^/\s-][^/\s]*:\d+", following):
                found.append(_DEFAULT)
    return found
