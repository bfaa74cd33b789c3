"""A network that is loaded when it is needed, and travels with what holds it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from knnspect.data import Geometry
from knnspect.features.network import Network, NetworkSettings
from knnspect.features.reading import ReadsImages
from knnspect.features.stored import digest_of, pack, unpack
from knnspect.parameters import learnt

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

__all__ = ["HoldsNetwork"]


class HoldsNetwork(ReadsImages):
    """Loads a network on first use; copies share it, pickles and models take it along.

    Its parameters are those of `NetworkSettings`.
    """

    _loaded: Network | None = learnt()
    #: What `state` returned, until a backbone that was unpickled is first used.
    _stored: tuple[dict[str, Any], dict[str, NDArray[Any]]] | None = learnt()

    def _begin(self) -> None:
        super()._begin()
        self._loaded = self._stored = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and, once it is loaded, the network as settings and arrays.

        The network as such has hooks and a lock, which cannot be pickled.
        """
        stored = self._stored if self._loaded is None else self.state()
        return {**vars(self), "_loaded": None, "_stored": stored}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a backbone of its own parameters, on the same network, which never changes."""
        copied = type(self).__new__(type(self))
        shared = {"_loaded": self._loaded, "_stored": self._stored}
        parameters = {name: value for name, value in vars(self).items() if name not in shared}
        vars(copied).update(copy.deepcopy(parameters, memo), **shared)
        return copied

    def __copy__(self) -> Self:
        """Return the same as `copy.deepcopy`: parameters are small."""
        return copy.deepcopy(self)

    @property
    def source(self) -> str:
        """Where the weights came from, in words."""
        return self._load().source

    @property
    def geometry(self) -> Geometry:
        """How images meet the network, and how maps come back."""
        return self._load().geometry

    @property
    def channels(self) -> list[int]:
        """How many channels each level has."""
        return self._load().channels

    @property
    def torch_device(self) -> torch.device:
        """The device on which the network runs, and what is trained on its features."""
        import torch

        return torch.device(self._load().device)

    @property
    def is_exported(self) -> bool:
        """Whether the network is an ONNX graph, which needs no PyTorch."""
        return "format" in self._load().settings()

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what is needed to build this backbone anywhere: its settings and its tensors.

        Returns
        -------
        settings : dict
            JSON-compatible.
        tensors : dict of ndarray
            The network's weights.
        """
        level = None
        if self.white is not None and (self.white != "auto" or self._white_found is not None):
            level = self.white_level
        return pack(NetworkSettings.of(self).name, self._load(), level)

    def fingerprint(self) -> dict[str, Any]:
        """Return all that features depend on: the settings of `state`, and a digest of the weights.

        Returns
        -------
        dict
            JSON-compatible; "weights" is a SHA-256, and where they came from does not matter.
        """
        return digest_of(*self.state())

    @classmethod
    def from_state(
        cls,
        settings: dict[str, Any],
        tensors: dict[str, NDArray[Any]],
        device: str | None = None,
    ) -> Self:
        """Rebuild a backbone from what `state` returned.

        Parameters
        ----------
        settings : dict
            Its settings.
        tensors : dict of ndarray
            Its weights.
        device : str, optional
            Where it is to run.

        Returns
        -------
        Backbone
            With the network loaded.

        Raises
        ------
        StoreError
            If the settings are not those of a backbone, or the tensors not exactly those of the
            network that they name. Nothing is fetched, and no network is built that is larger
            than the tensors.
        ParameterError, DTypeError
            If the device cannot be used.
        """
        given, loaded = unpack(settings, tensors, device)
        backbone = cls(**given)
        backbone._loaded = loaded
        return backbone

    def _built(self) -> Network:
        """Return the network that the parameters describe."""
        raise NotImplementedError

    def _load(self) -> Network:
        stored = self._stored  # before looking at `_loaded`: another thread may just have set that
        if self._loaded is None and stored is not None:
            self._loaded = self.from_state(*stored, device=NetworkSettings.of(self).device)._loaded
            self._stored = None
        if self._loaded is None:
            self._loaded = self._built()
        return self._loaded
