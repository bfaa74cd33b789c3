"""What turns images into features: reading, batches, files; whatever makes the features."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import NDArray

from knnspect.data import Geometry, ImageReader, iterate_batches, open_images
from knnspect.data.loading import OnBad, Views
from knnspect.errors import ImageError
from knnspect.features.features import Features
from knnspect.features.mixed_sizes import forward_in_order
from knnspect.features.network import Images, Network
from knnspect.features.reading import ReadsImages, Skipped
from knnspect.features.stored import ONNX_FORMATS, digest_of, pack
from knnspect.features.tiled import TiledNetwork
from knnspect.parameters import learnt
from knnspect.progress import Progress, Stopwatch
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_count
from knnspect.views import Placement

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

__all__ = ["Extractor"]


class Extractor(ReadsImages):
    """Turns images into feature pyramids, by a network that is built when it is first needed.

    It can be pickled and copied, loaded or not: a loaded one takes its weights along, so that it
    needs neither file nor hub elsewhere.

    Attributes
    ----------
    source : str
        Where the features come from, in words; loads the network.
    """

    _loaded: Network | None = learnt()
    #: What `state` returned, until a backbone that was unpickled is first used.
    _stored: tuple[dict[str, Any], dict[str, NDArray[Any]]] | None = learnt()

    def _begin(self) -> None:
        super()._begin()
        self._loaded = self._stored = None

    if TYPE_CHECKING:  # parameters of some, constants of others

        @property
        def name(self) -> str | os.PathLike[str]:
            """What it is called where it is kept."""

        @property
        def device(self) -> str | None:
            """Where it is to run, as it was given."""

    @abstractmethod
    def _build(self) -> Network:
        """Return what makes the features, by the parameters."""

    @classmethod
    @abstractmethod
    def from_state(
        cls,
        settings: dict[str, Any],
        tensors: dict[str, NDArray[Any]],
        device: str | None = None,
    ) -> Self:
        """Rebuild it from what `state` returned."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters and, once it is loaded, the network as settings and arrays.

        The network as such has hooks and a lock, which cannot be pickled.
        """
        stored = self._stored if self._loaded is None else self.state()
        return {**vars(self), "_loaded": None, "_stored": stored}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return one of its own parameters, on the same network, which never changes."""
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
        return self._load().settings().get("format") in ONNX_FORMATS

    def extract(
        self,
        images: object,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> Features:
        """Extract the features of all images at once; see `iterate` to go through them.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.
        batch_size : int, default 16
            Images that are handled together. On the CPU the features do not depend on it; on a GPU
            another size may round otherwise, but never the images that share a batch.
        n_workers : int, default 2
            Threads that read and resize images.
        skip_bad : bool or callable, default False
            Leave out images that cannot be used, with an `ImageWarning`, instead of raising; or
            call this with the id and the error of each.
        progress : bool, default False
            Report progress on standard error.

        Returns
        -------
        Features
            One entry per image, in order.

        Raises
        ------
        ImageError
            If an image cannot be used, or there is none.
        ShapeError
            If images have maps of different grids, as with ``resize="shorter"``: these do not make
            one pyramid; `iterate` gives them.

        Warns
        -----
        ReadingWarning
            Once for all images, if some lie above the white level, use a small part of their range,
            or have pages that were not read.
        """
        return Features.concatenate(
            # A device may not have the room for all of them.
            replace(part, pyramid=FeaturePyramid(part.pyramid.levels))
            for part in self.iterate(images, batch_size, n_workers, skip_bad, progress)
        )

    def iterate(
        self,
        images: object,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
        stopwatch: Stopwatch | None = None,
        label: str = "features",
        may_be_none: bool = False,
        pooled: bool = True,
        keep_pictures: bool = False,
        views: Views | None = None,
        reader: ImageReader | None = None,
    ) -> Iterator[Features]:
        """Extract the features batch by batch; the parameters are those of `extract`.

        Parameters
        ----------
        images, batch_size, n_workers, skip_bad, progress
            See `extract`.
        stopwatch : Stopwatch, optional
            Receives the time waited for images ("decode") and that in the network ("features").
        label : str, default "features"
            What the progress report calls the work.
        may_be_none : bool, default False
            That no image can be used, or that there is none, is no error.
        pooled : bool, default True
            Also take the pooled features. Without them the network is run only as far as the levels
            need, and `Features.pooled` has no columns.
        keep_pictures : bool, default False
            Also give the images as they came, but for those of more than 2^24 pixels.
        views : Views, optional
            What of each image goes through the network, such as `Variants`; `batch_size` and the
            entries of `Features` then count these.
        reader : ImageReader, optional
            Reads the images, and collects what is to be said of them, which is then left to the
            caller to say; by default `reader()`, and it is said.

        Yields
        ------
        Features
            The next images, of one batch; of one grid, so that a batch may come in several parts.

        Raises
        ------
        ImageError
            If an image cannot be used, or there is none.
        """
        source = open_images(self.opened(images))  # before anything that takes long
        reads = self.reader() if reader is None else reader
        loaded = self._load()
        is_tiled = isinstance(loaded, TiledNetwork)
        watch = stopwatch or Stopwatch()
        skipped = Skipped(skip_bad)
        check_count("batch_size", batch_size)
        check_count("n_workers", n_workers, minimum=0)
        batches = iterate_batches(
            source,
            loaded.geometry,
            1 if is_tiled else batch_size,
            min(1, n_workers) if is_tiled else n_workers,
            skipped if skip_bad else None,
            reads,
            keep_pictures,
            views,
            is_tiled,
        )
        n_images = 0
        with Progress(label, source.n_images, progress) as report:
            while True:
                with watch.stage("decode"):
                    batch = next(batches, None)
                if reader is None:
                    reads.warn(at_end=batch is None)
                if batch is None:
                    break
                prepared = cast("Images", batch.images)  # in windows for tiles alone
                with watch.stage("features"):
                    parts = forward_in_order(loaded, prepared, batch_size, pooled)
                n_images += batch.n_begun
                report.advance(batch.n_begun)
                placements = [Placement(size, loaded.geometry) for size in batch.sizes]
                for at, pyramid, vectors in parts:
                    yield Features(
                        pyramid, vectors, batch.ids[at], placements[at], batch.pictures[at]
                    )
        if n_images == 0 and not may_be_none:
            raise ImageError(f"images: none of the {skipped.n} images could be used")

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what is needed to build it anywhere: its settings and its tensors.

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
        return pack(str(self.name), self._load(), level)

    def fingerprint(self) -> dict[str, Any]:
        """Return all that features depend on: the settings of `state`, and a digest of the weights.

        Returns
        -------
        dict
            JSON-compatible; "weights" is a SHA-256, and where they came from does not matter.
        """
        return digest_of(*self.state())

    def _load(self) -> Network:
        stored = self._stored  # before looking at `_loaded`: another thread may just have set that
        if self._loaded is None and stored is not None:
            self._loaded = self.from_state(*stored, device=self.device)._loaded
            self._stored = None
        if self._loaded is None:
            self._loaded = self._build()
        return self._loaded
