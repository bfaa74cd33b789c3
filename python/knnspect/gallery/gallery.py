"""The gallery: feature pyramids of normal images, searched exactly."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect import _core
from knnspect.backends import Backend, get_backend
from knnspect.errors import DTypeError, ParameterError, StoreError
from knnspect.files import check_path, is_folder, is_there
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors
from knnspect.validation import check_choice, check_count

if TYPE_CHECKING:
    from knnspect.gallery.coreset import Coreset

__all__ = ["Gallery", "check_ids", "is_gallery_folder"]


class Gallery:
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
    >>> small = Gallery(dtype="int8")
    >>> small.add(gallery.pyramid())
    ['000000', '000001']
    >>> gallery.nbytes, small.nbytes
    (3584, 1200)
    """

    def __init__(self, upsample: str = "bilinear", dtype: str = "float32") -> None:
        self.core = _core.Gallery(upsample, dtype)
        #: The folder, whatever the current one is, and its state when it was opened for reading.
        self._folder: Path | None = None
        self._opened: bytes | None = None

    @property
    def upsample(self) -> str:
        """How coarse levels are upsampled."""
        return self.core.upsample

    @property
    def dtype(self) -> str:
        """How features are kept."""
        return self.core.dtype

    @property
    def ids(self) -> list[str]:
        """Ids of the images, sorted."""
        return self.core.ids

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """``(height, width, channels)`` of each level; empty before the first image."""
        return self.core.shapes

    @property
    def nbytes(self) -> int:
        """Bytes of the features, in memory or in a memory-mapped file.

        The scales and offsets of an int8 gallery are counted.
        """
        return self.core.nbytes

    @property
    def path(self) -> Path | None:
        """The folder of a gallery that is in one."""
        return self.core.path

    @property
    def mode(self) -> str:
        """``"r+"`` if the gallery can be changed: in memory, or in a folder open for writing.

        In a process that was forked from the one that opened the folder it is ``"r"``.
        """
        return "r+" if self.core.is_writable else "r"

    @property
    def n_removed(self) -> int:
        """Number of removed images whose features are in the folder until `compact`."""
        return self.core.n_removed

    def __len__(self) -> int:
        return len(self.core)

    def __contains__(self, id: object) -> bool:  # noqa: A002
        return isinstance(id, str) and not _has_surrogates(id) and self.core.contains(id)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __copy__(self) -> Gallery:
        return Gallery.from_core(self.core.copy())

    def __deepcopy__(self, memo: object) -> Gallery:
        return self.__copy__()  # images never change once they are in a gallery

    def __reduce__(self) -> tuple[Callable[..., Gallery], tuple[object, ...]]:
        """Pickle the features of a gallery in memory; a folder is opened where it is.

        Raises
        ------
        DTypeError
            If features of an int8 gallery would be rounded anew.
        """
        if self._folder is not None:
            return _reopened, (self._folder, self._state_of_folder())
        core = self.core.copy()  # as it is now, whatever other threads do to it
        images = [(id_, core.image(id_)) for id_ in core.ids]
        if core.dtype == "int8":
            _check_rounding(core, images)
        return _rebuilt, (core.upsample, core.dtype, images)

    def __repr__(self) -> str:
        return (
            f"Gallery(upsample={self.upsample!r}, dtype={self.dtype!r}, n_images={len(self)}"
            + "".join(f", level{i}={h}x{w}x{c}" for i, (h, w, c) in enumerate(self.shapes))
            + ")"
        )

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

        Examples
        --------
        >>> import numpy as np
        >>> Gallery().add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
        ['000000', '000001']
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

        Examples
        --------
        >>> import numpy as np
        >>> gallery = Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> gallery.replace(FeaturePyramid([np.ones((1, 4, 4, 3), "f4")]), ids=["b"])
        >>> float(gallery.pyramid(["b"]).levels[0].min())
        1.0
        """
        self.core.replace(list(pyramid.levels), check_ids(ids, "ids"))

    def remove(self, ids: Sequence[str]) -> None:
        """Remove images: all of them, or none when one is unknown.

        They are not found any more. In a folder their features keep their room until `compact`.

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

        Examples
        --------
        >>> import numpy as np
        >>> gallery = Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> gallery.remove(["a"])
        >>> gallery.ids
        ['b']
        """
        self.core.remove(check_ids(ids, "ids"))

    def compact(self) -> None:
        """Give back the room that removed images take in the gallery's folder.

        The files that hold removed images, of up to 256 MiB each, are written anew without these;
        meanwhile they need that room once more. Who has opened the gallery before keeps what was
        there then. A gallery in memory has nothing to compact.

        Raises
        ------
        StoreError
            If the folder is not open for writing, there is no room, or an image is damaged; the
            gallery is then as it was.

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gallery = Gallery.create(folder + "/normal.gallery")
        ...     _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        ...     gallery.remove(["a"])
        ...     before = gallery.n_removed
        ...     gallery.compact()
        ...     before, gallery.n_removed, gallery.ids
        (1, 0, ['b'])
        """
        self.core.compact()

    def verify(self) -> None:
        """Read every image of the gallery's folder, and compare its checksum.

        Without it each image is verified when it is first searched. A file is verified when it is
        opened, and memory needs no checksum.

        Raises
        ------
        StoreError
            If a byte was altered; the message names the gallery and the image.
        """
        self.core.verify()

    def close(self) -> None:
        """End writing to the gallery's folder, so that others may; it can still be searched.

        The end of a ``with`` block does the same. In a process that was forked from the one that
        writes, it does nothing.
        """
        self._opened = self._state_of_folder()
        self.core.close()

    def _state_of_folder(self) -> bytes | None:
        """Return what tells the state of the gallery's folder from others; None in memory."""
        return _end_of_journal(self._folder) if self.mode == "r+" else self._opened

    def pyramid(self, ids: Sequence[str] | None = None) -> FeaturePyramid:
        """Return the features of some or all images, as copies.

        Parameters
        ----------
        ids : sequence of str, optional
            Which images, in this order; all, in the order of their ids, by default.

        Returns
        -------
        FeaturePyramid
            Their features, of the gallery's dtype; those of an int8 gallery decoded, as float32:
            the values that distances are taken to. An int8 gallery keeps these as they are when
            they are added to it; only where a channel's values are some hundred times closer to
            each other than to zero, they may be rounded anew.

        Raises
        ------
        ParameterError
            If an id is not in the gallery, or there is none.

        Examples
        --------
        >>> import numpy as np
        >>> gallery = Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> gallery.pyramid(["b"])
        FeaturePyramid(n_images=1, levels=4x4x3)
        """
        checked = self.ids if ids is None else check_ids(ids, "ids")
        if not checked:
            raise ParameterError("ids: expected at least one image, got none")
        images = [self.core.image(name) for name in checked]
        return FeaturePyramid([np.stack(levels) for levels in zip(*images, strict=True)])

    def search(
        self,
        query: FeaturePyramid,
        k: int = 1,
        images: Sequence[str] | Sequence[Sequence[str]] | None = None,
        threads: int | None = None,
        backend: str | Backend = "auto",
    ) -> Neighbors:
        """Find the nearest gallery cells of every cell of a query, exactly.

        Distances are squared L2 between upsampled, concatenated features, as float64 gives them,
        rounded once to float32. Ties go to the lowest (image id, row, column). Neither depends on
        the number of threads, the batch, the machine's instruction set, or the order in which
        images were added.

        A gallery of one level, such as a bank of patch features, keeps some leading coordinates of
        its features from its first search on: about a third of their size in float32, beside
        `nbytes`.

        Parameters
        ----------
        query : FeaturePyramid
            The images to look up; same levels, channels and sizes as the gallery's. Where there is
            one level only the channels need to be the same.
        k : int, default 1
            Neighbours of each cell.
        images : sequence of str, or of sequences of str, optional
            Search only the gallery images with these ids: the same for all query images, or one
            list for each. All by default.
        threads : int, optional
            Number of threads; by default all that the process may use.
        backend : str or Backend, default "auto"
            What does the work; see `knnspect.backends`.

        Returns
        -------
        Neighbors
            Distances, image ids and cells, and the work it took.

        Raises
        ------
        ShapeError
            If the query's levels, channels or sizes differ from the gallery's.
        ImageError
            If a feature of the query is NaN or infinite.
        ParameterError
            If the gallery is empty, an id is unknown, `k` is not between 1 and the number of cells
            searched, or `threads` is less than 1.
        MemoryError
            If the neighbours, or the lists from which they are chosen, do not fit into memory.
        DTypeError
            If an argument is of another type.

        Examples
        --------
        >>> import numpy as np
        >>> gallery = Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]), ids=["a", "b"])
        >>> query = FeaturePyramid([np.ones((1, 4, 4, 3), "f4")])
        >>> gallery.search(query, images=["b"]).sq_distances[0, 0, 0]
        array([3.], dtype=float32)
        """
        if not isinstance(query, FeaturePyramid):
            raise DTypeError(f"query: expected a FeaturePyramid, got {type(query).__name__}")
        k = min(check_count("k", k), sys.maxsize)
        threads = None if threads is None else min(check_count("threads", threads), sys.maxsize)
        return get_backend(backend).search(self, query, k, _check_subset(images), threads)

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
            If the rows that are picked do not fit into memory.

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
        from knnspect.gallery.coreset import pick_coreset

        return pick_coreset(self, size, seed, projection, threads, progress)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the gallery to a file, replacing what is there only when all is written.

        Parameters
        ----------
        path : path-like
            The file; safetensors with a versioned header and a checksum.

        Raises
        ------
        StoreError
            If the file cannot be written; what was there is then untouched.
        ParameterError
            If the gallery is empty.

        Examples
        --------
        >>> import numpy as np, tempfile, pathlib
        >>> gallery = Gallery()
        >>> _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gallery.save(pathlib.Path(folder) / "normal.gallery")
        ...     Gallery.open(pathlib.Path(folder) / "normal.gallery").ids
        ['000000', '000001']
        """
        self.core.save(check_path(path), "gallery", {}, {})

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

        Examples
        --------
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Gallery.create(folder + "/normal.gallery", dtype="float16") as gallery:
        ...         _ = gallery.add(FeaturePyramid([np.zeros((2, 4, 4, 3), "f4")]))
        ...     Gallery.open(folder + "/normal.gallery")
        Gallery(upsample='bilinear', dtype='float16', n_images=2, level0=4x4x3)
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
            A folder that `create` made, or a file that `save` wrote. Only knnspect may write into
            it: a file is replaced by `save` or a rename.
        mode : {"r", "r+"}, default "r"
            To change a folder, ``"r+"``; one process at a time may, and those that are forked from
            it can only read. Those who read it keep the gallery as it was when they opened it. A
            file is a snapshot: what is opened from it may
            be changed in memory.
        verify : bool, optional
            True: read everything once and compare the checksums. False: check the structure only,
            and of a folder each image when it is first searched. By default a file is verified at
            once, and a folder image by image, so that opening it takes milliseconds whatever its
            size.

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

        Examples
        --------
        >>> Gallery.open("no-such.gallery")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        knnspect.errors.StoreError: no-such.gallery: cannot be opened: No such file or directory...
        """
        check_choice("mode", mode, ["r", "r+"])
        path = check_path(path)
        if is_folder(path):
            opened = _end_of_journal(path)
            gallery = cls.from_core(_core.Gallery.open(path, mode == "r+"))
            gallery._opened = opened
            if verify:
                gallery.verify()
            return gallery
        store = _core.Store(path, verify is None or verify)
        if store.kind != "gallery":
            raise StoreError(f"{path}: expected a gallery, it holds a {store.kind} model")
        if mode == "r+":
            raise ParameterError(
                f'{path}: mode "r+" is for galleries in a folder, this is a file: open '
                "it, change it, and save it"
            )
        return cls.from_core(_core.Gallery.from_store(store))

    @classmethod
    def from_core(cls, core: _core.Gallery) -> Gallery:
        """Wrap a gallery of the Rust core."""
        gallery = cls.__new__(cls)
        gallery.core, gallery._opened = core, None
        gallery._folder = None if core.path is None else core.path.absolute()
        return gallery


def is_gallery_folder(path: Path) -> bool:
    """Return whether there is a gallery in a folder."""
    return is_there(path / "journal")


def _rebuilt(
    upsample: str, dtype: str, images: Iterable[tuple[str, list[NDArray[Any]]]]
) -> Gallery:
    """Return a gallery in memory of the features that a pickle holds."""
    gallery = Gallery(upsample, dtype)
    for id_, levels in images:
        gallery.core.add([level[None] for level in levels], [id_])
    return gallery


def _check_rounding(core: _core.Gallery, images: list[tuple[str, list[NDArray[Any]]]]) -> None:
    """Raise a DTypeError if features of int8 are others once they are added to a gallery."""
    for id_, levels in images:
        again = _rebuilt(core.upsample, core.dtype, [(id_, levels)]).core.image(id_)
        if not all(map(np.array_equal, again, levels)):
            raise DTypeError(
                f"image {id_}: its int8 features would be rounded anew by a pickle: save the "
                "gallery, or the detector, and open the file in the other process"
            )


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


def _end_of_journal(folder: Path | None) -> bytes | None:
    """Return the size and the end of a journal: every change of a gallery adds to these."""
    if folder is None:
        return None
    # Without following a link, or waiting should it be a pipe.
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        with open(os.open(folder / "journal", flags), "rb") as journal:  # noqa: PTH123 - by number
            size = journal.seek(0, os.SEEK_END)
            journal.seek(max(size - 4096, 0))
            return size.to_bytes(8, "little") + journal.read(4096)
    except OSError:
        return None  # what is wrong with it is found by those who open it


def check_ids(ids: object, name: str) -> list[str]:
    """Return a list of ids, or raise a DTypeError or ParameterError that names the first bad one.

    >>> check_ids(("a", "b"), "ids")
    ['a', 'b']
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise DTypeError(f"{name}: expected a sequence of str, got {_what(ids)}")
    checked = list(ids)
    for index, value in enumerate(checked):
        if not isinstance(value, str):
            raise DTypeError(f"{name}[{index}]: expected a str, got {type(value).__name__}")
        if _has_surrogates(value):
            raise ParameterError(f"{name}[{index}]: expected valid Unicode, got {value!r}")
    return checked


def _has_surrogates(text: str) -> bool:
    return not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_subset(images: object) -> list[list[str]] | None:
    if images is None:
        return None
    if isinstance(images, str) or not isinstance(images, Iterable):
        raise DTypeError(f"images: expected a sequence of ids, got {_what(images)}")
    entries = list(images)
    if all(isinstance(entry, str) for entry in entries):
        return [check_ids(entries, "images")]
    return [check_ids(entry, f"images[{index}]") for index, entry in enumerate(entries)]


def _what(value: object) -> str:
    return f"the single str {value!r}" if isinstance(value, str) else type(value).__name__
