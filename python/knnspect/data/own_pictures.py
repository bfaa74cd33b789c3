"""Pictures that knnspect wrote: they lie among images, and are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

__all__ = ["COLUMNS", "MAPS", "OVERLAYS", "SHEET", "SOFTWARE", "TABLE", "described", "own_pictures"]

#: What a folder of results holds: the folders of overlays and of maps, the table of scores, and
#: its columns: those that tables of every version begin with, and the later ones.
OVERLAYS, MAPS, TABLE = "overlays", "maps", "scores.csv"
_FIRST_COLUMNS = ("id", "score", "map_max", "relative", "row", "column", "nearest_image")
COLUMNS = (*_FIRST_COLUMNS, "p_value", "verdict", "n_regions", "known_defect")
#: Where the demonstration shows its finds.
SHEET = "contact_sheet.png"
#: The text by which a PNG of ours is recognised, under "Software".
SOFTWARE = "knnspect"

#: It is the first chunk after the header.
_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()
_MARK_AT = 8 + 25 + 4


def own_pictures(files: Iterable[Path]) -> dict[Path, Path]:
    """Return those of some files that are overlays or contact sheets of ours, and their folders.

    Only files in folders called ``overlays`` or ``maps`` and those called ``contact_sheet.png`` are
    opened. Links are followed.

    Parameters
    ----------
    files : iterable of pathlib.Path
        Any files.

    Returns
    -------
    dict of pathlib.Path to pathlib.Path
        Empty for other pictures.

    Examples
    --------
    >>> own_pictures([Path("no-such-folder/overlays/0.png")])
    {}
    """
    # Of each folder of files: the folders of overlays in which it is, if any.
    known: dict[Path, list[Path]] = {}
    tables: dict[Path, bool] = {}
    own: dict[Path, Path] = {}
    for file in files:
        real = file.resolve() if file.is_symlink() else file
        parent = real.parent
        if parent not in known:
            # Resolved once for a folder.
            place = parent.resolve()
            known[parent] = [up for up in (place, *place.parents) if up.name in (OVERLAYS, MAPS)]
        for overlays in known[parent]:
            if overlays not in tables:
                tables[overlays] = _is_own_table(overlays.parent / TABLE)
            if tables[overlays] or _is_marked(real):
                own[file] = overlays
                break
        else:
            if real.name == SHEET and _is_marked(real):
                own[file] = file.parent
    return own


def described(own: dict[Path, Path]) -> str:
    """Return where pictures of ours were found, in words."""
    (folder, n_first), *others = Counter(own.values()).most_common()
    rest = f" and {len(others)} other folders" if others else ""
    pictures = "picture" if len(own) == n_first == 1 else "pictures"
    return f"{len(own)} {pictures} that knnspect wrote, in {folder}{rest}"


def _is_own_table(file: Path) -> bool:
    # An overlay written by an earlier version has no mark, but a table beside it.
    return _begins_with(file, ",".join(_FIRST_COLUMNS).encode(), 0)


def _is_marked(file: Path) -> bool:
    return file.suffix.lower() == ".png" and _begins_with(file, _MARK, _MARK_AT)


def _begins_with(file: Path, expected: bytes, at: int) -> bool:
    try:
        # Asked before opening: opening a named pipe would wait for ever.
        if not file.is_file():
            return False
        with file.open("rb") as stream:
            return stream.read(at + len(expected))[at:] == expected
    except OSError:
        return False  # what is wrong with it is said when its turn has come
