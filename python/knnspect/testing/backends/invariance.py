"""Nothing but features has a say: not threads, batches, order, storage, alignment or strides."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend
from knnspect.testing.cases import NESTED, random_pyramid
from knnspect.testing.checks import Checks
from knnspect.testing.expectations import expect_identical

if TYPE_CHECKING:
    from hypothesis import strategies as st

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()


@CHECKS.add_drawn(share=1 / 4)
def threads_batches_order_and_storage_change_no_bit(backend: Backend, data: st.DataObject) -> None:
    from hypothesis import strategies as st

    from knnspect.testing.drawing import cases, ks

    case = data.draw(cases())
    k = data.draw(ks(case), label="k")
    gallery = case.gallery()
    expected = gallery.search(case.query, k, threads=1, backend=backend)
    for threads in (2, 3, 7):
        found = gallery.search(case.query, k, threads=threads, backend=backend)
        expect_identical(f"with {threads} threads", found, expected)
    for image in range(case.query.n_images):
        found = gallery.search(case.query[image], k, backend=backend)
        expect_identical(f"query image {image} alone", found, expected[image : image + 1])

    order = data.draw(st.permutations(range(case.normal.n_images)), label="order")
    one_by_one = Gallery(case.upsample, case.stored)
    for image in order:
        one_by_one.add(case.normal[image], [case.ids[image]])
    found = one_by_one.search(case.query, k, backend=backend)
    expect_identical("images that were added one by one", found, expected)

    with tempfile.TemporaryDirectory() as folder:
        gallery.save(Path(folder, "saved"))
        reopened = Gallery.open(Path(folder, "saved"))
        found = reopened.search(case.query, k, backend=backend)
        expect_identical("a gallery that was saved and opened", found, expected)


def _mapped(folder: Path, pyramid: FeaturePyramid, skip: int) -> FeaturePyramid:
    """Return a pyramid in read-only files, from byte `skip` on."""
    folder.mkdir()
    maps = []
    for index, level in enumerate(pyramid.levels):
        path = folder / f"{index}"
        path.write_bytes(b"x" * skip + level.tobytes())
        maps.append(np.memmap(path, level.dtype, "r", skip, level.shape))
    return FeaturePyramid(maps)


@CHECKS.add(skip=[0, 4, 3])
def read_only_memory_maps_change_no_bit(backend: Backend, skip: int) -> None:
    # With 3 bytes before them the values are not aligned, as in many a file.
    query, normal = random_pyramid(0, 2, NESTED), random_pyramid(1, 3, NESTED)
    gallery = Gallery()
    gallery.add(normal)
    expected = gallery.search(query, 3, backend=backend)
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery()
        gallery.add(_mapped(Path(folder, "normal"), normal, skip))
        mapped = _mapped(Path(folder, "query"), query, skip)
        found = gallery.search(mapped, 3, backend=backend)
        del mapped, gallery  # some systems delete no files that are mapped
    expect_identical("memory maps", found, expected)


def _turned(pyramid: FeaturePyramid) -> FeaturePyramid:
    """Return the same values: channels first in memory, images backwards, rows apart."""
    views = []
    for level in pyramid.levels:
        n, height, width, channels = level.shape
        space = np.full((n, channels, 2 * height, width), 7, level.dtype)
        space[::-1, :, ::2] = level.transpose(0, 3, 1, 2)
        views.append(space[::-1, :, ::2].transpose(0, 2, 3, 1))
    return FeaturePyramid(views)


@CHECKS.add()
def strides_change_no_bit(backend: Backend) -> None:
    query, normal = random_pyramid(0, 2, NESTED), random_pyramid(1, 3, NESTED)
    gallery, other = Gallery(), Gallery()
    gallery.add(normal)
    other.add(_turned(normal))
    expected = gallery.search(query, 3, backend=backend)
    found = other.search(_turned(query), 3, backend=backend)
    expect_identical("arrays with other strides", found, expected)


@CHECKS.add()
def a_float16_query_is_what_it_decodes_to(backend: Backend) -> None:
    halves = [level.astype("f2") for level in random_pyramid(0, 2, NESTED).levels]
    gallery = Gallery()
    gallery.add(random_pyramid(1, 3, NESTED))
    found = gallery.search(FeaturePyramid(halves), 3, backend=backend)
    singles = FeaturePyramid([level.astype("f4") for level in halves])
    expected = gallery.search(singles, 3, backend=backend)
    expect_identical("a query of float16", found, expected)
