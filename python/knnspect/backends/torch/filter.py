"""Which pairs of cells may be neighbours: matrix products, and what is below a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from knnspect.backends.torch.bounds import PADDING, round_up
from knnspect.backends.torch.cache import BLOCK
from knnspect.backends.torch.precision import AS_PRECISE_AS_THE_TYPE
from knnspect.backends.torch.rescore import in_order

__all__ = ["Pairs", "candidates", "seeds"]

#: The row of a block that stands for it, where it has so many: in the middle of a square of cells.
MIDDLE = 5
#: Integers of the same size as each type of products.
_INTEGERS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
#: Of so many blocks one in `STEP` is looked at for seeds.
MANY_BLOCKS, STEP = 2000, 4
#: Products are taken so many at a time on the CPU: fewer are slower, more take memory.
PRODUCTS_ON_CPU = 2**24
#: When there are so many candidates per query, limits are lowered by what was found so far.
MANY = 32
#: Where more than these are left after that, there are ties without end, and the core takes over.
MOST = 512


@dataclass(frozen=True)
class Pairs:
    """Pairs of queries and rows, in no order.

    Parameters
    ----------
    queries, images, rows : Tensor of int64, shape (n,)
        Query, number of the image, and its row, of each.
    products : Tensor, shape (n,)
        Their products.
    """

    queries: Tensor
    images: Tensor
    rows: Tensor
    products: Tensor

    def __len__(self) -> int:
        return len(self.queries)

    def __getitem__(self, chosen: Tensor) -> Pairs:
        """Return some of the pairs, by number or by mask."""
        return Pairs(
            self.queries[chosen], self.images[chosen], self.rows[chosen], self.products[chosen]
        )

    @classmethod
    def of(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return all pairs of some parts."""
        return cls(
            torch.cat([part.queries for part in parts]),
            torch.cat([part.images for part in parts]),
            torch.cat([part.rows for part in parts]),
            torch.cat([part.products for part in parts]),
        )

    def within(self, limits: Tensor) -> Pairs:
        """Return those whose product does not exceed the limit of their query."""
        return self[self.products <= round_up(limits, self.products.dtype)[self.queries]]

    def smallest(self, k: int, n_queries: int) -> Pairs:
        """Return the k pairs of each query with the smallest products; all if there are fewer.

        Those that are as small as the k-th may be among them.
        """
        if k == 1:
            least = self.products.new_full((n_queries,), torch.inf)
            least.scatter_reduce_(0, self.queries, self.products, "amin")
            return self[self.products == least[self.queries]]
        order, ranks = in_order(n_queries, self.queries, self.products)
        return self[order[ranks < k]]


def products_at_once(device: torch.device) -> int:
    """Return how many products are taken at a time; a GPU gives a small part of its memory."""
    if device.type != "cuda":
        return PRODUCTS_ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(max(PRODUCTS_ON_CPU, min(free // 32, 2**30)))


def seeds(
    rows: Sequence[Tensor], order: Tensor, queries: Tensor, k: int
) -> tuple[Tensor, Tensor] | None:
    """Return k rows for each query that promise to be near.

    One row of some blocks is looked at, then all rows of the blocks that are nearest by these.

    Parameters
    ----------
    rows : sequence of Tensor, each (n_rows, width)
        Those of each gallery image.
    order : Tensor of int64, shape (n_rows,)
        The cell of each row, or -1.
    queries : Tensor, shape (n, width)
        The queries.
    k : int
        How many.

    Returns
    -------
    (Tensor, Tensor) of int64, each of shape (n, k), or None
        Number of the image, and row, of each; None where that few blocks hold fewer cells.
    """
    n_rows = len(order)
    n_blocks = n_rows // BLOCK
    sizes = (order.view(n_blocks, BLOCK) >= 0).sum(dim=1)
    first = torch.arange(n_blocks, device=order.device) * BLOCK
    middle = first + torch.clamp(sizes - 1, max=MIDDLE)
    # Others in each image, where there are many.
    step = STEP if len(rows) * n_blocks >= MANY_BLOCKS else 1
    looked_at = [torch.arange(n_blocks, device=order.device)[at::step] for at in range(step)]
    near = _nearest_blocks(rows, middle, looked_at, queries, -(-k // int(sizes.min())) + 1)
    images, blocks = near // n_blocks, near % n_blocks
    stacked = torch.stack(list(rows)).view(len(rows), n_blocks, BLOCK, -1)
    found = []
    for some in torch.split(torch.arange(len(queries), device=order.device), 512):
        cells = stacked[images[some], blocks[some]].flatten(1, 2)
        values = torch.bmm(cells, queries[some, :, None])[:, :, 0].float()
        found.append(values.topk(min(k, values.shape[1]), dim=1, largest=False))
    values = torch.cat([part.values for part in found])
    places = torch.cat([part.indices for part in found])
    if values.shape[1] < k or bool((values >= PADDING / 2).any()):
        return None
    at = places // BLOCK
    return images.gather(1, at), blocks.gather(1, at) * BLOCK + places % BLOCK


def candidates(
    rows: Sequence[Tensor],
    queries: Tensor,
    limits: Tensor,
    tighten: Callable[[Pairs], Tensor],
) -> Pairs | None:
    """Return all pairs whose product does not exceed the limit of the query.

    Parameters
    ----------
    rows : sequence of Tensor, each (n_rows, width)
        Those of each gallery image.
    queries : Tensor, shape (n, width)
        The queries.
    limits : Tensor of float64, shape (n,)
        The limit of each.
    tighten : callable
        Returns limits by the pairs that were found so far.

    Returns
    -------
    Pairs or None
        None where there are too many.
    """
    n_rows = len(rows[0])
    at_once = products_at_once(queries.device)
    n_images = max(1, at_once // (n_rows * len(queries)))
    n_queries = max(BLOCK, at_once // n_rows)
    found: list[Pairs] = []
    n_found, many = 0, MANY * len(queries)
    n_products = min(n_images, len(rows)) * n_rows * min(n_queries, len(queries))
    room = queries.new_empty(n_products)
    for start in range(0, len(rows), n_images):
        some = rows[start : start + n_images]
        together = some[0] if len(some) == 1 else torch.cat(list(some))
        for first in range(0, len(queries), n_queries):
            limit = round_up(limits[first : first + n_queries], queries.dtype)
            product = _products(together, queries[first : first + n_queries], room)
            product = product.view(-1, BLOCK, len(limit))
            # Limits are positive, and as integers positive floats have the same order and negative
            # ones are negative; the least integers are found three times faster.
            integers = _INTEGERS[product.dtype]
            blocks, of = _nonzero(product.view(integers).amin(dim=1) <= limit.view(integers))
            values = product[blocks, :, of]
            is_near = values <= limit[of, None]
            hits, row = is_near.nonzero(as_tuple=True)
            at = blocks[hits] * BLOCK + row
            images = torch.div(at, n_rows, rounding_mode="floor")
            rest = at - images * n_rows
            found.append(Pairs(of[hits] + first, images + start, rest, values[hits, row]))
            n_found += len(hits)
            if n_found > many:
                all_found = Pairs.of(found)
                limits = torch.minimum(limits, tighten(all_found))
                found = [all_found.within(limits)]
                n_found = len(found[0])
                if n_found > MOST * len(queries):
                    return None
                many = max(many, 2 * n_found)
    pairs = Pairs.of(found)
    return pairs.within(torch.minimum(limits, tighten(pairs)))


def _nonzero(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of a mask, shape (n, m), that are true; quickly where these are few."""
    if mask.is_cuda or mask.shape[1] % 8:
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    words = mask.view(torch.int64)  # eight at a time
    rows, columns = words.nonzero(as_tuple=True)
    at, byte = words[rows, columns][:, None].view(torch.bool).nonzero(as_tuple=True)
    return rows[at], columns[at] * 8 + byte


def _nearest_blocks(
    rows: Sequence[Tensor],
    middle: Tensor,
    looked_at: Sequence[Tensor],
    queries: Tensor,
    n_near: int,
) -> Tensor:
    """Return the numbers of the nearest blocks of each query, shape (n_queries, n_near) at most.

    Blocks are numbered through all images; of an image those are looked at whose turn it is.
    """
    n_blocks = len(middle)
    n_images = max(1, products_at_once(queries.device) // (len(looked_at[0]) * len(queries)))
    values = torch.empty(len(queries), 0, dtype=queries.dtype, device=queries.device)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(rows), n_images):
        turns = range(start, min(start + n_images, len(rows)))
        blocks = [looked_at[turn % len(looked_at)] for turn in turns]
        some = torch.cat([rows[turn][middle[at]] for turn, at in zip(turns, blocks, strict=True)])
        numbered = [at + turn * n_blocks for turn, at in zip(turns, blocks, strict=True)]
        product = _products(queries, some)
        best = product.topk(min(n_near, product.shape[1]), dim=1, largest=False)
        values = torch.cat([values, best.values], dim=1)
        numbers = torch.cat([numbers, torch.cat(numbered)[best.indices]], dim=1)
        if values.shape[1] > n_near:
            values, kept = values.topk(n_near, dim=1, largest=False)
            numbers = numbers.gather(1, kept)
    return numbers


def _products(rows: Tensor, columns: Tensor, room: Tensor | None = None) -> Tensor:
    """Return the products of rows, shape (n, width), with columns, (m, width): (n, m).

    They lie in `room`, if there is one: fresh memory costs as much as what is written to it.
    """
    out = None if room is None else room[: len(rows) * len(columns)].view(len(rows), -1)
    with AS_PRECISE_AS_THE_TYPE:
        return torch.mm(rows, columns.T, out=out)
