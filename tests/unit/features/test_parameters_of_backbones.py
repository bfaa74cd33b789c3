"""Parameters of backbones and their values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import knnspect as ks


def bad_values() -> Iterator[Any]:
    for name, declared in ks.Backbone.parameters.items():
        for value, error in declared.constraint.bad_values():
            yield pytest.param(name, value, error, id=f"{name}-{value!r}")


@pytest.mark.parametrize(("name", "value", "error"), list(bad_values()))
def test_values_outside_are_refused_by_name(name: str, value: Any, error: type[Exception]) -> None:
    backbone = ks.Backbone()
    setattr(backbone, name, value)
    with pytest.raises(error, match=name):
        backbone.check_params()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("levels", "1,-1", (1, -1)),
        ("levels", "relu_1, block/add:0", ("relu_1", "block/add:0")),
        ("levels", "'356',\"371\"", ("356", "371")),
        ("mean", "0.5", 0.5),
        ("mean", "0.485,0.456,0.406", (0.485, 0.456, 0.406)),
        ("std", "none", None),
        ("layout", "NHWC", "NHWC"),
    ],
)
def test_texts_become_values(name: str, text: str, value: Any) -> None:
    found = ks.Backbone.parameters[name].constraint.parse(name, text)
    assert (found, type(found)) == (value, type(value))


def test_arrays_become_tuples_and_paths_texts(tmp_path: Any) -> None:
    path = tmp_path / "network.onnx"
    arrays: dict[str, Any] = {"mean": np.array([0.25, 0.5, 0.75]), "std": np.ones(3)}
    backbone = ks.Backbone(path, **arrays)
    assert (backbone.name, backbone.mean) == (str(path), (0.25, 0.5, 0.75))
    assert backbone == ks.Backbone(str(path), mean=(0.25, 0.5, 0.75), std=(1.0, 1.0, 1.0))
    assert eval(repr(backbone), {"Backbone": ks.Backbone}) == backbone
