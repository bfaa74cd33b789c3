"""Galleries that change, what is kept between searches, and several searches at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from knnspect.gallery import Gallery
from knnspect.search import Backend, Neighbors
from knnspect.testing.cases import NESTED, Shapes, random_pyramid, shared_oracle
from knnspect.testing.checks import Checks
from knnspect.testing.expectations import expect, expect_equal, expect_identical
from knnspect.testing.oracle import assert_same_neighbors

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()
#: Large enough for searches to overlap.
_LARGER: Shapes = ((12, 12, 8), (6, 6, 8))


@CHECKS.add(upsample=["bilinear", "block"])
def what_is_kept_of_one_search_does_not_show_in_the_next(backend: Backend, upsample: str) -> None:
    normal, query = random_pyramid(0, 4, NESTED), random_pyramid(1, 1, NESTED)
    gallery = Gallery(upsample)
    gallery.add(normal[:3], ["a", "b", "c"])

    def check(images: list[str] | None, ids: Sequence[str], numbers: list[int]) -> None:
        found = gallery.search(query, 3, images, backend=backend)
        kept = [level[numbers] for level in normal.levels]
        assert_same_neighbors(found, shared_oracle(query.levels, kept, list(ids), upsample))

    for images in ("c", "bc", "b", "ab", "ca"):
        check(list(images), "".join(sorted(images)), sorted("abc".index(id_) for id_ in images))
    check(None, "abc", [0, 1, 2])
    gallery.replace(normal[3], ["b"])
    check(None, "abc", [0, 3, 2])
    gallery.remove(["a"])
    check(None, "bc", [3, 2])
    gallery.add(normal[1], ["aa"])
    check(None, ["aa", "b", "c"], [1, 3, 2])
    check(["aa"], ["aa"], [1])


@CHECKS.add(upsample=["bilinear", "block"])
def a_removed_image_is_never_found(backend: Backend, upsample: str) -> None:
    normal = random_pyramid(0, 4, NESTED)
    gallery = Gallery(upsample)
    gallery.add(normal, ["a", "b", "c", "d"])
    images = set(gallery.search(normal[1], backend=backend).images.ravel())
    expect_equal("images nearest to image 'b'", images, {"b"})
    gallery.remove(["b", "d"])
    found = gallery.search(normal[1], 96, backend=backend)
    expect_equal("image_ids after two were removed", found.image_ids, ("a", "c"))
    kept = [level[[0, 2]] for level in normal.levels]
    oracle = shared_oracle(normal[1].levels, kept, ["a", "c"], upsample)
    assert_same_neighbors(found, oracle)


@CHECKS.add()
def searches_while_images_come_and_go_see_one_state_or_the_other(backend: Backend) -> None:
    query, normal = random_pyramid(0, 1, _LARGER), random_pyramid(1, 3, _LARGER)
    guest = random_pyramid(2, 1, _LARGER)
    gallery = Gallery()
    gallery.add(normal, ["a", "b", "d"])
    without = gallery.search(query, 3, backend=backend)
    gallery.add(guest, ["c"])
    with_guest = gallery.search(query, 3, backend=backend)
    expect(without.images.tobytes() != with_guest.images.tobytes(), "image 'c' is never found")
    gallery.remove(["c"])
    done = threading.Event()

    def come_and_go() -> int:
        turns = 0
        while not done.is_set():
            gallery.add(guest, ["c"])
            time.sleep(0.001)
            gallery.remove(["c"])
            turns += 1
        return turns

    def search(threads: int) -> set[tuple[str, ...]]:
        seen = set()
        for _ in range(25):
            found = gallery.search(query, 3, threads=threads, backend=backend)
            seen.add(found.image_ids)
            state = with_guest if "c" in found.image_ids else without
            expect_identical(f"a search of {found.image_ids}", found, state)
            fixed = gallery.search(query, 3, ["d", "a", "b"], threads, backend)
            expect_identical("a search of three images of four", fixed, without)
        return seen

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(come_and_go)
        try:
            seen = set().union(*pool.map(search, [1, 2, 3]))
        finally:
            done.set()
        expect(changing.result() > 1, "the gallery did not change while it was searched")
    states = {("a", "b", "d"), ("a", "b", "c", "d")}
    expect(seen <= states, f"expected images {states}, got {seen}")
    expect_equal("ids", gallery.ids, ["a", "b", "d"])


@CHECKS.add(upsample=["bilinear", "block"])
def threads_that_search_one_gallery_do_not_disturb_each_other(
    backend: Backend, upsample: str
) -> None:
    # Each with images of its own, so that an index that is kept of one is of no use to the next.
    ids = ["a", "b", "c", "d", "e"]
    normal, query = random_pyramid(0, 5, _LARGER), random_pyramid(1, 2, _LARGER)
    gallery = Gallery(upsample)
    gallery.add(normal, ids)
    subsets = [["a", "b"], ["c"], ["e", "d", "b"], ["a"], ids, ["d"]]
    oracles = [
        shared_oracle(query.levels, normal.levels, ids, upsample, [images]) for images in subsets
    ]
    start = threading.Barrier(len(subsets))

    def search(images: list[str]) -> list[Neighbors]:
        start.wait()
        return [gallery.search(query, 3, images, 1 + turn, backend) for turn in range(4)]

    with ThreadPoolExecutor(len(subsets)) as pool:
        for oracle, found in zip(oracles, pool.map(search, subsets), strict=True):
            assert_same_neighbors(found[0], oracle)
            for again in found[1:]:
                expect_identical("the same search again", again, found[0])
