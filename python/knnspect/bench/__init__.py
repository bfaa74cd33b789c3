"""Which backend is how fast on this machine, and whether it finds what it should.

``cases``      what is measured: a search of features, or a detector from the image to the map
``choosing``   which it is, of what a user has
``synthetic``  features out of nothing, where there are no images
``measure``    rivals take turns
``agreement``  whether they found the same
``accuracy``   what they change in AUROC
``timing``     taking times, and what many times come to
``machine``    where it was measured
``results``    what was measured
``table``      the same on a terminal
``chart``      the same as a picture (needs matplotlib)
"""

from __future__ import annotations

from knnspect.bench.accuracy import Labelled
from knnspect.bench.agreement import check_agreement, recall, tolerance
from knnspect.bench.cases import Case, DetectorCase, SearchCase
from knnspect.bench.chart import check_matplotlib, save_chart
from knnspect.bench.choosing import fitted_case, is_dataset
from knnspect.bench.machine import machine
from knnspect.bench.measure import run_bench
from knnspect.bench.results import BackendFigures, BenchReport
from knnspect.bench.synthetic import SHAPES, synthetic_case, synthetic_pyramid
from knnspect.bench.table import describe_case, tables
from knnspect.bench.timing import percentiles, ratios, spread, synchronize, timed, turns

__all__ = [
    "SHAPES",
    "BackendFigures",
    "BenchReport",
    "Case",
    "DetectorCase",
    "Labelled",
    "SearchCase",
    "check_agreement",
    "check_matplotlib",
    "describe_case",
    "fitted_case",
    "is_dataset",
    "machine",
    "percentiles",
    "ratios",
    "recall",
    "run_bench",
    "save_chart",
    "spread",
    "synchronize",
    "synthetic_case",
    "synthetic_pyramid",
    "tables",
    "timed",
    "tolerance",
    "turns",
]
