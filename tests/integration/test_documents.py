"""What README and docs show works as printed; what they name and link to is there."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnspect.data import elpv_split

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))
}
#: What `.ci/run` and other tests run.
ELSEWHERE = ("demo", "bench")
#: Runs commands in one process, as PyTorch takes seconds to import: those of a page in its folder.
RUN_COMMANDS = """
import json, os, sys
from knnspect.cli import main

for folder, commands in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    for arguments in commands:
        sys.argv = ["knnspect", *arguments]
        try:
            main()
        except SystemExit as end:
            if end.code:
                sys.exit(f"{folder}, {arguments}: {end.code}")
        print("\\f", flush=True)
"""


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands(text: str) -> list[list[str]]:
    """Return the arguments of the ``knnspect`` commands of a page."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("knnspect ")]
    return [arguments for arguments in found if arguments[0] not in ELSEWHERE]


def write_files(text: str, folder: Path) -> None:
    """Write the files of a page: its TOML blocks that begin with ``# NAME.toml``."""
    for block in blocks(text, "toml"):
        if name := re.match(r"# (\S+\.toml)\n", block):
            (folder / name[1]).write_text(block)


def prose(text: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the fragments that lead to the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


WITH_PYTHON = [name for name, text in PAGES.items() if blocks(text, "python")]
WITH_COMMANDS = [name for name, text in PAGES.items() if commands(text)]


@pytest.fixture(scope="module")
def bottle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the dataset of the examples, out of solar cells with a painted defect."""
    root = tmp_path_factory.mktemp("documents") / "bottle"
    split = elpv_split(n_train=4, n_functional=1, n_defective=1)
    for part in ("train/good", "test/good", "test/broken", "ground_truth/broken"):
        (root / part).mkdir(parents=True)
    for path in split.train:
        shutil.copy(path, root / "train" / "good")
    shutil.copy(split.functional[0], root / "test" / "good")
    pixels = np.asarray(Image.open(split.functional[0])).copy()
    mask = np.zeros(pixels.shape, np.uint8)
    pixels[120:170, 60:110], mask[120:170, 60:110] = 0, 255
    Image.fromarray(pixels).save(root / "test" / "broken" / "000.png")
    Image.fromarray(mask).save(root / "ground_truth" / "broken" / "000_mask.png")
    return root


@pytest.fixture
def folder(bottle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a folder that has the dataset, and nothing else."""
    shutil.copytree(bottle, tmp_path / "bottle")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_is_something_to_try() -> None:
    assert {"README.md", "docs/using.md", "docs/galleries.md", "docs/backends.md"} <= set(
        WITH_PYTHON
    )
    assert [command[0] for command in commands(PAGES["README.md"])] == [
        "fit",
        "predict",
        "evaluate",
    ]


@pytest.mark.parametrize("page", WITH_PYTHON)
@pytest.mark.usefixtures("folder")
def test_python_examples_run_in_order(page: str) -> None:
    examples = blocks(PAGES[page], "python")
    can_run = [text for text in examples if "Faiss" not in text or find_spec("faiss")]
    names: dict[str, object] = {}
    for text in can_run:
        exec(compile(text, page, "exec"), names)
    if len(can_run) < len(examples):
        pytest.skip("all but the example of faiss, which is not installed")


def test_commands_run_in_order(bottle: Path, tmp_path: Path) -> None:
    listed: dict[str, list[list[str]]] = {}
    for page in WITH_COMMANDS:
        folder = tmp_path / page
        shutil.copytree(bottle, folder / "bottle")
        write_files(PAGES[page], folder)
        listed[str(folder)] = commands(PAGES[page])
    run = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, json.dumps(listed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    *printed, rest = run.stdout.split("\f\n")
    assert len(printed) == sum(map(len, listed.values()))
    assert all(text.strip() for text in printed)
    assert not rest
    results = tmp_path / "README.md"
    assert (results / "results" / "overlays" / "broken" / "000.png").is_file()
    assert (results / "results" / "scores.csv").is_file()
    assert (results / "figures.json").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page: str) -> None:
    for name in re.findall(r"`([^`\n]+)`", prose(PAGES[page])):
        found = re.match(r"(?:rust|python|tests|benches|docs|\.ci)/[\w./*-]*", name)
        if found:  # "benches/python/{a,b}.py" is looked for as "benches/python/"
            assert list(ROOT.glob(found[0].rstrip("/"))), f"{page} names {name}"


def test_the_picture_of_the_readme_is_small() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGES["README.md"])
    assert pictures == ["docs/finds.jpg"]
    assert (ROOT / pictures[0]).stat().st_size < 300_000
