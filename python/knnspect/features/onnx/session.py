"""A graph that runs: on which device, with how many threads, in which process."""

from __future__ import annotations

import ctypes
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from knnspect.errors import DTypeError, ForkError, ParameterError, StoreError
from knnspect.forked import lock

__all__ = ["Session", "check_device", "n_threads"]

#: What onnxruntime runs graphs with, by the word for the device; what a provider cannot run goes
#: to the next one.
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
#: Rounding that does not change from run to run, and is that of float32.
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}}

_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"

#: Those that are in use.
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def check_device(device: object) -> tuple[str, int]:
    """Return the word for a device and its number, or raise an error unless it can be used.

    Parameters
    ----------
    device : str or None
        ``"cpu"``, ``"cuda"`` or ``"tensorrt"``, the last two with or without a number; None: the
        CPU.

    Raises
    ------
    ParameterError, DTypeError
        If onnxruntime has no provider for it.

    Examples
    --------
    >>> check_device(None), check_device("cpu")
    (('cpu', 0), ('cpu', 0))
    """
    text = "cpu" if device is None else str(device)  # a torch.device is its name
    if device is not None and not isinstance(device, str) and type(device).__name__ != "device":
        raise DTypeError(f"device: expected a word such as 'cpu', got {type(device).__name__}")
    match = re.fullmatch(r"(cpu|cuda|tensorrt)(?::(\d{1,3}))?", text)
    if match is None:
        raise ParameterError(
            f"device: {text!r} cannot be used by an ONNX network; expected 'cpu', 'cuda' or "
            "'tensorrt'"
        )
    provider = _PROVIDERS[match[1]][0]
    if provider not in onnxruntime.get_available_providers():
        raise ParameterError(
            f"device: {text!r} cannot be used here: the onnxruntime that is installed has no "
            f"{provider}; pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    return match[1], int(match[2] or 0)


def n_threads() -> int:
    """Return with how many threads a network runs: as PyTorch does, by ``OMP_NUM_THREADS``."""
    asked = re.match(r"\s*(\d{1,4})", os.environ.get("OMP_NUM_THREADS", ""))
    if asked is not None and int(asked[1]) > 0:
        return int(asked[1])
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Session:
    """A graph that is ready to run, also in processes that are forked from this one.

    Parameters
    ----------
    graph : bytes
        An ONNX file.
    device : str or None
        See `check_device`.

    Attributes
    ----------
    device : str
        Where it runs, in PyTorch's words.

    Raises
    ------
    ParameterError, DTypeError
        If the device cannot be used.
    StoreError
        If onnxruntime cannot run the graph.
    """

    def __init__(self, graph: bytes, device: str | None) -> None:
        #: As it was given.
        self.graph = graph
        self._kind, self._number = check_device(device)
        self.device = "cpu" if self._kind == "cpu" else f"cuda:{self._number}"
        self._lock = lock()
        #: None in a process that was forked, until it is needed there.
        self._session: Any = self._started()
        _sessions.add(self)
        #: The type and the shape of each input and output by name; what is no number in a shape
        #: may be of any size.
        try:
            self.inputs = {one.name: (one.type, one.shape) for one in self._session.get_inputs()}
            self.outputs = {one.name: (one.type, one.shape) for one in self._session.get_outputs()}
        except UnicodeDecodeError as error:
            raise StoreError(f"the ONNX graph has a name that is no text ({error})") from error
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

    def run(self, names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return some outputs; the graph is run only as far as these need.

        Raises
        ------
        ParameterError
            If the graph fails on these inputs.
        """
        session = self._session_of_this_process()
        try:
            found: list[NDArray[Any]] = session.run(list(names), dict(inputs), self._run_options)
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime has kinds of its own
            shapes = " and ".join(f"{array.shape}" for array in inputs.values())
            raise ParameterError(
                f"image_size: the ONNX network fails on inputs of shape {shapes} ({_reason(error)})"
            ) from error
        return found

    def leave_to_parent(self) -> None:
        """Forget, in a forked process, the session of its parent, whose threads do not exist here.

        It is never deleted: that would be to wait for these threads.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def _session_of_this_process(self) -> Any:
        with self._lock:
            if self._session is None:
                if self._kind != "cpu":
                    raise ForkError(
                        "CUDA cannot be used in a process that was forked from one that has used "
                        'it: start processes by the method "spawn" or "forkserver"'
                    )
                self._session = self._started()
            return self._session

    def _started(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # what is wrong is in the error
        # Its threads would else turn in circles for a while, on cores that others need.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # A graph may name files that have its weights. Ours have them inside; one that another made
        # could have any file read. There is no such folder, nor can there be.
        place = Path(os.devnull) / "nowhere"
        options.add_session_config_entry(_FOLDER_OF_WEIGHTS, str(place))
        providers = _PROVIDERS[self._kind]
        settings = [
            {}
            if provider == "CPUExecutionProvider"
            else {"device_id": str(self._number), **_OPTIONS.get(provider, {})}
            for provider in providers
        ]
        try:
            session = onnxruntime.InferenceSession(
                self.graph,
                options,
                providers,
                settings,
                # Trying once more on the CPU, which it announces on standard output.
                enable_fallback=int(self._kind != "cpu"),
            )
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime has kinds of its own
            raise StoreError(f"onnxruntime cannot run the ONNX graph ({_reason(error)})") from error
        if providers[0] not in session.get_providers():
            raise ParameterError(
                f"device: {self._kind!r} cannot be used here: onnxruntime could not start its "
                f"{providers[0]}; its libraries or the device are missing"
            )
        return session


def _after_fork() -> None:
    for session in list(_sessions):
        session.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _reason(error: Exception) -> str:
    """Return what an error of onnxruntime says, without places in its source."""
    text = str(error).strip() or type(error).__name__
    newer = re.search(r"Opset (\d+) is under development.* is till opset (\d+)", text)
    newer = newer or re.search(r"model IR version: (\d+), max supported IR version: (\d+)", text)
    if newer is not None:
        what = "operators" if "Opset" in newer[0] else "format"
        return (
            f"it needs version {newer[1]} of ONNX's {what}, and the onnxruntime that is installed "
            f"has {newer[2]}: pip install --upgrade onnxruntime"
        )
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : (\w+) : ", "", text.splitlines()[0])
    # A place in its source, and the function there.
    text = re.sub(r"\S*/onnxruntime_src\S*(?: [^()]*\([^()]*\)(?: const)?)?", "", text)
    return re.sub(r"\S+\.cc:\d+", "", text).strip()[:300]
