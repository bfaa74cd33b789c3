"""The torch backend against flat searches, on the CPU or on a GPU, in one run.

SPADE's pixel stage: K = 50 normal images, the same features and threads, one query image at a time
and in turns. The rivals: faiss's flat index, timed as ``add + search`` on rows that are
concatenated beforehand (and on the device beforehand, where it is a GPU); and on a GPU the plainest
search that PyTorch offers, one float32 product with all rows and ``topk``. The torch backend keeps
the gallery on its device, and the query is there, too, where that is a GPU. Answers are compared in
the first turn: where a rival names other cells, the float64 distances must say that ours are no
farther. On a GPU faiss may be missing; the product is then the only rival.

    python benches/python/torch_backend.py hazelnut=PATH transistor=PATH
    python benches/python/torch_backend.py hazelnut=PATH --device cuda --backbone wide_resnet50_2

Without weights for a backbone (``--random-weights``) its features are those of random ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import concatenated, features_of, ratios, spread, timed, write_result
from matching import check_equal
from numpy.typing import NDArray

import knnspect as ks
from knnspect.backends.torch import TorchBackend
from knnspect.data import MVTecDataset

faiss: Any
try:
    faiss = import_module("faiss")
except ImportError:
    faiss = None

#: What a float32 product of faiss or PyTorch may be off for each feature, as a share of the largest
#: squared norm: the unit roundoff, as sums of so many terms may be off by that many of it.
ROUNDING = 2.0**-24
#: Seconds between turns: threads go on spinning for a while after theirs.
PAUSE = 0.05


def random_weights(backbone: str) -> Path:
    """Return a file of random weights for a network."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = Path("/tmp") / f"{backbone}-random.safetensors"
    save_file(timm.create_model(backbone, pretrained=False).state_dict(), weights)
    return weights


def random_features(path: Path, backbone: str) -> tuple[ks.FeaturePyramid, ks.FeaturePyramid]:
    """Features of real images, by a network of random weights."""
    images = MVTecDataset(path)
    weights = random_weights(backbone)
    network = ks.Backbone(backbone, levels=(1, 2, 3), image_size=224, weights=weights)
    train = network.extract(images.train[:50])
    return train.pyramid, network.extract([image.path for image in images.test[:10]]).pyramid


def faiss_search(
    rows: NDArray[np.float32], device: torch.device, k: int
) -> Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Return faiss's search of new rows: add them to an empty index, search, forget them."""
    if device.type == "cpu":

        def search(queries: NDArray[np.float32]) -> Any:
            index = faiss.IndexFlatL2(rows.shape[1])
            index.add(rows)
            return index.search(queries, k)

        return search
    import_module("faiss.contrib.torch_utils")  # lets indexes take tensors

    resources = faiss.StandardGpuResources()
    config = faiss.GpuIndexFlatConfig()
    config.device = device.index
    on_device = torch.from_numpy(rows).to(device)

    def search_on_device(queries: Any) -> Any:
        index = faiss.GpuIndexFlatL2(resources, rows.shape[1], config)
        index.add(on_device)
        found = index.search(queries, k)
        torch.cuda.synchronize(device)
        return found

    return search_on_device


def flat_product(
    rows: NDArray[np.float32], device: torch.device, k: int
) -> Callable[[torch.Tensor], Any]:
    """Return the search of PyTorch by one float32 product with all rows."""
    on_device = torch.from_numpy(rows).to(device)
    sq_norms = on_device.square().sum(dim=1)

    def search(queries: torch.Tensor) -> Any:
        products = torch.addmm(sq_norms[None], queries, on_device.T, alpha=-2)
        nearest = products.topk(k, dim=1, largest=False)
        sq_distances = nearest.values + queries.square().sum(dim=1, keepdim=True)
        torch.cuda.synchronize(device)
        return sq_distances, nearest.indices

    return search


def compare(
    train: ks.FeaturePyramid,
    test: ks.FeaturePyramid,
    k: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time all on every query image and return the figures."""
    gallery = ks.Gallery()
    gallery.add(train)
    backend = TorchBackend(options.device)
    device = backend.device
    is_gpu = device.type == "cuda"
    rows = concatenated(train, "bilinear")
    exact_rows = concatenated(train, "bilinear", np.float64)
    largest = float(np.square(exact_rows).sum(axis=1).max())
    atol = ROUNDING * rows.shape[1] * largest if is_gpu else 0
    rivals: dict[str, Callable[[Any], Any]] = {}
    if faiss is not None:
        rivals["faiss"] = faiss_search(rows, device, k)
    if is_gpu:
        rivals["product"] = flat_product(rows, device, k)
    cold, _ = timed(lambda: gallery.search(test[0], k, threads=options.threads, backend=backend))
    seconds: dict[str, list[float]] = {name: [] for name in (*rivals, "torch")}
    shares = []
    agreements: dict[str, list[float]] = {name: [] for name in rivals}
    for image in range(test.n_images):
        query = test[image]
        levels = [torch.from_numpy(level.copy()).to(device) for level in query.levels]
        host_rows = concatenated(query, "bilinear")
        query_rows = torch.from_numpy(host_rows).to(device) if is_gpu else host_rows

        def ours(query: ks.FeaturePyramid = query, levels: Any = levels) -> Any:
            if is_gpu:
                return backend.search_tensors(gallery.prepare(ks.FeaturePyramid(levels), k))
            return gallery.search(query, k, threads=options.threads, backend=backend)

        times: dict[str, list[float]] = {name: [] for name in seconds}
        theirs: dict[str, Any] = {}
        for _ in range(options.repeats):
            for name, search in rivals.items():
                time.sleep(PAUSE)
                taken, theirs[name] = timed(lambda rows=query_rows, search=search: search(rows))  # type: ignore[misc]
                times[name].append(taken)
            time.sleep(PAUSE)
            times["torch"].append(timed(ours)[0])
        found = gallery.search(query, k, threads=options.threads, backend=backend)
        assert found.stats is not None
        assert found.stats.shares["core"] == 0
        shares.append(found.stats.shares["float64"])
        exact_query = concatenated(query, "bilinear", np.float64)
        for name, answer in theirs.items():
            both = tuple(np.asarray(part.cpu() if is_gpu else part) for part in answer)
            agreements[name].append(check_equal(found, both, exact_query, exact_rows, atol))  # type: ignore[arg-type]
        for name, values in times.items():
            seconds[name].append(float(np.median(values)))
    return {
        "k": k,
        "gallery_images": len(gallery),
        "features": rows.shape[1],
        "device": torch.cuda.get_device_name(device) if is_gpu else "cpu",
        "dtype": backend.capabilities.dtypes[0],
        "threads": options.threads,
        "cold_ms": round(1000 * cold, 1),
        **{name: spread(values) for name, values in seconds.items()},
        **{f"{name}_ratio": ratios(seconds[name], seconds["torch"]) for name in rivals},
        "settled": round(float(np.median(shares)), 6),
        "places_equal": {
            name: round(float(np.mean(values)), 6) for name, values in agreements.items()
        },
    }


def main() -> None:
    """Run the comparison and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="NAME=PATH", help="in MVTec layout")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if faiss is None and not options.device.startswith("cuda"):
        parser.error("faiss is not installed, and on the CPU there is no other rival")
    if faiss is not None:
        faiss.omp_set_num_threads(options.threads)
    figures: list[dict[str, Any]] = []
    for entry in options.datasets:
        name, path = entry.split("=", 1)
        if options.random_weights:
            train, test = random_features(Path(path), options.backbone)
        else:
            both = features_of(Path(path), 10, backbone=options.backbone)
            train, test = both[0].pyramid, both[1].pyramid
        for k in (1, 5):
            figures.append(
                {"dataset": name, "backbone": options.backbone, **compare(train, test, k, options)}
            )
            print(figures[-1], flush=True)
    device = options.device.partition(":")[0]
    version = None if faiss is None else faiss.__version__
    result = {"faiss": version, "torch": torch.__version__, "comparisons": figures}
    write_result(f"torch_backend_{device}", result)


if __name__ == "__main__":
    main()
