"""Which faiss is installed, what is wrong with it, and on which device it is to work.

All distributions of faiss bring the same module, ``faiss``; what can be wrong is told from their
metadata, as some of it would end the process once the module is imported.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from knnspect.errors import BackendUnavailable, ParameterError

__all__ = [
    "Distribution",
    "choose_gpu",
    "cuda_of_torch",
    "installed_distributions",
    "load_faiss",
    "on_gpu",
    "problem_of",
]

#: From this version on faiss loads libraries of its own CUDA, whatever CUDA torch has loaded.
_LOADS_ITS_CUDA = (1, 15)
#: What names the version of CUDA that a distribution is built for.
_CUDA_LIBRARIES = r"nvidia-(?:cuda-runtime|cublas)"


@dataclass(frozen=True)
class Distribution:
    """A distribution that brings the module ``faiss``.

    Parameters
    ----------
    name : str
        Its name, normalised: ``"faiss-cpu"``, ``"faiss-gpu"``, ``"faiss-gpu-cuvs"``, ...
    requires : tuple of str
        What it requires, as in its metadata.
    version : str
        Its version.

    Examples
    --------
    >>> Distribution("faiss-gpu", ("numpy>=1.25", "nvidia-cublas-cu12<13,>=12.6")).cuda_major
    12
    """

    name: str
    requires: tuple[str, ...] = ()
    version: str = "0"

    @property
    def is_gpu(self) -> bool:
        """Whether it is built for GPUs."""
        return self.name.startswith("faiss-gpu")

    @property
    def cuda_major(self) -> int | None:
        """The major version of CUDA that it is built for; None where nothing tells."""
        for text in (self.name, *self.requires):
            found = re.search(r"^(?:faiss-gpu|" + _CUDA_LIBRARIES + r")-cu(\d\d)\b", text)
            # From CUDA 13 on NVIDIA's names are without it, and versions are those of CUDA.
            found = found or re.search(_CUDA_LIBRARIES + r"\b(?!-)[^;]*[>=]=\s*(\d+)", text)
            if found:
                return int(found[1])
        return None

    @property
    def loads_its_cuda(self) -> bool:
        """Whether it works beside a torch that is built for another version of CUDA.

        Tried with faiss-gpu 1.15.1 for CUDA 12 and PyTorch 2.11 for CUDA 13, on Linux.
        """
        numbers = re.findall(r"\d+", self.version)[:2]
        return tuple(int(number) for number in numbers) >= _LOADS_ITS_CUDA


def installed_distributions() -> list[Distribution]:
    """Return the distributions of faiss that are installed, by name."""
    from importlib.metadata import distributions  # takes long, and is needed here alone

    found = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name == "faiss-cpu" or name.startswith("faiss-gpu"):
            requires = tuple(distribution.requires or ())
            found[name] = Distribution(name, requires, distribution.version)
    return [found[name] for name in sorted(found)]


def problem_of(distributions: Sequence[Distribution], cuda_of_torch: int | None) -> str | None:
    """Return what is wrong with the distributions that are installed, and what to do; or None.

    Parameters
    ----------
    distributions : sequence of Distribution
        What `installed_distributions` returns.
    cuda_of_torch : int, optional
        The major version of CUDA that torch is built for, if it is.

    Examples
    --------
    >>> problem_of([Distribution("faiss-cpu"), Distribution("faiss-gpu")], None)
    'faiss-cpu and faiss-gpu are installed, and break each other: uninstall all, then install one'
    """
    if len(distributions) > 1:
        names = " and ".join(distribution.name for distribution in distributions)
        return f"{names} are installed, and break each other: uninstall all, then install one"
    for distribution in distributions:
        major = distribution.cuda_major
        differ = major and cuda_of_torch and major != cuda_of_torch
        if distribution.is_gpu and differ and not distribution.loads_its_cuda:
            return (
                f"{distribution.name} {distribution.version} is built for CUDA {major} and torch "
                f"for CUDA {cuda_of_torch}, and the two end in a crash: install "
                f"{distribution.name} 1.15 or later, or faiss-cpu in its place"
            )
    return None


def load_faiss() -> Any:
    """Import faiss, if what is installed is in order, and return the module.

    Raises
    ------
    BackendUnavailable
        If it is not; the message says what to do.
    """
    distributions = installed_distributions()
    # Also because torch must be imported before a faiss that brings CUDA.
    cuda = cuda_of_torch() if any(each.is_gpu for each in distributions) else None
    problem = problem_of(distributions, cuda)
    if problem is not None:
        raise BackendUnavailable(f"backend 'faiss': {problem}")
    again = f"pip install --force-reinstall {distributions[0].name}" if distributions else ""
    try:
        with warnings.catch_warnings():  # of SWIG's types, on Python 3.12
            warnings.simplefilter("ignore", DeprecationWarning)
            import faiss

        faiss.IndexFlatL2  # noqa: B018 - an empty folder of that name can be imported, too
    except Exception as error:  # what a broken wheel raises may be anything
        if not distributions and isinstance(error, ModuleNotFoundError) and error.name == "faiss":
            reason = "faiss is not installed: pip install faiss-cpu"
        else:
            reason = f"faiss cannot be imported ({error}): {again or 'reinstall it'}"
        raise BackendUnavailable(f"backend 'faiss': {reason}") from error
    return faiss


def choose_gpu(device: str | None, has_gpu_support: bool, n_gpus: int) -> int | None:
    """Return the number of the GPU that a device names; None for the CPU.

    Parameters
    ----------
    device : str, optional
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; by default the first GPU if there is one that can
        be used, else the CPU.
    has_gpu_support : bool
        Whether faiss is built for GPUs.
    n_gpus : int
        How many it sees.

    Raises
    ------
    ParameterError
        If `device` is another word, or the number of a GPU that is not there.
    BackendUnavailable
        If faiss has no GPU support, or sees no GPU.

    Examples
    --------
    >>> choose_gpu(None, True, 2), choose_gpu("cuda:1", True, 2), choose_gpu("cpu", True, 2)
    (0, 1, None)
    """
    if device is None:
        return 0 if has_gpu_support and n_gpus else None
    if device == "cpu":
        return None
    number = re.fullmatch(r"cuda(?::(\d+))?", device, re.ASCII)
    if number is None:
        raise ParameterError(f"device: expected 'cpu', 'cuda' or 'cuda:NUMBER', got {device!r}")
    if not has_gpu_support:
        raise BackendUnavailable(
            f"backend 'faiss': {device!r} needs a faiss with GPU support, and the one installed "
            "has none: pip uninstall faiss-cpu && pip install faiss-gpu"
        )
    if not n_gpus:
        raise BackendUnavailable(
            f"backend 'faiss': {device!r} was asked for, but faiss sees no GPU: check nvidia-smi "
            "and CUDA_VISIBLE_DEVICES, or use 'faiss:cpu'"
        )
    gpu = int(number[1] or 0)
    if gpu >= n_gpus:
        raise ParameterError(f"device: expected at most 'cuda:{n_gpus - 1}', got {device!r}")
    return gpu


def cuda_of_torch() -> int | None:
    """Import torch; return the major version of CUDA that it is built for, None without one."""
    try:
        import torch
    except ImportError:
        return None
    version = torch.version.cuda
    return int(version.split(".")[0]) if version else None


def on_gpu(gpu: int) -> AbstractContextManager[Any]:
    """Return a context in which a GPU is the current one.

    CUDA calls that name no GPU otherwise go to the first one.
    """
    try:
        import torch
    except ImportError:
        return nullcontext()
    return torch.cuda.device(gpu) if torch.cuda.is_available() else nullcontext()
