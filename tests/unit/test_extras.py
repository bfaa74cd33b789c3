"""What an extra brings is asked for by one error, whose command brings it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import knnspect as ks
from knnspect.extras import PACKAGES, install_command, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def imports_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which zuko is looked for before all others; it has not been imported."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_each_package_is_part_of_the_extra_that_is_named() -> None:
    extras = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]
    for package, extra in PACKAGES.values():
        assert package in [re.split(r"[\[<>=]", text)[0] for text in extras[extra]]


def test_what_is_there_is_no_error() -> None:
    require("torch", "timm", "sklearn", for_="this")


def test_all_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if they were not installed
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ks.MissingPackageError) as caught:
        require("torch", "timm", "sklearn", for_="this")
    assert str(caught.value) == (
        "this needs torch and scikit-learn, which are not installed: "
        'pip install "knnspect[sklearn,torch]"'
    )
    assert isinstance(caught.value, ImportError)  # which a caller may expect


def test_the_error_may_be_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ks.BackendUnavailable, match="backend 'x' needs torch, which is not inst"):
        require("torch", for_="backend 'x'", error=ks.BackendUnavailable)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('libfoo.so: cannot open')", "libfoo.so: cannot open"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_what_is_installed_and_broken_is_not_called_missing(
    imports_from: Path, code: str, reason: str
) -> None:
    (imports_from / "zuko").mkdir()
    (imports_from / "zuko" / "__init__.py").write_text(code)
    with pytest.raises(ks.MissingPackageError) as caught:
        require("zuko", for_="this")
    assert str(caught.value) == (
        f"this needs zuko, which is installed and cannot be imported ({reason}): "
        "pip install --force-reinstall zuko"
    )


def test_an_extra_is_named_once() -> None:
    assert install_command(["torch", "zuko", "timm"]) == 'pip install "knnspect[torch]"'
