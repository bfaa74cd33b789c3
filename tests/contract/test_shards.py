"""The contract of exactness for galleries in shards, whose answers are merged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from on_shards import OnShards, merging_here

from knnspect.backends import Backend
from knnspect.testing import Check, backend_checks

pytest.importorskip("ray")


def every_check() -> Iterator[Any]:
    # Each shard by a process of its own, or several by one.
    backends = {
        f"{n_shards}-shards-{n_processes}-processes": OnShards(merging_here(n_processes), n_shards)
        for n_shards, n_processes in ((1, 1), (2, 2), (4, 1), (7, 3))
    }
    for check in backend_checks(n_cases=12):
        for name, backend in backends.items():
            yield pytest.param(check, backend, id=f"{check}-{name}")


@pytest.mark.parametrize(("check", "backend"), list(every_check()))
def test_shards(check: Check[Backend], backend: Backend) -> None:
    check(backend)
