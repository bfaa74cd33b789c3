"""Packages that come with an extra of knnspect, and the command that brings each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from knnspect.errors import KnnspectError, MissingPackageError

__all__ = ["PACKAGES", "install_command", "require"]

#: Of each module that is no part of a base install: the package that brings it, and the extra.
PACKAGES = {
    "imagecodecs": ("imagecodecs", "formats"),
    "imageio": ("imageio", "video"),
    "imageio_ffmpeg": ("imageio-ffmpeg", "video"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "pyarrow": ("pyarrow", "ray"),
    "ray": ("ray", "ray"),
    "sklearn": ("scikit-learn", "sklearn"),
    "timm": ("timm", "torch"),
    "torch": ("torch", "torch"),
    "zuko": ("zuko", "torch"),
}


def install_command(modules: Sequence[str]) -> str:
    """Return the command that installs modules of `PACKAGES`.

    Examples
    --------
    >>> install_command(["torch", "timm", "sklearn"])
    'pip install "knnspect[sklearn,torch]"'
    """
    extras = ",".join(sorted({PACKAGES[module][1] for module in modules}))
    return f'pip install "knnspect[{extras}]"'


def require(*modules: str, for_: str, error: type[KnnspectError] = MissingPackageError) -> None:
    """Import modules that come with an extra, or raise one error that says how to install them.

    Parameters
    ----------
    *modules : str
        Of `PACKAGES`.
    for_ : str
        What needs them, in words.
    error : type, default MissingPackageError
        Of the error.

    Raises
    ------
    MissingPackageError
        Or what `error` says, if one is missing or cannot be imported.

    Examples
    --------
    >>> require("sklearn", for_="the AUROC")
    """
    missing = []
    for module in modules:
        found = _import_error(module)
        if isinstance(found, ModuleNotFoundError) and found.name == module:
            missing.append(module)
        elif found is not None:
            package = PACKAGES[module][0]
            raise error(
                f"{for_} needs {package}, which is installed and cannot be imported "
                f"({str(found) or type(found).__name__}): pip install --force-reinstall {package}"
            ) from found
    if missing:
        names = " and ".join(PACKAGES[module][0] for module in missing)
        are = "is" if len(missing) == 1 else "are"
        raise error(f"{for_} needs {names}, which {are} not installed: {install_command(missing)}")


def _import_error(module: str) -> Exception | None:
    try:
        import_module(module)
    except Exception as error:  # what a broken wheel raises may be anything
        return error
    return None
