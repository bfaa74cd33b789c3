"""Models: saved and loaded they predict the same; what is damaged is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

import numpy as np

from knnspect.errors import ParameterError, StoreError
from knnspect.testing.checks import Checks, needed
from knnspect.testing.detectors.case import (
    DetectorCase,
    expect_same_normal,
    expect_same_predictions,
)
from knnspect.testing.expectations import expect, expect_equal, raises
from knnspect.testing.files import temporary_folder

__all__ = ["CHECKS", "ELSEWHERE", "expect_same_elsewhere"]

CHECKS: Checks[DetectorCase] = Checks()
#: Of methods that are registered: another process knows no others.
ELSEWHERE: Checks[DetectorCase] = Checks()


@CHECKS.add()
def models_predict_the_same_to_the_bit(case: DetectorCase) -> None:
    with temporary_folder() as folder:
        loaded = case.load(case.written(folder))
        expect_equal("class of the model", type(loaded), case.kind)
        found = loaded.predict(case.material.queries)
        expect_same_predictions("a model that was saved and loaded", found, case.predictions)
        expect_same_normal(loaded, case.fitted)


@CHECKS.add()
def models_are_the_same_when_saved_again(case: DetectorCase) -> None:
    with temporary_folder() as folder:
        case.load(case.written(folder)).save(folder / "again.ks")
        same = (folder / "again.ks").read_bytes() == case.saved
    expect(same, "a model that is loaded and saved: expected the same bytes")


@CHECKS.add()
def models_replace_the_file_that_was_there(case: DetectorCase) -> None:
    with temporary_folder() as folder:
        path = folder / "model.ks"
        path.write_text("something else, and longer" * 10**6)
        case.fitted.save(path)
        case.fitted.save(str(path))
        expect(path.read_bytes() == case.saved, "saved twice: expected the same bytes")
        expect_equal("files", list(folder.iterdir()), [path])


@CHECKS.add()
def models_may_be_replaced_while_they_are_in_use(case: DetectorCase) -> None:
    with temporary_folder() as folder:
        path = case.written(folder)
        loaded = case.load(path)
        loaded.save(path)
        found = loaded.predict(case.material.queries)
        expect_same_predictions("a model whose file was replaced", found, case.predictions)
        expect(path.read_bytes() == case.saved, "saved into its own file: expected the same bytes")


@CHECKS.add(place=["no/such/folder.ks", "a file/model.ks", "a folder"])
def models_cannot_be_written_everywhere(case: DetectorCase, place: str) -> None:
    with temporary_folder() as folder:
        (folder / "a file").touch()
        (folder / "a folder").mkdir()
        before = sorted(folder.rglob("*"))
        with raises(StoreError, place):
            case.fitted.save(folder / place)
        expect_equal("files", sorted(folder.rglob("*")), before)


@CHECKS.add()
def models_keep_the_old_file_when_the_disk_is_full(case: DetectorCase) -> None:
    resource = needed("resource", "which POSIX systems have, for limits of files")
    too_small = len(case.saved) // 2
    with temporary_folder() as folder:
        path = folder / "model.ks"
        path.write_text("the old one")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Python ignores SIGXFSZ, so that the write fails as it does without space.
        resource.setrlimit(resource.RLIMIT_FSIZE, (too_small, hard))
        try:
            with raises(StoreError, r"model\.ks: cannot be written"):
                case.fitted.save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        expect_equal("the file", path.read_text(), "the old one")
        expect_equal("files", list(folder.iterdir()), [path])


@CHECKS.add()
def models_are_refused_on_a_device_that_is_not_there(case: DetectorCase) -> None:
    with temporary_folder() as folder, raises(ParameterError, "device: 'nope'"):
        case.load(case.written(folder), device="nope")


@CHECKS.add()
def models_altered_in_one_byte_are_refused(case: DetectorCase) -> None:
    contents = bytearray(case.saved)
    header = 8 + int.from_bytes(contents[:8], "little")
    places = [0, 7, 8, 9, *range(20, header, 997), header, len(contents) // 2, -1]
    with temporary_folder() as folder:
        path = folder / "altered.ks"
        for place in places:
            contents[place] ^= 1
            path.write_bytes(contents)
            contents[place] ^= 1
            with raises(StoreError, r"altered\.ks", f"byte {place} altered"):
                case.load(path)


@CHECKS.add()
def models_cut_off_or_longer_are_refused(case: DetectorCase) -> None:
    contents = case.saved
    with temporary_folder() as folder:
        path = folder / "cut.ks"
        for n_bytes in (0, 1, 7, 8, 9, 500, 5000, len(contents) // 2, len(contents) - 1):
            path.write_bytes(contents[:n_bytes])
            with raises(StoreError, r"cut\.ks", f"cut off after {n_bytes} bytes"):
                case.load(path)
        path.write_bytes(contents + b"\0")
        with raises(StoreError, r"cut\.ks", "a byte longer"):
            case.load(path)


@CHECKS.add()
def models_of_a_newer_format_are_refused(case: DetectorCase) -> None:
    newer, n_versions = re.subn(rb'"format_version":"\d"', b'"format_version":"9"', case.saved)
    expect_equal("versions in the file", n_versions, 1)
    with temporary_folder() as folder:
        (folder / "newer.ks").write_bytes(newer)
        with raises(StoreError, r"newer\.ks: .*newer knnspect.*9"):
            case.load(folder / "newer.ks")


_PREDICT = """
import sys, numpy as np, knnspect as ks
images = dict(np.load('queries.npz'))
for name in sys.argv[1:]:
    found = ks.load(name).predict(images)
    np.savez(name, scores=[p.score for p in found], **{p.id: p.map for p in found})
"""


def expect_same_elsewhere(cases: Mapping[str, DetectorCase]) -> None:
    """Raise an AssertionError unless models predict the same in another process and place."""
    with temporary_folder() as folder:
        (folder / "here").mkdir()
        (folder / "there").mkdir()
        for number, case in enumerate(cases.values()):
            case.fitted.save(folder / "here" / str(number))
            (folder / "here" / str(number)).rename(folder / "there" / str(number))
            np.savez(folder / "there" / "queries.npz", **case.material.queries)
        numbers = map(str, range(len(cases)))
        command = [sys.executable, "-c", _PREDICT, *numbers]
        subprocess.run(command, cwd=folder / "there", check=True)  # noqa: S603 - our own
        for number, (name, case) in enumerate(cases.items()):
            with np.load(folder / "there" / f"{number}.npz") as found:
                scores = [p.score for p in case.predictions]
                expect_equal(f"{name}: scores elsewhere", found["scores"].tolist(), scores)
                for p in case.predictions:
                    np.testing.assert_array_equal(found[p.id], p.map, f"{name}: map of {p.id}")


@ELSEWHERE.add()
def models_predict_the_same_in_another_process_and_another_place(case: DetectorCase) -> None:
    expect_same_elsewhere({repr(case): case})
