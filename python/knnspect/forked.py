"""PyTorch, scikit-learn and faiss in a process that was forked.

Their OpenMP runtime keeps a pool of threads for each thread that has computed with several. A fork
copies the thread that forks and no other: in the child its pool consists of threads that do not
exist, and the next computation waits for them for ever. A thread that is started in the child makes
a pool of its own. So what computes with these libraries runs there in a thread that this module
starts, with as many threads as before and the same results to the bit. In all other processes and
threads it is called as it is.

What no one can mend is a fork while another thread computes, or at the moment at which it ends:
that may copy a lock that MKL or another library holds, and in the child nothing releases it. Where
other threads compute, processes are to be started by the method "spawn" or "forkserver".
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from knnspect.errors import ForkError

__all__ = ["check_cuda", "fork_safe", "lock", "run"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Libraries whose pools a fork leaves behind.
_LIBRARIES = ("torch", "sklearn", "faiss")

#: The thread that was forked, in a child whose parent had loaded one of these.
_forked: int | None = None
#: The thread that computes in its place, once there is one.
_helper: ThreadPoolExecutor | None = None
_starting = threading.Lock()
#: Those that `lock` returned and that are still in use.
_locks: weakref.WeakSet[threading.Lock] = weakref.WeakSet()


def run(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that computes with PyTorch, scikit-learn or faiss.

    In the thread that was forked, wait for another one to call it; elsewhere just call it.

    Examples
    --------
    >>> run(max, 1, 2)
    2
    """
    if _forked is None or threading.get_ident() != _forked:
        return function(*args, **kwargs)
    call = partial(copy_context().run, function, *args, **kwargs)
    return _start_helper().submit(call).result()


def fork_safe(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that computes with PyTorch, scikit-learn or faiss; see `run`."""

    @wraps(function)
    def safe(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return run(function, *args, **kwargs)

    return safe


def check_cuda(device: str) -> None:
    """Raise a ForkError if a CUDA device was used before the process was forked.

    Parameters
    ----------
    device : str
        The type of the device that is to be used, such as ``"cpu"``.

    Raises
    ------
    ForkError
        CUDA works in the process that has begun to use it, and in no copy of it.
    """
    torch = sys.modules.get("torch")
    is_bad = getattr(getattr(torch, "cuda", None), "_is_in_bad_fork", None)
    if device == "cuda" and is_bad is not None and is_bad():
        raise ForkError(
            "CUDA cannot be used in a process that was forked from one that has used it: start "
            'processes by the method "spawn" or "forkserver", or do not use the GPU before the fork'
        )


def lock() -> threading.Lock:
    """Return a lock that is free in a forked child.

    A fork copies a lock as it is: one that another thread holds would never be released there.
    """
    made = threading.Lock()
    _locks.add(made)
    return made


def _start_helper() -> ThreadPoolExecutor:
    global _helper
    with _starting:
        if _helper is None:
            _helper = ThreadPoolExecutor(1, thread_name_prefix="knnspect-forked")
        return _helper


def _after_fork() -> None:
    """Take note, in a child, of the thread that was forked, which is its main thread."""
    global _forked, _helper, _starting
    _helper, _starting = None, threading.Lock()
    for held in list(_locks):
        held._at_fork_reinit()  # type: ignore[attr-defined]  # as the standard library does
    if any(name in sys.modules for name in _LIBRARIES):
        _forked = threading.main_thread().ident


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    if multiprocessing.parent_process() is not None:
        _after_fork()  # the fork may have been before this module was there to see it
