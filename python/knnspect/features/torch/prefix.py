"""A network, run only as far as its feature maps are needed."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from knnspect.forked import lock

__all__ = ["Prefix"]


class Prefix:
    """The part of a network up to some of its feature maps.

    What ends the part is found when it is first used: the modules whose outputs are the maps. Where
    there are none, or stopping there gives other values, the whole network is run.

    Parameters
    ----------
    module : torch.nn.Module
        Returns a list of feature maps.
    levels : list of int
        Which of them are needed.

    Examples
    --------
    >>> import torch
    >>> class Two(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.second = torch.nn.ReLU(), torch.nn.Flatten()
    ...     def forward(self, batch):
    ...         first = self.first(batch)
    ...         return [first, self.second(first)]
    >>> prefix = Prefix(Two(), [0])
    >>> [level.shape for level in prefix(torch.zeros(1, 2, 3))], prefix.is_shorter
    ([torch.Size([1, 2, 3])], True)
    """

    def __init__(self, module: nn.Module, levels: list[int]) -> None:
        self._module, self._levels = module, levels
        self._lock = lock()
        #: The outputs found so far by a run that is to end early, of this thread.
        self._run = threading.local()
        #: Whether the network can be ended early; None before it was tried.
        self.is_shorter: bool | None = None

    def __call__(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps that are needed."""
        with self._lock:
            if self.is_shorter is None:
                return self._try(batch)
        if self.is_shorter:
            return self._until_found(batch)
        maps = self._module(batch)
        return [maps[level] for level in self._levels]

    def _try(self, batch: torch.Tensor) -> list[torch.Tensor]:
        outputs: list[tuple[nn.Module, Any]] = []
        others = [module for module in self._module.modules() if module is not self._module]
        handles = [
            module.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
            for module in others
        ]
        try:
            maps = self._module(batch)
        finally:
            for handle in handles:
                handle.remove()
        needed = [maps[level] for level in self._levels]
        ends: list[nn.Module] = []
        for found in needed:
            ends += [module for module, output in outputs if output is found][-1:]
        self.is_shorter = False
        if len(ends) == len(needed):
            handles = [
                module.register_forward_hook(
                    lambda _, __, output, place=place: self._see(place, output)
                )
                for place, module in enumerate(ends)
            ]
            again = self._until_found(batch)
            self.is_shorter = all(map(torch.equal, needed, again))
            if not self.is_shorter:
                for handle in handles:
                    handle.remove()
        return needed

    def _until_found(self, batch: torch.Tensor) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        self._run.found = found
        try:
            maps = self._module(batch)
        except _FoundError:
            return [found[place] for place in range(len(self._levels))]
        finally:
            self._run.found = None
        return [maps[level] for level in self._levels]

    def _see(self, place: int, output: torch.Tensor) -> None:
        """Take note of an output; end the run once there are all."""
        found = getattr(self._run, "found", None)
        if found is not None:
            found[place] = output
            if len(found) == len(self._levels):
                raise _FoundError


class _FoundError(Exception):
    """All maps that are needed were found."""
