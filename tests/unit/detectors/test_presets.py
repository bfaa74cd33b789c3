"""Settings that belong together: by a word, in Python and on the command line."""

from __future__ import annotations

import re

import pytest

import knnspect as ks
from knnspect.cli.options import build_detector, detector_options
from knnspect.detectors import get_method, methods
from knnspect.errors import ParameterError

KINDS = [get_method(word) for word in methods()]
WITH_PRESETS = [kind for kind in KINDS if kind.presets]


@pytest.mark.parametrize("kind", WITH_PRESETS, ids=lambda kind: kind.method)
def test_every_preset_is_made_of_parameters_of_its_method(kind: type[ks.Detector]) -> None:
    for word, settings in kind.presets.items():
        detector = kind.from_preset(word)
        detector.check_params()
        assert settings.items() <= detector.get_params().items()
        assert detector != kind(), "it differs from the defaults"


@pytest.mark.parametrize("kind", WITH_PRESETS, ids=lambda kind: kind.method)
def test_other_parameters_count(kind: type[ks.Detector]) -> None:
    word = next(iter(kind.presets))
    detector = kind.from_preset(word, sigma=2.0, backbone__patch_size=5)
    assert isinstance(detector.backbone, ks.Backbone)
    assert (detector.sigma, detector.backbone.patch_size) == (2.0, 5)
    with pytest.raises(ParameterError, match="no_such: is no parameter"):
        kind.from_preset(word, no_such=1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.method)
def test_an_unknown_preset_names_those_there_are(kind: type[ks.Detector]) -> None:
    words = ", ".join(repr(word) for word in kind.presets)
    expected = f"preset: expected one of {words}, got 'papper'" if words else "has no presets"
    with pytest.raises(ParameterError, match=re.escape(expected)):
        kind.from_preset("papper")


def test_the_command_line_has_them_for_methods_that_have_some() -> None:
    for kind in KINDS:
        assert ("--preset" in detector_options(kind)) == bool(kind.presets)
    chosen = build_detector(ks.Spade, {"preset": "paper", "sigma": "2", "patch_size": "3"})
    assert chosen == ks.Spade.from_preset("paper", sigma=2.0, backbone__patch_size=3)


def test_two_detectors_of_a_preset_share_nothing() -> None:
    one, other = ks.Spade.from_preset("paper"), ks.Spade.from_preset("paper")
    one.backbone.patch_size = 7
    assert other.backbone.patch_size == 1
