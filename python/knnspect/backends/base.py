"""What a backend is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from knnspect.gallery import Gallery
    from knnspect.neighbors import Neighbors
    from knnspect.pyramid import FeaturePyramid

__all__ = ["Backend", "ImageSubset"]

#: Which gallery images to search: all, or one list of ids per query image (a single list of one
#: serves them all).
ImageSubset = Sequence[Sequence[str]] | None


class Backend(Protocol):
    """Searches a gallery, exactly."""

    @property
    def name(self) -> str:
        """The name by which it is chosen."""
        ...

    def search(
        self,
        gallery: Gallery,
        query: FeaturePyramid,
        k: int,
        images: ImageSubset,
        threads: int | None,
    ) -> Neighbors:
        """Find the `k` nearest gallery cells of every cell of `query`; see `Gallery.search`.

        Of pyramids of one level only the channels need to agree; their cells may lie on any grids.
        """
        ...
