"""The gallery: feature pyramids of normal images, searched exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from knnspect import _core
from knnspect.errors import ParameterError, StoreError
from knnspect.files import check_path, is_folder, is_there
from knnspect.gallery.coreset import Coreset
from knnspect.gallery.folder import end_of_journal
from knnspect.gallery.picking import pick_coreset
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.pyramid import FeaturePyramid
from knnspect.validation import check_choice, check_ids

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Gallery"]


class Gallery(ReadOnlyGallery):
    """Feature pyramids of normal images, by id.

    The gallery keeps each level at its own resolution, a fraction of what concatenated features
    take. It may be searched, and changed, from several threads.

    ``Gallery()`` is in memory. `create` makes one in a folder, which is changed there, image by
    image, and may be larger than memory: features stay on the disk, and adding or removing costs
    only the images concerned. One process at a time may change it, while any number read it. `save`
    writes a snapshot of either to one file. `open` opens files and folders. A pickle holds the
    features of a gallery in memory, and the path of one in a folder.

    Parameters
    ----------
    upsample : {"bilinear", "block"}, default "bilinear"
        How coarse levels are brought to the resolution of the finest one: bilinear interpolation
        with half-pixel centres (``align_corners=False``), or repetition.
    dtype : {"float32", "float16", "int8"}, default "float32"
        How features are kept. "float16" takes half the memory and "int8" about a quarter: one byte
        per value, and a scale and an offset for each channel of each level of an image, within
        half of a 255th of what the channel spans there. Distances are exact for the features as
        they are kept, queries are never rounded.

    Raises
    ------
    ParameterError
        If `upsample` or `dtype` is another word.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> levels = [rng.random((2, 8, 8, 3), dtype="f4"), rng.random((2, 4, 4, 16), dtype="f4")]
    >>> gallery = Gallery()
    >>> gallery.add(FeaturePyramid(levels), ids=["left", "right"])
    ['left', 'right']
    >>> neighbors = gallery.search(FeaturePyramid(levels)[0], k=2)
    >>> neighbors
    Neighbors(n_images=1, cells=8x8, k=2)
    >>> float(neighbors.sq_distances[..., 0].max()), str(neighbors.images[0, 3, 5, 0])
    (0.0, 'left')
    >>> gallery.replace(FeaturePyramid(levels)[1], ids=["left"])
    >>> small = Gallery(dtype="int8")
    >>> small.add(gallery.pyramid())
    ['000000', '000001']
    >>> gallery.nbytes, small.nbytes
    (3584, 1200)
    >>> gallery.remove(["left"])
    >>> gallery.ids
    ['right']
    """

    #: The file by which a folder with such a gallery is known.
    marker: ClassVar[str] = "journal"

    def __init__(self, upsample: str = "bilinear", dtype: str = "float32") -> None:
        self.core = self._source = _core.Gallery(upsample, dtype)
        #: The folder, as an absolute path, and its state when it was opened for reading.
        self._folder: Path | None = None
        self._opened: bytes | None = None

    @property
    def mode(self) -> str:
        """``"r+"`` if the gallery can be changed, else ``"r"``, as in a forked process."""
        return "r+" if self.core.is_writable else "r"

    @property
    def n_removed(self) -> int:
        """Number of removed images whose features are in the folder until `compact`."""
        return self.core.n_removed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_core(cls, core: _core.Gallery) -> Self:
        """Wrap a gallery of the Rust core."""
        gallery = super().from_core(core)
        gallery._opened = None
        gallery._folder = None if core.path is None else core.path.absolute()
        return gallery

    def __reduce__(self) -> tuple[Callable[..., ReadOnlyGallery], tuple[object, ...]]:
        """Pickle the features of a gallery in memory; a folder is opened where it is.

        Raises
        ------
        DTypeError
            If features of an int8 gallery would be rounded anew.
        """
        if self._folder is None:
            return super().__reduce__()
        return _reopened, (self._folder, self._state_of_folder())

    def add(self, pyramid: FeaturePyramid, ids: Sequence[str] | None = None) -> list[str]:
        """Add images: all of them, or none when there is an error.

        Parameters
        ----------
        pyramid : FeaturePyramid
            The images' features; the first pyramid added decides the shape of all others.
        ids : sequence of str, optional
            An id for each image; running numbers ("000000", "000001", …) by default.

        Returns
        -------
        list of str
            The ids.

        Raises
        ------
        ShapeError
            If the levels, channels or sizes differ from those of the gallery, or the number of ids
            from that of images.
        ParameterError
            If an id is in the gallery already or given twice.
        ImageError
            If a feature is NaN or infinite, or too large for a float16 gallery; the message names
            the image and the level.
        StoreError
            If the gallery's folder is not open for writing, or the disk does not take the images;
            the gallery is then as it was. When `add` returns they are on the disk.
        """
        if ids is None:
            ids = self.core.free_ids(pyramid.n_images)
        checked = check_ids(ids, "ids")
        self.core.add(list(pyramid.levels), checked)
        return checked

    def replace(self, pyramid: FeaturePyramid, ids: Sequence[str]) -> None:
        """Exchange the features of images: all of them, or none when there is an error.

        Parameters
        ----------
        pyramid : FeaturePyramid
            The new features; levels, channels and sizes are those of the gallery.
        ids : sequence of str
            Ids of images in the gallery, one for each image of `pyramid`.

        Raises
        ------
        ParameterError
            If an id is not in the gallery or given twice.
        ShapeError, ImageError, StoreError
            As `add`.
        """
        self.core.replace(list(pyramid.levels), check_ids(ids, "ids"))

    def remove(self, ids: Sequence[str]) -> None:
        """Remove images: all of them, or none when one is unknown.

        In a folder their features keep their room until `compact`.

        Parameters
        ----------
        ids : sequence of str
            Ids of images in the gallery.

        Raises
        ------
        ParameterError
            If an id is not in the gallery.
        StoreError
            If the gallery's folder is not open for writing, or the disk does not take the change;
            the gallery is then as it was.
        """
        self.core.remove(check_ids(ids, "ids"))

    def compact(self) -> None:
        """Give back the room that removed images take in the gallery's folder, if it has one.

        Files that hold removed images, of up to 256 MiB each, are written anew without these, and
        meanwhile need that room once more. Galleries that were opened before stay as they are.

        Raises
        ------
        StoreError
            If the folder is not open for writing, there is no room, or an image is damaged; the
            gallery is then as it was.
        """
        self.core.compact()

    def verify(self) -> None:
        """Read every image of the gallery's folder, and compare its checksum.

        Without it each is verified when it is first searched. A file is when it is opened.

        Raises
        ------
        StoreError
            If a byte was altered; the message names the gallery and the image.
        """
        self.core.verify()

    def close(self) -> None:
        """End writing to the gallery's folder, so that others may; it can still be searched.

        The end of a ``with`` block does the same. In a forked process it does nothing.
        """
        self._opened = self._state_of_folder()
        self.core.close()

    def _state_of_folder(self) -> bytes | None:
        """Return what tells the state of the gallery's folder from others; None in memory."""
        return end_of_journal(self._folder) if self.mode == "r+" else self._opened

    def coreset(
        self,
        size: int | float,
        seed: int = 0,
        projection: int | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> Coreset:
        """Pick a few rows that lie near all others; see `Coreset`.

        A row is the upsampled, concatenated feature of one cell. The first is drawn by `seed`; each
        next one is the row that is farthest from all that were picked (greedy k-centre selection),
        by squared L2 distance in float64; ties go to the lowest (image id, row, column). Neither
        the number of threads nor the machine's instruction set changes what is picked. Rows that
        coincide with picked ones are never picked: there may be fewer than asked for.

        Parameters
        ----------
        size : int or float
            How many rows, or which share of all, above 0 and at most 1.0 (the nearest whole number,
            at least one row). Mind that ``1`` is one row and ``1.0`` is all.
        seed : int, default 0
            Chooses the first row and the projection.
        projection : int, optional
            Measure distances after a random Gaussian projection to so many dimensions, as others
            do; by default they are exact, which takes no longer.
        threads : int, optional
            Number of threads; by default all that the process may use.
        progress : bool, default False
            Report progress on standard error.

        Returns
        -------
        Coreset
            The rows and where they came from.

        Raises
        ------
        ParameterError
            If the gallery is empty, or an argument is out of range.
        DTypeError
            If an argument is of another type.
        ImageError
            If a projected feature is not finite.
        MemoryError
            If the picked rows do not fit into memory.

        Source
        ------
        Roth et al., "Towards Total Recall in Industrial Anomaly Detection" (2022), algorithm 1;
        Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985).

        Examples
        --------
        >>> import numpy as np
        >>> gallery = Gallery()
        >>> normal = np.arange(16, dtype="f4").reshape(1, 4, 4, 1)
        >>> _ = gallery.add(FeaturePyramid([normal]), ids=["a"])
        >>> coreset = gallery.coreset(3)
        >>> coreset.rows[coreset.order, 0], coreset.sq_radius
        (array([13.,  0.,  6.], dtype=float32), 9.0)
        """
        return pick_coreset(self, size, seed, projection, threads, progress)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        upsample: str = "bilinear",
        dtype: str = "float32",
    ) -> Gallery:
        """Make an empty gallery in a new folder, open for writing.

        Every change is on the disk when the method that makes it returns. A crash at any moment
        leaves the gallery as it was before the change or after it.

        Parameters
        ----------
        path : path-like
            The folder to make; it may exist if it is empty.
        upsample, dtype
            As of a gallery in memory.

        Returns
        -------
        Gallery
            Empty, and the only one that may change the folder until `close`, or until it is gone.

        Raises
        ------
        StoreError
            If there is something already, or the folder cannot be written.
        ParameterError
            If `upsample` or `dtype` is another word.
        """
        return cls.from_core(_core.Gallery.create(check_path(path), upsample, dtype))

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], mode: str = "r", verify: bool | None = None
    ) -> Gallery:
        """Open a gallery on the disk; its features stay there, memory-mapped.

        Parameters
        ----------
        path : path-like
            A folder that `create` made, the folder of a `ShardedGallery`, or a file that `save`
            wrote. Only knnspect may write into it: a file is replaced by `save` or a rename.
        mode : {"r", "r+"}, default "r"
            To change a folder, ``"r+"``; one process at a time may, and those that are forked from
            it can only read. Those who read it keep the gallery as it was when they opened it. A
            file is a snapshot: what is opened from it may be changed in memory.
        verify : bool, optional
            True: read everything once and compare the checksums. False: check the structure only,
            and of a folder each image when it is first searched. By default a file is verified at
            once, and a folder image by image, so that opening it takes milliseconds.

        Returns
        -------
        Gallery
            Ready to be searched.

        Raises
        ------
        StoreError
            If there is no gallery, it is truncated, altered or of a newer version, or something in
            the folder is not a regular file; with ``"r+"``, if another process has it open for
            writing, or the disk is read-only.
        ParameterError
            If `mode` is another word, or ``"r+"`` for a file.
        """
        check_choice("mode", mode, ["r", "r+"])
        path = check_path(path)
        if is_folder(path):
            for kind in cls.__subclasses__():
                if is_there(path / kind.marker):
                    return kind.open(path, mode, verify)
            opened = end_of_journal(path)
            gallery = cls.from_core(_core.Gallery.open(path, mode == "r+"))
            gallery._opened = opened
            if verify:
                gallery.verify()
            return gallery
        store = _core.Store(path, verify is None or verify)
        if store.kind != "gallery":
            raise StoreError(f"{path}: expected a gallery, it holds a {store.kind}", path=path)
        if mode == "r+":
            raise ParameterError(
                f'{path}: mode "r+" is for galleries in a folder, this is a file: open '
                "it, change it, and save it"
            )
        return cls.from_core(_core.Gallery.from_store(store))


def _reopened(path: Path, state: bytes) -> Gallery:
    """Return the gallery in a folder, as it was when it was pickled."""
    try:
        gallery = Gallery.open(path)
    except StoreError as error:
        raise StoreError(
            f"{error}; a gallery in a folder is pickled by its path: where the folder is not, save "
            "the gallery, or the detector, to a file and open that"
        ) from error
    if gallery._opened != state:
        raise StoreError(f"{path}: the gallery was changed after it was opened and pickled")
    return gallery
