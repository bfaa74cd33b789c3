"""What every detector promises, whatever its method: with quick parameters, and with others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnspect as ks
from knnspect import Backbone
from knnspect.data import elpv_split, read_image
from knnspect.detectors import get_method, methods
from knnspect.errors import DTypeError, ParameterError
from knnspect.testing import Check, DetectorCase, Material, detector_checks
from knnspect.testing.detectors.case import expect_same_predictions
from knnspect.testing.detectors.models import ELSEWHERE, expect_same_elsewhere

Bad = tuple[tuple[str, Any, type[Exception]], ...]

#: By method: parameters with which it learns fast, and others; a method without has its defaults.
PARAMETERS: dict[str, tuple[dict[str, Any], ...]] = {
    "spade": (
        {"image_neighbors": 4},
        {"image_neighbors": 5, "pixel_neighbors": 3, "score": "map", "upsample": "block"}
        | {"gallery_dtype": "int8", "sigma": 2.5, "variants": ks.Variants(2)}
        | {"query_variants": ks.Variants(1, (0.9,))},
    ),
    "patchcore": (
        {"coreset": 0.05},
        {"coreset": 100, "projection": 20, "neighbors": 3, "seed": 4, "upsample": "block"}
        | {"gallery_dtype": "float16", "sigma": 0, "variants": ks.Variants(1, (0.8,))},
        {"coreset": None, "neighbors": 5, "gallery_dtype": "int8"}
        | {"score": "image", "query_variants": ks.Variants(3)},
    ),
    "anomalydino": ({"top": 0.1},),
    "superadd": ({"coreset": 0.05},),
    "rad": ({"image_neighbors": 4, "top": 0.1},),
    "cflow": (
        {"max_epochs": 2, "coupling_blocks": 2},
        {"max_epochs": 1, "patience": None, "validation_fraction": 0.4, "learning_rate": 1e-3}
        | {"score": "image", "gallery_dtype": "float16", "sigma": 0.0, "seed": 5}
        | {"mixed_precision": False},
    ),
    "simplenet": (
        {"max_epochs": 2, "hidden": 32},
        {"max_epochs": 2, "patience": 1, "hidden": 17, "noise": 0.7, "margin": 0.8}
        | {"score": "map", "upsample": "block", "gallery_dtype": "int8", "sigma": 2.5, "seed": 5},
    ),
    "duad": (
        {"clusters": 2, "most_rounds": 2, "hidden": 16, "latent_size": 4, "max_epochs": 2},
        {"clusters": 2, "components": 3, "most_rounds": 1, "round_epochs": 3, "hidden": 17}
        | {"first_drop": 0.2, "drop": 0.2, "latent_size": 5, "max_epochs": 1, "seed": 5}
        | {"score": "image", "gallery_dtype": "int8", "sigma": 2.5, "validation_fraction": 0.4},
    ),
}
PARAMETERS |= {
    "padim": (
        {},
        {"by_level": False, "by_position": False, "channels": 40, "selection": "leading"}
        | {"shrinkage": 0.2, "ridge": 0.01, "upsample": "block", "gallery_dtype": "float16"}
        | {"score": "map"},
        {"by_level": False, "channels": 10, "seed": 3, "sigma": 0.0, "score": "image"},
    ),
    "pca_residual": ({}, {"explained": 0.5, "by_level": False, "score": "image"}),
    "one_class_svm": (
        {"landmarks": 20},
        {"landmarks": 30, "kernel": "linear", "nu": 0.5, "seed": 2, "pooled_score": True}
        | {"upsample": "block", "score": "image"},
    ),
}
PARAMETERS["deep_svdd"] = (
    {"max_epochs": 2, "hidden": 24, "outputs": 8},
    {"max_epochs": 2, "objective": "soft_boundary", "nu": 0.2, "hidden": 17, "score": "map"}
    | {"upsample": "block", "gallery_dtype": "int8", "sigma": 2.5, "seed": 5, "patience": 1},
    {"max_epochs": 1, "defects": elpv_split(0, 0, 2).defective},
)
PARAMETERS["student_teacher"] = (
    {"max_epochs": 1, "hidden": 24},
    {"max_epochs": 2, "students": 1, "hidden": 17, "score": "image", "upsample": "block"}
    | {"gallery_dtype": "int8", "sigma": 2.5, "seed": 5, "patience": 1},
)
PARAMETERS["transformations"] = (
    {"max_epochs": 1},
    {"max_epochs": 2, "transformations": 5, "shift": 0.3, "outputs": 9, "score": "image"}
    | {"gallery_dtype": "int8", "sigma": 2.5, "seed": 5, "patience": 1, "upsample": "block"},
)

#: Of methods that draw images: those with which they learn fast.
DRAWING: tuple[dict[str, Any], ...] = ({"max_epochs": 2, "width": 4, "latent_size": 8},)
PARAMETERS["anogan"] = ({**DRAWING[0], "search_steps": 3},)

#: Values that are to be refused, besides those of the constraints.
SPADE_BAD_PARAMETERS: Bad = (
    ("backbone", "efficientnet_lite0", DTypeError),
    ("image_neighbors", 0, ParameterError),
    ("image_neighbors", -3, ParameterError),
    ("image_neighbors", 2.0, DTypeError),
    ("image_neighbors", True, DTypeError),
    ("pixel_neighbors", 0, ParameterError),
    ("pixel_neighbors", "1", DTypeError),
    ("pixel_neighbors", 10**9, ParameterError),
    ("score", "pixel", ParameterError),
    ("score", None, ParameterError),
    ("upsample", "nearest", ParameterError),
    ("gallery_dtype", "float64", ParameterError),
    ("gallery_dtype", np.int8, ParameterError),
    ("sigma", -1.0, ParameterError),
    ("sigma", float("nan"), ParameterError),
    ("sigma", float("inf"), ParameterError),
    ("sigma", "4", DTypeError),
    ("backend", "abacus", ParameterError),
    ("backend", 3, DTypeError),
    ("threads", 0, ParameterError),
    ("threads", 1.5, DTypeError),
)
PATCHCORE_BAD_PARAMETERS: Bad = (
    ("backbone", "efficientnet_lite0", DTypeError),
    ("coreset", 0, ParameterError),
    ("coreset", 0.0, ParameterError),
    ("coreset", 1.01, ParameterError),
    ("coreset", -0.1, ParameterError),
    ("coreset", float("nan"), ParameterError),
    ("coreset", "all", DTypeError),
    ("coreset", True, DTypeError),
    ("coreset", 10**9, ParameterError),
    ("projection", 0, ParameterError),
    ("projection", 2.0, DTypeError),
    ("neighbors", 0, ParameterError),
    ("neighbors", 1.5, DTypeError),
    ("score", "pixel", ParameterError),
    ("upsample", "nearest", ParameterError),
    ("gallery_dtype", "float64", ParameterError),
    ("sigma", -1.0, ParameterError),
    ("sigma", "4", DTypeError),
    ("seed", -1, ParameterError),
    ("seed", None, DTypeError),
    ("backend", "abacus", ParameterError),
    ("threads", 0, ParameterError),
)
TRAINED_BAD_PARAMETERS: Bad = (
    ("backbone", "efficientnet_lite0", DTypeError),
    ("max_epochs", 0, ParameterError),
    ("max_epochs", 2.0, DTypeError),
    ("max_epochs", None, DTypeError),
    ("patience", 0, ParameterError),
    ("patience", "never", DTypeError),
    ("validation_fraction", 0, ParameterError),
    ("validation_fraction", 1.0, ParameterError),
    ("validation_fraction", "0.1", DTypeError),
    ("learning_rate", 0.0, ParameterError),
    ("learning_rate", -1, ParameterError),
    ("learning_rate", float("inf"), ParameterError),
    ("learning_rate", 1e30, ParameterError),
    ("mixed_precision", 1, DTypeError),
    ("mixed_precision", "bfloat16", DTypeError),
    ("score", "pixel", ParameterError),
    ("gallery_dtype", "float64", ParameterError),
    ("sigma", -1.0, ParameterError),
    ("seed", -1, ParameterError),
    ("seed", 0.5, DTypeError),
)
CFLOW_BAD_PARAMETERS: Bad = (
    *TRAINED_BAD_PARAMETERS,
    ("coupling_blocks", 0, ParameterError),
)
SIMPLENET_BAD_PARAMETERS: Bad = (
    *TRAINED_BAD_PARAMETERS,
    ("hidden", 0, ParameterError),
    ("hidden", 8.0, DTypeError),
    ("noise", 0, ParameterError),
    ("noise", "0.1", DTypeError),
    ("margin", -0.5, ParameterError),
    ("upsample", "nearest", ParameterError),
)
DEEP_SVDD_BAD_PARAMETERS: Bad = (
    *TRAINED_BAD_PARAMETERS,
    ("outputs", 0, ParameterError),
    ("objective", "two_class", ParameterError),
    ("nu", 0.0, ParameterError),
    ("nu", 1.5, ParameterError),
    ("nu", "0.1", DTypeError),
    ("eta", 0.0, ParameterError),
    ("eta", float("nan"), ParameterError),
    ("weight_decay", -1e-6, ParameterError),
    ("defects", 3, DTypeError),
)
STUDENT_TEACHER_BAD_PARAMETERS: Bad = (
    *TRAINED_BAD_PARAMETERS,
    ("students", 0, ParameterError),
    ("students", 10**9, ParameterError),
    ("hidden", 0, ParameterError),
)
TRANSFORMATIONS_BAD_PARAMETERS: Bad = (
    *TRAINED_BAD_PARAMETERS,
    ("transformations", 1, ParameterError),
    ("transformations", 10**9, ParameterError),
    ("shift", 0.0, ParameterError),
    ("outputs", 0, ParameterError),
)
DUAD_BAD_PARAMETERS: Bad = (
    *TRAINED_BAD_PARAMETERS,
    ("clusters", 1, ParameterError),
    ("clusters", 9, ParameterError),  # of eight images
    ("first_drop", 0.0, ParameterError),
    ("first_drop", 1.0, ParameterError),
    ("drop", 0, ParameterError),
    ("drop", 1, ParameterError),
    ("most_rounds", 0, ParameterError),
    ("latent_size", 0, ParameterError),
)
BAD: dict[str, Bad] = {
    "transformations": TRANSFORMATIONS_BAD_PARAMETERS,
    "student_teacher": STUDENT_TEACHER_BAD_PARAMETERS,
    "deep_svdd": DEEP_SVDD_BAD_PARAMETERS,
    "duad": DUAD_BAD_PARAMETERS,
    "spade": SPADE_BAD_PARAMETERS,
    "patchcore": PATCHCORE_BAD_PARAMETERS,
    "cflow": CFLOW_BAD_PARAMETERS,
    "simplenet": SIMPLENET_BAD_PARAMETERS,
}


def material() -> Material:
    """Solar cells: eight to learn from; to be judged those of many sizes, most not square."""
    split = elpv_split(n_train=8, n_functional=3, n_defective=4)
    first, *others = [read_image(path) for path in (*split.functional, *split.defective)]
    sizes = [(300, 200), (64, 64), (31, 77), (7, 300), (150, 149), (1, 1)]
    cropped = {f"{h} x {w}": o[:h, :w] for o, (h, w) in zip(others, sizes, strict=True)}
    return Material(
        {path.name: path for path in split.train},
        {"whole": first, **cropped},
        Backbone(image_size=64, device="cpu"),
    )


def parameters_of(word: str) -> tuple[dict[str, Any], ...]:
    draws = not isinstance(get_method(word)().backbone, Backbone)
    return PARAMETERS.get(word, DRAWING if draws else ({},))


MATERIAL = material()
CASES = {
    f"{word}-{number}": DetectorCase(
        get_method(word)(**parameters), MATERIAL, BAD.get(word, ()) if number == 0 else ()
    )
    for word in methods()
    for number, parameters in enumerate(parameters_of(word))
}
#: What takes a process of its own is tried once for all of them.
ALONE = {check.name for check in ELSEWHERE}


def every_check() -> Iterator[Any]:
    for name, case in CASES.items():
        for check in detector_checks(case):
            if check.name not in ALONE:
                yield pytest.param(check, case, id=f"{check}-{name}")


@pytest.mark.parametrize(("check", "case"), list(every_check()))
def test_every_detector(check: Check[DetectorCase], case: DetectorCase) -> None:
    check(case)


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_the_maps_of_normal_images_are_known(case: DetectorCase) -> None:
    assert 0 < case.fitted.normal_map_max_ < np.inf


def test_models_predict_the_same_in_another_process_and_another_place() -> None:
    expect_same_elsewhere(CASES)


def test_more_neighbours_than_images_mean_all_of_them_with_a_warning_if_they_were_asked_for(
    tmp_path: Path,
) -> None:
    backbone, normal, queries = MATERIAL.backbone, MATERIAL.normal, MATERIAL.queries
    with pytest.warns(UserWarning, match="image_neighbors=9 exceeds .* using all 8"):
        detector = ks.Spade(backbone, image_neighbors=9).fit(normal)
    assert (detector.image_neighbors, detector.image_neighbors_) == (9, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = ks.Spade(backbone, image_neighbors=8).fit(normal).predict(queries)
        by_default = ks.Spade(backbone).fit(normal)
    assert (by_default.image_neighbors, by_default.image_neighbors_) == (50, 8)
    expect_same_predictions("by default", by_default.predict(queries), expected)
    expect_same_predictions("9 of 8", detector.predict(queries), expected)
    detector.save(tmp_path / "model.ks")
    loaded = ks.load(tmp_path / "model.ks")
    expect_same_predictions("the model", loaded.predict(queries), expected)
