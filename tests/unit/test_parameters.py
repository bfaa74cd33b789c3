"""Parameters are declared once; all else follows from that."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone

import knnspect as ks
from knnspect.detectors import Detector, get_method, methods
from knnspect.errors import ParameterError

KINDS: list[type[Detector]] = [get_method(word) for word in methods()]

#: Another value than the default for each parameter of any method.
OTHERS: dict[str, Any] = {
    "by_level": False,
    "by_position": False,
    "channels": 12,
    "selection": "leading",
    "shrinkage": 0.25,
    "ridge": 0.125,
    "explained": 0.75,
    "kernel": "linear",
    "nu": 0.35,
    "landmarks": 31,
    "pooled_score": True,
    "backbone": ks.Backbone("resnet18"),
    "score": "map",
    "sigma": 2.5,
    "top": 0.05,
    "gallery_dtype": "int8",
    "upsample": "block",
    "fusion": "levels",
    "window": (1, None),
    "backend": "rust",
    "threads": 3,
    "variants": ks.Variants(rotations=4, brightness=(0.8, 1.2), mirror=True),
    "query_variants": ks.Variants(rotations=2),
    "image_neighbors": 7,
    "pixel_neighbors": 2,
    "score_neighbors": 9,
    "coreset": 0.5,
    "projection": 32,
    "mask": "pca",
    "neighbors": 3,
    "outliers": 0.15,
    "seed": 5,
    "max_epochs": 2,
    "patience": 9,
    "validation_fraction": 0.2,
    "learning_rate": 0.125,
    "mixed_precision": False,
    "coupling_blocks": 3,
    "hidden": 17,
    "noise": 0.25,
    "margin": 0.75,
    "outputs": 11,
    "transformations": 6,
    "shift": 0.25,
    "students": 4,
    "objective": "soft_boundary",
    "eta": 2.5,
    "weight_decay": 0.125,
    "false_alarm_rate": 0.3,
    "thumbnails": 12,
    "latent_size": 9,
    "width": 5,
    "augment": True,
    "loss": "l1",
    "judged_by": "l2",
    "adversarial_weight": 3.5,
    "contextual_weight": 12.0,
    "encoder_weight": 2.25,
    "reconstruction_weight": 0.8,
    "judged": "image",
    "enough": 0.15,
    "gamma": 6.0,
    "image_weight": 4.0,
    "latent_weight": 0.375,
    "term": "kl",
    "samples": 3,
    "variance": 0.25,
    "constraint_weight": 0.25,
    "critic_steps": 2,
    "consistency_weight": 2.0,
    "shrink_weight": 0.5,
    "spatial_weight": 0.25,
    "contamination": 0.125,
    "residual_share": 0.6,
    "encoder_training": "ziz",
    "discriminator_score": "cross_entropy",
    "search_steps": 3,
    "search_rate": 0.25,
    "feature_share": 0.625,
    "pixel_share": 0.375,
    "map_of": "attention",
    "supervision": "weak",
    "defects": "images/defective",
    "attention_weight": 0.5,
    "classifier_weight": 0.5,
    "clusters": 4,
    "components": 12,
    "first_drop": 0.25,
    "drop": 0.125,
    "most_rounds": 3,
    "round_epochs": 6,
}


def others(kind: type[Detector]) -> dict[str, Any]:
    values = {name: OTHERS[name] for name in kind.parameters}
    if not isinstance(kind().backbone, ks.Backbone):
        values["backbone"] = ks.Pixels(28)
    for name, other in (("score", "image"), ("fusion", "concatenated"), ("patience", None)):
        if name in values and kind.parameters[name].default == values[name]:
            values[name] = other
    return values


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> type[Detector]:
    found: type[Detector] = request.param
    return found


def test_the_signature_is_made_of_them(kind: type[Detector]) -> None:
    parameters = inspect.signature(kind).parameters
    assert list(parameters) == list(kind.parameters)
    assert next(iter(parameters)) == "backbone"
    kinds = {name: each.kind for name, each in parameters.items()}
    assert kinds.pop("backbone") == inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert set(kinds.values()) == {inspect.Parameter.KEYWORD_ONLY}


def test_each_has_a_text(kind: type[Detector]) -> None:
    assert [name for name, each in kind.parameters.items() if len(each.summary) < 10] == []


def test_all_are_got_and_set(kind: type[Detector]) -> None:
    detector, values = kind(), others(kind)
    assert detector.set_params(**values) is detector
    assert detector.get_params(deep=False) == values
    assert detector == kind(**values)
    assert detector != kind()


def test_those_of_the_backbone_are_among_them(kind: type[Detector]) -> None:
    backbone = kind().backbone.set_params(device="cpu", max_pixels=7)
    detector = kind(backbone)
    assert detector.get_params()["backbone__device"] == "cpu"
    detector.set_params(backbone__max_pixels=5)
    assert detector.backbone.max_pixels == 5
    assert backbone.max_pixels == 7, "another detector may have it, too"


def test_unknown_ones_are_named_and_none_is_set(kind: type[Detector]) -> None:
    detector = kind()
    with pytest.raises(ParameterError, match=f"colour: is no parameter of {kind.__name__}"):
        detector.set_params(sigma=1.0, colour="red")
    assert detector == kind()
    with pytest.raises(TypeError, match="colour"):
        kind(colour="red")  # type: ignore[call-arg]


def test_only_what_is_not_the_default_is_shown(kind: type[Detector]) -> None:
    assert repr(kind()) == f"{kind.__name__}()"
    text = repr(kind(**others(kind)))
    assert all(f"{name}=" in text for name in kind.parameters if name != "backbone")
    assert eval(text, {name: getattr(ks, name) for name in ks.__all__}) == kind(**others(kind))


def test_detectors_are_cloned_without_what_they_learnt(kind: type[Detector]) -> None:
    detector = kind(**others(kind))
    detector.normal_map_max_ = 1.0
    cloned = clone(detector)
    assert cloned == detector
    assert cloned is not detector
    assert not hasattr(cloned, "normal_map_max_")


def test_copies_and_pickles_have_them(kind: type[Detector]) -> None:
    detector = kind(**others(kind))
    assert copy.deepcopy(detector) == detector
    assert pickle.loads(pickle.dumps(detector)) == detector


def bad_values() -> Iterator[Any]:
    for kind in KINDS:
        for name, declared in kind.parameters.items():
            for value, error in declared.constraint.bad_values():
                yield pytest.param(kind, name, value, error, id=f"{kind.__name__}-{name}-{value!r}")


@pytest.mark.parametrize(("kind", "name", "value", "error"), list(bad_values()))
def test_values_outside_are_refused_by_name(
    kind: type[Detector], name: str, value: Any, error: type[Exception]
) -> None:
    detector = kind()
    setattr(detector, name, value)
    with pytest.raises(error, match=f"^{name}: |^{'backend'}: " if name == "backend" else name):
        detector.check_params()


def test_defaults_are_inside(kind: type[Detector]) -> None:
    kind().check_params()
    kind(**others(kind)).check_params()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("coreset", "0.01", 0.01),
        ("coreset", "1568", 1568),
        ("coreset", "none", None),
        ("neighbors", "3", 3),
        ("outliers", "0.15", 0.15),
        ("outliers", "none", None),
        ("sigma", "2", 2.0),
        ("threads", "none", None),
        ("score", "map", "map"),
        ("variants", "rotations=8", ks.Variants(rotations=8)),
        ("variants", "brightness=.8:1.2, mirror", ks.Variants(1, (0.8, 1.2), mirror=True)),
        ("variants", "none", None),
    ],
)
def test_texts_become_values(name: str, text: str, value: Any) -> None:
    found = ks.PatchCore.parameters[name].constraint.parse(name, text)
    assert (found, type(found)) == (value, type(value))


def test_values_become_json(tmp_path: Any) -> None:
    spade = ks.Spade(sigma=np.float32(2.5), image_neighbors=np.int64(3))
    saved = spade.saved_params()
    assert {name: type(value) for name, value in saved.items()}["sigma"] is float
    assert saved["image_neighbors"] == 3
    assert "threads" not in saved, "it says how a machine works"
    mask = ks.Spade(mask=np.eye(2, dtype=np.uint8))
    saved = json.loads(json.dumps(mask.saved_params()["mask"]))
    assert ks.Spade.parameters["mask"].constraint.restored("mask", saved) == mask.mask
    assert ks.Spade(variants=ks.Variants(4, [0.8])).saved_params()["variants"] == (
        "rotations=4,brightness=0.8"
    )
