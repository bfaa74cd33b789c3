"""The command ``knnspect check``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.left_out import LeftOut
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers
from knnspect.cli.places import check_writable
from knnspect.cli.printing import print_table

if TYPE_CHECKING:
    from knnspect.cleaning import ImageCheck
    from knnspect.data import ImageSource

__all__ = ["check", "without_listed"]

#: So many images of a kind are named on the terminal.
_NAMED = 3


def check(
    images: Annotated[Path, typer.Argument(help="Folder of normal images.")],
    *,
    drop: Annotated[
        Path | None,
        typer.Option(help="Write the outliers and copies to this list, for `fit --without`."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a picture of the images that are most unlike others.")
    ] = None,
    config: Config = None,  # noqa: ARG001 - it was read before
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Find training images that do not belong: outliers, copies, other sizes."""
    from knnspect.cleaning import check_images
    from knnspect.data import open_to_learn
    from knnspect.files import replace_file

    for file in (drop, sheet):
        if file is not None:
            check_writable(file)
    left_out = LeftOut()
    source = open_to_learn(images)
    found = check_images(
        source,
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
        progress=True,
    )
    print_table(f"{images}: {found.n_images} images", _rows(found))
    if drop is not None:
        text = "".join(f"{id_}\n" for id_ in found.to_drop)
        replace_file(drop, text.encode("utf-8", "surrogateescape"))
        typer.echo(f"{drop}: {len(found.to_drop)} images", err=True)
    if sheet is not None:
        _write_sheet(sheet, found, source)
    if left_out.reasons:
        typer.echo(left_out.summary().lstrip(", "), err=True)


def without_listed(source: ImageSource, listed: Path) -> ImageSource:
    """Return the images of a source that a list does not name, and say how many it names.

    Raises
    ------
    StoreError
        If the list cannot be read.
    """
    from knnspect.data import ImageSource
    from knnspect.errors import ImageError, StoreError

    try:
        lines = listed.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise StoreError(f"{listed}: cannot be read ({error.strerror})", path=listed) from error
    named = {line for line in lines if line}
    items = list(source)
    kept = [item for item in items if item.id not in named]
    unknown = named.difference(item.id for item in items)
    said = f"{listed}: {len(items) - len(kept)} of {len(items)} images are left out"
    if unknown:
        said += f"; {len(unknown)} that it names are not there, such as {min(unknown)}"
    typer.echo(said, err=True)
    if not kept:
        raise ImageError(f"{listed}: names all images", path=listed)
    return ImageSource(kept, len(kept))


def _rows(found: ImageCheck) -> dict[str, str]:
    """Return what was found, in words."""
    if found.limit == float("inf"):
        outliers = f"not told among fewer than 8 images, of which {len(found.scores)} have a score"
    else:
        times = {id_: found.scores[id_] / found.limit for id_ in found.outliers}
        outliers = _named([f"{id_} ({n:.2f} of the limit)" for id_, n in times.items()])
    rows = {
        "outliers": outliers,
        "copies": _named([" = ".join(group) for group in found.copies]),
        "near-duplicates": _named([" ~ ".join(pair) for pair in found.near_duplicates]),
        "other sizes": _named([f"{h} x {w}: {_named(ids)}" for (h, w), ids in found.sizes.items()]),
        "other pixels": _named([f"{mode}: {_named(ids)}" for mode, ids in found.modes.items()]),
    }
    if found.odd:
        rows["most unlike others"] = _named([each.id for each in found.odd])
    return rows


def _named(words: Collection[str]) -> str:
    """Return some words, and how many there are.

    >>> _named([]), _named(["a", "b"]), _named("abcde")
    ('none', '2: a, b', '5: a, b, c, …')
    """
    if not words:
        return "none"
    shown: Iterable[str] = list(words)[:_NAMED]
    more = ", …" if len(words) > _NAMED else ""
    return f"{len(words)}: {', '.join(shown)}{more}"


def _write_sheet(file: Path, found: ImageCheck, source: ImageSource) -> None:
    from knnspect.report import SheetEntry, contact_sheet, save_png

    items = {item.id: item for item in source}
    entries = [
        SheetEntry(
            items[each.id].load(),
            each.map,
            each.id,
            f"{each.score:.4g}" + (", outlier" if each.is_outlier else ""),
        )
        for each in found.odd
    ]
    if not entries:
        typer.echo(f"{file}: no image could be compared with others: no sheet", err=True)
        return
    largest = max(float(entry.map.max()) for entry in entries)
    title = f"{len(entries)} of {found.n_images} images, most unlike the others first"
    subtitle = f"outliers score above {found.limit:.4g}"
    if found.limit == float("inf"):
        subtitle = "too few images to call any an outlier"
    save_png(contact_sheet(entries, title, subtitle, largest or 1.0), file)
    typer.echo(f"{file}: {len(entries)} images", err=True)
