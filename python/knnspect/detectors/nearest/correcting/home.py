"""The folder of a model that is corrected there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from knnspect.corrections import Journal
from knnspect.files import replace_file
from knnspect.gallery import Gallery
from knnspect.model_files.layout import CORRECTIONS
from knnspect.normal_features import NormalFeatures
from knnspect.normal_features.folder import GALLERY, IMAGES, forget, rows_about

__all__ = ["add_to", "bring_journal", "warn_of_corrections", "writing"]

#: Images that are written at a time.
_BATCH = 64


@contextmanager
def writing(folder: Path | None) -> Iterator[Gallery | None]:
    """Keep other processes from writing to a model's folder; None stands for memory.

    Yields
    ------
    Gallery or None
        The gallery of the folder, open for writing; it can be searched when it is closed, too.

    Raises
    ------
    StoreError
        If another process writes there, or the folder cannot be written.
    """
    if folder is None:
        yield None
        return
    with Gallery.open(folder / GALLERY, "r+") as gallery:
        yield gallery


def add_to(gallery: Gallery, folder: Path, normal: NormalFeatures) -> None:
    """Put images into a model's folder, and in place of what a killed process has left of them."""
    ids, variants = normal.gallery.ids, normal.stored.variants
    images = [id_ if variants is None else variants.split(id_)[0] for id_ in ids]
    with Gallery.open(folder / IMAGES, "r+") as about:
        forget(ids, gallery, about)
        sizes = [normal.sizes[image] for image in images]
        about.add(rows_about(normal.pooled, sizes, [normal.digests[i] for i in images]), ids)
        for part in _parts(ids):
            gallery.add(normal.gallery.pyramid(part), part)


def bring_journal(journal: Journal, folder: Path, is_home: bool, was_home: bool) -> Journal:
    """Bring the journal of a folder to that of the model that is about to be written there.

    Return it as it is there.

    Raises
    ------
    StoreError
        If another process has corrected the model meanwhile, or the file cannot be written.
    """
    file = folder / CORRECTIONS
    if was_home:
        journal.check(file)
    elif is_home and len(journal.history):
        contents = journal.to_bytes()
        replace_file(file, contents, follow_links=False)
        journal = Journal.parse(contents, file)
    else:  # of a model that was there before
        file.unlink(missing_ok=True)
    return journal


def warn_of_corrections(folder: Path) -> None:
    """Warn that a fit in the folder of a model starts anew, if the model was corrected."""
    journal = Journal.read(folder / CORRECTIONS)
    if journal is None or not len(journal.history):
        return
    n, n_added = len(journal.history), len(journal.history.standing.added)
    warnings.warn(
        f"{folder}: the model there has had {n} correction{'s' if n > 1 else ''}, which do not "
        f"hold for the new fit: {n_added} image{' that was' if n_added == 1 else 's that were'} "
        "added are learnt only if they are among the images",
        stacklevel=5,
    )


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _BATCH):
        yield ids[start : start + _BATCH]
