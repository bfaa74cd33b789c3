"""The command ``knnspect clean``, and what `fit` has of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from knnspect.cli.left_out import LeftOut
from knnspect.cli.options import BatchSize, Config, SkipBad, Workers
from knnspect.cli.places import check_writable
from knnspect.cli.printing import print_table

if TYPE_CHECKING:
    from knnspect.cleaning import Cleaner, Selection
    from knnspect.data import ImageSource

__all__ = ["clean", "cleaned", "say_dropped"]

#: So many images are named on the terminal.
_NAMED = 3


def clean(
    images: Annotated[Path, typer.Argument(help="Folder of images, of which most are normal.")],
    output: Annotated[
        Path, typer.Option(help="Write the dropped images to this list, for `fit --without`.")
    ],
    *,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a page of HTML with the dropped images, and why."),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="What describes images: a timm model, an ONNX file, or pixels.")
    ] = "efficientnet_lite0",
    image_size: Annotated[
        str | None,
        typer.Option(
            help="Height and width, or one for both; 224 by default, 64 of pixels.",
            metavar="INT[xINT]",
        ),
    ] = None,
    clusters: Annotated[int, typer.Option(help="Clusters that images may belong to.")] = 10,
    drop: Annotated[
        float, typer.Option(help="The share of images that is dropped, in whole clusters.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(help="Decides all that is random.")] = 0,
    config: Config = None,  # noqa: ARG001 - it was read before
    batch_size: BatchSize = 16,
    workers: Workers = 2,
    skip_bad: SkipBad = False,
) -> None:
    """Find the normal images of a folder that has defective ones, too."""
    from knnspect.data import open_to_learn

    for file in (output, report):
        if file is not None:
            check_writable(file)
    cleaner = _cleaner(backbone, image_size).set_params(clusters=clusters, drop=drop, seed=seed)
    left_out = LeftOut()
    source = open_to_learn(images)
    found = cleaner.clean(
        source,
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=left_out if skip_bad else False,
        progress=True,
    )
    print_table(f"{images}: {len(found.images)} images", _rows(found))
    if report is not None:
        from knnspect.report.html import write_selection

        write_selection(report, found, source, str(images), left_out.reasons)
        typer.echo(f"{report}: {len(found.dropped)} dropped images", err=True)
    say_dropped(found, output)
    if left_out.reasons:
        typer.echo(left_out.summary().lstrip(", "), err=True)


def cleaned(
    source: ImageSource, cleaner: Cleaner, listed: Path, batch_size: int, workers: int, skip: bool
) -> ImageSource:
    """Return the normal images of a source, and say which are dropped, also in a list."""
    from knnspect.data import ImageSource

    items = list(source)
    found = cleaner.clean(
        ImageSource(items, len(items)),
        batch_size=batch_size,
        n_workers=workers,
        skip_bad=(lambda *_: None) if skip else False,  # `fit` says it
        progress=True,
    )
    say_dropped(found, listed)
    dropped = {image.id for image in found.dropped}
    kept = [item for item in items if item.id not in dropped]
    return ImageSource(kept, len(kept))


def say_dropped(found: Selection, listed: Path) -> None:
    """Write the ids of the dropped images to a list, and say how many there are."""
    from knnspect.files import replace_file

    ids = sorted(image.id for image in found.dropped)
    text = "".join(f"{id_}\n" for id_ in ids)
    replace_file(listed, text.encode("utf-8", "surrogateescape"))
    typer.echo(f"{listed}: {len(ids)} of {len(found.images)} images are dropped", err=True)


def _cleaner(backbone: str, image_size: str | None) -> Cleaner:
    from knnspect.cleaning import Cleaner
    from knnspect.features import Backbone, Pixels

    made = Pixels() if backbone == "pixels" else Backbone(backbone)
    if image_size is not None:
        size = made.parameters["image_size"].constraint.parse("--image-size", image_size)
        made.set_params(image_size=size)
    return Cleaner(made)


def _rows(found: Selection) -> dict[str, str]:
    """Return what was found, in words."""
    n_rounds = len(found.rounds) - 1
    last = "the last changed nothing"
    if not found.is_settled:
        last = f"the last changed {found.rounds[-1].n_changed} images"
    rows = {
        "kept": str(len(found.kept)),
        "dropped": str(len(found.dropped)),
        "rounds": f"{n_rounds} after the first; {last}",
    }
    for number, image in enumerate(found.dropped[:_NAMED]):
        rows["most unlike others" if number == 0 else " " * number] = (
            f"{image.id}: {found.reason(image)}"
        )
    borderline = found.borderline
    named = "".join(f", {image.id}" for image in borderline[:_NAMED]).lstrip(", ")
    rows["borderline"] = f"{len(borderline)}: {named}" if borderline else "none"
    return rows
