"""What is installed of faiss, and what is wrong with it; without any of these wheels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from knnspect import BackendUnavailable, ParameterError
from knnspect.backends.faiss_installation import (
    Distribution,
    choose_gpu,
    installed_distributions,
    problem_of,
)

# As their metadata have it on PyPI.
CPU = Distribution("faiss-cpu", ("numpy>=1.25", "packaging"))
CUDA_12 = Distribution(
    "faiss-gpu",
    (
        "numpy>=1.25",
        "packaging",
        "nvidia-cuda-runtime-cu12<13,>=12.6",
        "nvidia-cublas-cu12<13,>=12.6",
        "nvidia-curand-cu12<11,>=10.3.7",
    ),
    "1.14.2",
)
CUDA_13 = Distribution(
    "faiss-gpu-cuvs",
    (
        "numpy>=1.25",
        "nvidia-curand<11,>=10.3.7",
        "nvidia-cuda-runtime<14,>=13.2",
        "nvidia-cublas<14,>=13.2",
        "libcuvs-cu13==26.06.*",
    ),
    "1.14.2",
)
FIXED = Distribution(
    "faiss-gpu-other",
    ("nvidia-cuda-runtime-cu11==11.8.89; extra == 'fix-cuda'", "nvidia-cublas-cu11"),
)


@pytest.mark.parametrize(
    ("distribution", "major"),
    [
        (CPU, None),
        (CUDA_12, 12),
        (CUDA_13, 13),
        (FIXED, 11),
        (Distribution("faiss-gpu-cu12"), 12),
        (Distribution("faiss-gpu-cu13-cuvs", ("numpy",)), 13),
        (Distribution("faiss-gpu"), None),
        (Distribution("faiss-gpu", ("numpy>=1.25", "nvidia-curand<11,>=10.3.7")), None),
        (Distribution("faiss-gpu", ("nvidia-cuda-runtime==13.0.1",)), 13),
    ],
)
def test_the_cuda_of_a_distribution(distribution: Distribution, major: int | None) -> None:
    assert distribution.cuda_major == major
    assert distribution.is_gpu == (distribution is not CPU)


@pytest.mark.parametrize("distribution", [CPU, CUDA_12, CUDA_13])
@pytest.mark.parametrize("cuda_of_torch", [None, 12, 13])
def test_one_distribution_is_in_order_where_cuda_agrees(
    distribution: Distribution, cuda_of_torch: int | None
) -> None:
    problem = problem_of([distribution], cuda_of_torch)
    mine = distribution.cuda_major
    if mine is None or cuda_of_torch in (None, mine):
        assert problem is None
    else:
        assert problem == (
            f"{distribution.name} 1.14.2 is built for CUDA {mine} and torch for CUDA "
            f"{cuda_of_torch}, and the two end in a crash: install {distribution.name} 1.15 or "
            "later, or faiss-cpu in its place"
        )


@pytest.mark.parametrize("version", ["1.15.0", "1.15.1", "1.16.0rc1", "2.0"])
def test_a_distribution_that_loads_its_own_cuda_is_in_order_beside_another(version: str) -> None:
    assert problem_of([replace(CUDA_12, version=version)], 13) is None
    assert problem_of([replace(CUDA_12, version="1.9.0.post1")], 13) is not None


def test_without_a_distribution_there_is_nothing_to_say() -> None:
    # faiss may have been built from source.
    assert problem_of([], 12) is None


def test_two_distributions_break_each_other() -> None:
    for pair in ([CPU, CUDA_12], [CUDA_12, CUDA_13], [CPU, CUDA_12, CUDA_13]):
        problem = problem_of(pair, None)
        assert problem is not None
        assert all(distribution.name in problem for distribution in pair)
        assert "break each other: uninstall all, then install one" in problem


def test_a_device_is_a_number() -> None:
    assert choose_gpu(None, False, 0) is None
    assert choose_gpu(None, True, 0) is None
    assert choose_gpu(None, True, 1) == 0
    assert choose_gpu("cpu", True, 1) is None
    assert choose_gpu("cuda", True, 2) == 0
    assert choose_gpu("cuda:1", True, 2) == 1


@pytest.mark.parametrize("device", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "cuda:1 ", "0"])
def test_another_device_is_an_error(device: str) -> None:
    with pytest.raises(ParameterError, match="device: expected 'cpu', 'cuda' or 'cuda:NUMBER'"):
        choose_gpu(device, True, 9)


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ParameterError, match=r"expected at most 'cuda:1', got 'cuda:2'"):
        choose_gpu("cuda:2", True, 2)
    with pytest.raises(BackendUnavailable, match=r"'cuda:0' .* sees no GPU: check nvidia-smi"):
        choose_gpu("cuda:0", True, 0)
    with pytest.raises(BackendUnavailable, match=r"GPU support.*pip install faiss-gpu"):
        choose_gpu("cuda", False, 0)


# ------------------------------------------------------------------------ in a process of its own


def distribution_in(folder: Path, name: str, *requires: str, version: str = "9.9") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def module_in(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)


#: Only what lies in the folder counts as installed, and as faiss or torch.
START = """
import importlib.metadata, sys
folder = sys.argv[1]
sys.path.insert(0, folder)
found = importlib.metadata.distributions
importlib.metadata.distributions = lambda: found(path=[folder])
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name in ("faiss", "torch"):
            import importlib.machinery
            spec = importlib.machinery.PathFinder.find_spec(name, [folder])
            if spec is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return spec
sys.meta_path.insert(0, Nothing())
"""


def problem_in(folder: Path, device: str = "") -> str:
    """What is said about a faiss that lies in a folder."""
    folder.mkdir(exist_ok=True)
    code = f"""{START}
from knnspect.backends import get_backend
from knnspect.errors import BackendUnavailable
try:
    print(get_backend("faiss{device}"))
except BackendUnavailable as error:
    print(error)
print([name for name in ("faiss", "torch") if name in sys.modules])
"""
    child = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


WORKS = "def get_num_gpus(): return 0\nclass IndexFlatL2: pass\n"


def test_no_faiss(tmp_path: Path) -> None:
    said = problem_in(tmp_path)
    assert said == "backend 'faiss': faiss is not installed: pip install faiss-cpu\n[]\n"


def test_both_faiss_are_not_even_imported(tmp_path: Path) -> None:
    distribution_in(tmp_path, "faiss-cpu")
    distribution_in(tmp_path, "Faiss_GPU")
    module_in(tmp_path, "faiss", "raise SystemExit('crash')")
    said = problem_in(tmp_path)
    assert said.startswith("backend 'faiss': faiss-cpu and faiss-gpu are installed")
    assert said.endswith("[]\n")


@pytest.mark.parametrize(
    ("cuda", "version", "agrees"),
    [
        ("13.0", "1.14.2", False),
        ("13.0", "1.15.0", True),
        ("12.8", "1.14.2", True),
        (None, "1.14.2", True),
    ],
)
def test_a_gpu_faiss_comes_after_torch_and_for_its_cuda_or_with_its_own(
    tmp_path: Path, cuda: str | None, version: str, agrees: bool
) -> None:
    distribution_in(tmp_path, "faiss-gpu", *CUDA_12.requires, version=version)
    torch = f"class version: cuda = {cuda!r}"
    module_in(tmp_path, "torch", torch)
    module_in(tmp_path, "faiss", f"import sys\nassert 'torch' in sys.modules\n{WORKS}")
    said = problem_in(tmp_path)
    if agrees:
        assert said == "FaissBackend('cpu', index='Flat')\n['faiss', 'torch']\n"
    else:
        assert "faiss-gpu 1.14.2 is built for CUDA 12 and torch for CUDA 13" in said
        assert said.endswith("['torch']\n")


def test_the_faiss_of_the_cpu_needs_no_torch(tmp_path: Path) -> None:
    distribution_in(tmp_path, "faiss-cpu")
    module_in(tmp_path, "torch", "raise SystemExit('not needed')")
    module_in(tmp_path, "faiss", WORKS)
    assert problem_in(tmp_path) == "FaissBackend('cpu', index='Flat')\n['faiss']\n"
    said = problem_in(tmp_path, ":cuda:0")
    assert said.startswith("backend 'faiss': 'cuda:0' needs a faiss with GPU support")


def test_a_gpu_faiss_without_a_gpu(tmp_path: Path) -> None:
    distribution_in(tmp_path, "faiss-gpu")
    module_in(tmp_path, "faiss", WORKS + "class StandardGpuResources: pass\n")
    assert problem_in(tmp_path).startswith("FaissBackend('cpu'")
    assert problem_in(tmp_path, ":cuda").startswith("backend 'faiss': 'cuda' was asked for, but")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libcublas.so.12: cannot open')", "libcublas.so.12: cannot open"),
        ("raise RuntimeError('compiled against another NumPy')", "another NumPy"),
        ("import missing_part", "No module named 'missing_part'"),
        (None, "faiss"),  # an empty folder, as a broken uninstallation leaves it
    ],
)
def test_a_broken_faiss_says_why(tmp_path: Path, code: str | None, reason: str) -> None:
    distribution_in(tmp_path, "faiss-cpu")
    if code is None:
        (tmp_path / "faiss" / "left").mkdir(parents=True)
    else:
        module_in(tmp_path, "faiss", code)
    said = problem_in(tmp_path)
    assert said.startswith("backend 'faiss': faiss cannot be imported (")
    assert reason in said
    assert "): pip install --force-reinstall faiss-cpu\n" in said


def test_a_faiss_whose_files_are_gone(tmp_path: Path) -> None:
    distribution_in(tmp_path, "faiss-gpu")
    said = problem_in(tmp_path)
    assert "cannot be imported (No module named 'faiss')" in said
    assert "--force-reinstall faiss-gpu" in said


def test_what_is_installed_here_is_found() -> None:
    pytest.importorskip("faiss")
    names = [distribution.name for distribution in installed_distributions()]
    assert len(names) <= 1
    assert problem_of(installed_distributions(), None) is None
