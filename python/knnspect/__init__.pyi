"""The public names, for type checkers."""

from knnspect._core import __version__
from knnspect.calibration import Calibration, DriftAlarm, DriftMonitor
from knnspect.cleaning import MutualScoring
from knnspect.cluster import OnCluster
from knnspect.corrections import Correction
from knnspect.detectors import (
    Aligned,
    AnomalousRegion,
    AnomalyDINO,
    CFlow,
    DeepSvdd,
    Detector,
    KnownDefect,
    Lights,
    PatchCore,
    Prediction,
    Rad,
    Regions,
    SimpleNet,
    Spade,
    StudentTeacher,
    SuperADD,
    Transformations,
    load,
)
from knnspect.detectors.following import FollowedPart, follow_parts
from knnspect.detectors.heads.duad import Duad
from knnspect.detectors.heads.one_class_svm import OneClassSvm
from knnspect.detectors.heads.padim import Padim
from knnspect.detectors.heads.pca_residual import PcaResidual
from knnspect.detectors.reconstruction.aae import AAE
from knnspect.detectors.reconstruction.adae import ADAE
from knnspect.detectors.reconstruction.alad import ALAD
from knnspect.detectors.reconstruction.alae import ALAE
from knnspect.detectors.reconstruction.alocc import ALOCC
from knnspect.detectors.reconstruction.anogan import AnoGAN
from knnspect.detectors.reconstruction.cavga import CAVGA
from knnspect.detectors.reconstruction.egbad import EGBAD
from knnspect.detectors.reconstruction.f_anogan import FAnoGAN
from knnspect.detectors.reconstruction.ganomaly import GANomaly
from knnspect.detectors.reconstruction.hadgan import HADGAN
from knnspect.detectors.reconstruction.skip_ganomaly import SkipGANomaly
from knnspect.detectors.reconstruction.ssim_ae import SSIMAE
from knnspect.detectors.reconstruction.vae import VAE
from knnspect.errors import (
    BackendUnavailable,
    CalibrationError,
    CalibrationWarning,
    DatasetWarning,
    DisagreementError,
    DTypeError,
    ForkError,
    ImageError,
    ImageWarning,
    KnnspectError,
    MissingPackageError,
    NotFittedError,
    ParameterError,
    ReadingWarning,
    ShapeError,
    StoreError,
)
from knnspect.features import Backbone, Features, Pixels, Scenes
from knnspect.gallery import Coreset, Gallery, ShardedGallery
from knnspect.locators import (
    FoundPart,
    GoldenTemplate,
    SiamMask,
    load_locator,
    save_locator,
)
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Neighbors, SearchStats
from knnspect.views import Variants

__all__ = [
    "AAE",
    "ADAE",
    "ALAD",
    "ALAE",
    "ALOCC",
    "CAVGA",
    "EGBAD",
    "HADGAN",
    "SSIMAE",
    "VAE",
    "Aligned",
    "AnoGAN",
    "AnomalousRegion",
    "AnomalyDINO",
    "Backbone",
    "BackendUnavailable",
    "CFlow",
    "Calibration",
    "CalibrationError",
    "CalibrationWarning",
    "Coreset",
    "Correction",
    "DTypeError",
    "DatasetWarning",
    "DeepSvdd",
    "Detector",
    "DisagreementError",
    "DriftAlarm",
    "DriftMonitor",
    "Duad",
    "FAnoGAN",
    "FeaturePyramid",
    "Features",
    "FollowedPart",
    "ForkError",
    "FoundPart",
    "GANomaly",
    "Gallery",
    "GoldenTemplate",
    "ImageError",
    "ImageWarning",
    "KnnspectError",
    "KnownDefect",
    "Lights",
    "MissingPackageError",
    "MutualScoring",
    "Neighbors",
    "NotFittedError",
    "OnCluster",
    "OneClassSvm",
    "Padim",
    "ParameterError",
    "PatchCore",
    "PcaResidual",
    "Pixels",
    "Prediction",
    "Rad",
    "ReadingWarning",
    "Regions",
    "Scenes",
    "SearchStats",
    "ShapeError",
    "ShardedGallery",
    "SiamMask",
    "SimpleNet",
    "SkipGANomaly",
    "Spade",
    "StoreError",
    "StudentTeacher",
    "SuperADD",
    "Transformations",
    "Variants",
    "__version__",
    "follow_parts",
    "load",
    "load_locator",
    "save_locator",
]
