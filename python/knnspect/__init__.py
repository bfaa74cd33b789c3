"""Find defects in images by comparing deep features with a gallery of normal ones.

The public names are imported when they are first used, so that ``import knnspect`` is quick, and
galleries can be searched where there is only NumPy.

>>> import knnspect as ks
>>> ks.Gallery(upsample="block")
Gallery(upsample='block', dtype='float32', n_images=0)
"""

from __future__ import annotations

from importlib import import_module

from knnspect._core import __version__ as __version__

#: Where each public name is.
_HOMES = {
    "AAE": "detectors.reconstruction.aae",
    "ADAE": "detectors.reconstruction.adae",
    "ALAD": "detectors.reconstruction.alad",
    "ALAE": "detectors.reconstruction.alae",
    "ALOCC": "detectors.reconstruction.alocc",
    "Aligned": "detectors",
    "AnoGAN": "detectors.reconstruction.anogan",
    "AnomalousRegion": "detectors",
    "AnomalyDINO": "detectors",
    "Backbone": "features",
    "BackendUnavailable": "errors",
    "CAVGA": "detectors.reconstruction.cavga",
    "CFlow": "detectors",
    "Calibration": "calibration",
    "CalibrationError": "errors",
    "CalibrationWarning": "errors",
    "Coreset": "gallery",
    "Correction": "corrections",
    "DTypeError": "errors",
    "DatasetWarning": "errors",
    "DeepSvdd": "detectors",
    "Detector": "detectors",
    "DisagreementError": "errors",
    "DriftAlarm": "calibration",
    "DriftMonitor": "calibration",
    "Duad": "detectors.heads.duad",
    "EGBAD": "detectors.reconstruction.egbad",
    "FAnoGAN": "detectors.reconstruction.f_anogan",
    "FeaturePyramid": "pyramid",
    "Features": "features",
    "FollowedPart": "detectors.following",
    "ForkError": "errors",
    "GANomaly": "detectors.reconstruction.ganomaly",
    "FoundPart": "locators",
    "Gallery": "gallery",
    "GoldenTemplate": "locators",
    "HADGAN": "detectors.reconstruction.hadgan",
    "ImageError": "errors",
    "ImageWarning": "errors",
    "KnnspectError": "errors",
    "KnownDefect": "detectors",
    "Lights": "detectors",
    "MissingPackageError": "errors",
    "MutualScoring": "cleaning",
    "Neighbors": "search",
    "NotFittedError": "errors",
    "OnCluster": "cluster",
    "OneClassSvm": "detectors.heads.one_class_svm",
    "Padim": "detectors.heads.padim",
    "ParameterError": "errors",
    "PatchCore": "detectors",
    "PcaResidual": "detectors.heads.pca_residual",
    "Pixels": "features",
    "Prediction": "detectors",
    "Rad": "detectors",
    "ReadingWarning": "errors",
    "Regions": "detectors",
    "SSIMAE": "detectors.reconstruction.ssim_ae",
    "Scenes": "features",
    "SearchStats": "search",
    "ShapeError": "errors",
    "ShardedGallery": "gallery",
    "SiamMask": "locators",
    "SimpleNet": "detectors",
    "SkipGANomaly": "detectors.reconstruction.skip_ganomaly",
    "Spade": "detectors",
    "StoreError": "errors",
    "StudentTeacher": "detectors",
    "SuperADD": "detectors",
    "Transformations": "detectors",
    "VAE": "detectors.reconstruction.vae",
    "Variants": "views",
    "follow_parts": "detectors.following",
    "load": "detectors",
    "load_locator": "locators",
    "save_locator": "locators",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'knnspect' has no attribute {name!r}")
    value = getattr(import_module(f"knnspect.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
