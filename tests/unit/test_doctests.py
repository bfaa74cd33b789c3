"""The examples in docstrings run, in the package as it is installed."""

from __future__ import annotations

import doctest
import pkgutil
from importlib import import_module

import pytest

import knnspect

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(knnspect.__path__, "knnspect.")
    if not module.name.endswith("_core")
)


@pytest.mark.parametrize("name", ["knnspect", *MODULES])
def test_examples_run(name: str) -> None:
    if name == "knnspect.backends.faiss":
        pytest.importorskip("faiss")
    module = import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    report: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


@pytest.mark.parametrize(
    "name", ["Backbone", "FeaturePyramid", "Gallery", "Neighbors", "Spade", "load"]
)
def test_public_names_have_an_example(name: str) -> None:
    tests = doctest.DocTestFinder().find(getattr(knnspect, name))
    assert any(test.examples for test in tests)
