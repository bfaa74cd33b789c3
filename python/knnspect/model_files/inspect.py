"""What a file or a folder of ours holds, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from knnspect import _core
from knnspect.calibration import Calibration
from knnspect.corrections import Correction, History
from knnspect.files import as_damage, check_path, is_folder, is_there, parse_json
from knnspect.gallery import Coreset, Gallery, ShardedGallery
from knnspect.model_files.layout import CALIBRATION, MODEL, OF_IMAGES
from knnspect.model_files.read import corrections_of
from knnspect.normal_features.folder import GALLERY
from knnspect.validation import some_ids
from knnspect.views import Region, Variants
from knnspect.views.regions import NamedRegions

__all__ = ["contents", "size_of"]


def contents(path: Path, verify: bool) -> Iterator[tuple[str, object]]:
    """Say what a model, a gallery or a coreset holds.

    Parameters
    ----------
    path : Path
        A file or a folder. The checksum of a file is compared, and that of a folder's journal.
    verify : bool
        Compare those of all images in a folder, too.

    Yields
    ------
    (str, object)
        Something that it holds, and what that is.

    Raises
    ------
    StoreError
        If it is not one of ours, or damaged.
    """
    path = check_path(path)
    with as_damage(path, "what it says of itself"):
        yield from _contents(path, verify)


def _contents(path: Path, verify: bool) -> Iterator[tuple[str, object]]:
    in_folder = is_folder(path)
    is_model = not in_folder or is_there(path / MODEL)
    file = path / MODEL if in_folder else path
    store = _core.Store(file, True, not in_folder) if is_model else None
    yield "holds", "gallery" if store is None else store.kind
    if store is not None:
        yield "format version", store.metadata["format_version"]
        yield "checksum", f"BLAKE3 {store.metadata['checksum'][:16]}…, verified"
    yield ("folder" if in_folder else "file"), f"{size_of(path) / 1e6:.1f} MB"
    folder = (path / GALLERY if is_model else path) if in_folder else None
    yield from _of_searched(store, folder, verify)
    if store is not None:
        if "thumbnails.jpeg.ends" in store.names:
            yield "thumbnails", len(store.tensor("thumbnails.jpeg.ends"))
        yield from _of_corrections(corrections_of(path) if "config" in store.metadata else ())
        yield from _of_settings(path, store)


def _of_searched(
    store: _core.Store | None, folder: Path | None, verify: bool
) -> Iterator[tuple[str, object]]:
    """Say what is searched: the coreset of a file, or the gallery of a folder or a file."""
    metadata = {} if store is None else store.metadata
    n_variants = _n_variants(metadata, Path() if store is None else store.path)
    if store is not None and "coreset" in metadata:
        yield from _of_coreset(Coreset.from_store(store), n_variants)
    elif folder is not None:
        yield from _of_gallery(Gallery.open(folder, verify=verify), n_variants)
        checked = "verified" if verify else "compared when first used, or by --verify"
        yield "image checksums", checked
    elif store is not None and "gallery.ids" in metadata:
        yield from _of_gallery(Gallery.from_core(_core.Gallery.from_store(store)), n_variants)


def _of_settings(path: Path, store: _core.Store) -> Iterator[tuple[str, object]]:
    """Say what a model was made with, but for what is said of its features."""
    metadata = store.metadata
    is_searching = any(name in metadata for name in ("gallery.ids", "coreset", OF_IMAGES))
    said = {"upsample", "gallery_dtype", "thumbnails"} if is_searching else {"shapes"}
    config = parse_json(metadata.get("config", "{}"), path, "its settings")
    if "normal_map_max" in config:
        yield from _of_calibration(config, store)
    for name, value in config.items():
        if name in ("calibration", "false_alarm_rate", "fitted", "digests_are_in_order"):
            continue
        if name in _DESCRIBED:
            yield from _DESCRIBED[name](value)
        elif isinstance(value, dict):
            yield from ((f"{name} {key}".replace("_", " "), part) for key, part in value.items())
        elif name not in said:
            yield name.replace("_", " "), value


def _of_calibration(config: Mapping[str, Any], store: _core.Store) -> Iterator[tuple[str, object]]:
    """Say what decisions of a model promise."""
    rate = config.get("false_alarm_rate")
    about = config.get("calibration")
    if about is None:
        yield "calibration", "none, so that images have scores, and no verdicts"
        yield from () if rate is None else [("false alarm rate", rate)]
        return
    arrays = {
        name.removeprefix(CALIBRATION): store.tensor(name)
        for name in store.names
        if name.startswith(CALIBRATION)
    }
    calibration = Calibration.from_state(about, arrays)
    yield "calibration", calibration.summary
    yield "guarantee", calibration.promise
    if about["changed"]:
        names = ", ".join(about["changed"])
        yield "no verdicts", f"{names} changed since it was calibrated: calibrate it again"
    by_default = f"{calibration.rate(None):.4g} by default"
    yield "false alarm rate", by_default if rate is None else f"{rate:.4g}, as asked for"


def _of_corrections(corrections: Sequence[Correction]) -> Iterator[tuple[str, object]]:
    """Say how a model was corrected since it was fitted, and what is kept, but not used, by now."""
    if not corrections:
        return
    history = History(corrections)
    yield "corrections", f"{len(history)}, the last at {corrections[-1].time}"
    yield "added images", len(history.standing.added)
    if history.hidden:
        yield "removed images", f"{len(history.hidden)}, which are kept for rollback"
    if names := sorted(set(history.standing.defects.values())):
        yield "known defects", f"{len(history.standing.defects)} images: {some_ids(names)}"


def _of_border(factors: Any) -> Iterator[tuple[str, object]]:
    largest = max((max(row) for row in factors), default=1.0)
    yield "border", f"scores of {len(factors)} cells are divided by up to {largest:.2f}"


def _of_dropped(shares: Any) -> Iterator[tuple[str, object]]:
    most = sorted(shares, key=lambda id_: (-shares[id_], id_))[:3]
    named = ", ".join(f"{id_} ({shares[id_]:.0%})" for id_ in most)
    yield "dropped cells", f"of {len(shares)} images, most of {named}"


def _of_history(history: Any) -> Iterator[tuple[str, object]]:
    yield "epochs", len(history)
    yield from (
        (key.replace("_", " "), f"{loss:.4f} in the last") for key, loss in history[-1].items()
    )


def _of_mask(mask: Any) -> Iterator[tuple[str, object]]:
    if not isinstance(mask, dict):
        yield "mask", mask
        return
    region = Region.from_json(mask)
    height, width = region.size
    yield "mask", f"{height} x {width} pixels, of which {region.share:.1%} count"


def _of_views(views: Any) -> Iterator[tuple[str, object]]:
    for name, about in views.items():
        yield f"view {name}", f"{about['method']}, learnt from {about['images']} images"


def _of_regions(regions: Any) -> Iterator[tuple[str, object]]:
    for name, region in NamedRegions.from_json(regions).items():
        height, width = region.size
        yield f"region {name}", f"{height} x {width} pixels, of which {region.share:.1%} count"


def _of_sizes(sizes: Any) -> Iterator[tuple[str, object]]:
    height, width = sizes["most"]
    others = len(sizes["others"])
    yield "image sizes", f"{height} x {width}" + (f", {others} others" if others else "")


#: Settings that are not said as they are.
_DESCRIBED: dict[str, Callable[[Any], Iterator[tuple[str, object]]]] = {
    "border_factors": _of_border,
    "dropped": _of_dropped,
    "history": _of_history,
    "mask": _of_mask,
    "regions": _of_regions,
    "sizes": _of_sizes,
    "views": _of_views,
}


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _n_variants(metadata: Mapping[str, str], path: Path) -> int:
    """Return in how many variants each normal image of a model was learnt."""
    config = parse_json(metadata.get("config", "{}"), path, "its settings")
    variants = config.get("variants")
    return 1 if variants is None else len(Variants.parse(variants))


def _of_gallery(gallery: Gallery, n_variants: int) -> Iterator[tuple[str, object]]:
    yield "images", _count(len(gallery), n_variants)
    if gallery.n_removed:
        yield "removed", f"{gallery.n_removed} images, whose room compact() gives back"
    yield "features", f"{gallery.nbytes / 1e6:.1f} MB, {gallery.dtype}"
    yield "levels", _shapes(gallery.shapes) or "none yet"
    yield "upsample", gallery.upsample
    if isinstance(gallery, ShardedGallery):
        of_each = (f"{shard.name} {shard.n_images}" for shard in gallery.shards.shards)
        yield "images of shards", ", ".join(of_each)


def _of_coreset(coreset: Coreset, n_variants: int) -> Iterator[tuple[str, object]]:
    sq_radius = coreset.sq_radius
    yield "rows", len(coreset)
    yield "images", _count(len(coreset.image_ids), n_variants)
    yield "covering radius", "not known" if sq_radius is None else f"{sq_radius**0.5:.4g} (l2)"
    yield "features", f"{coreset.rows.nbytes / 1e6:.1f} MB, float32"
    yield "levels", _shapes(coreset.shapes)
    yield "upsample", coreset.upsample


def _count(n_stored: int, n_variants: int) -> object:
    n_images = n_stored // n_variants
    return n_images if n_variants == 1 else f"{n_images}, each in {n_variants} variants"


def _shapes(shapes: list[tuple[int, int, int]]) -> str:
    return " + ".join(f"{h}x{w}x{c}" for h, w, c in shapes)
