"""A part that is found first: judged upright, shown in the image as it came."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image

import knnspect as ks
from knnspect import Aligned, ImageError, ImageWarning, NotFittedError, ParameterError, StoreError
from knnspect.detectors.prediction import Prediction
from knnspect.locators import FoundPart
from knnspect.views import AlignedView, similarity

SIZE, PART = (110, 140), (48, 48)
Frames = dict[str, NDArray[np.uint8]]


def part(seed: int, defective: bool = False) -> NDArray[np.uint8]:
    """A face, a little brighter or darker; a black square in it is a defect."""
    whole: NDArray[np.uint8] = skimage.data.astronaut()  # type: ignore[no-untyped-call]
    face = Image.fromarray(whole[10:202, 130:322]).reduce(4)
    pixels = np.asarray(face, np.int16) + np.random.default_rng(seed).integers(-12, 13)
    if defective:
        pixels[20:29, 25:34] = 0
    return pixels.clip(0, 255).astype(np.uint8)


def frame(
    seed: int, angle: float, at: tuple[float, float], defective: bool = False
) -> NDArray[np.uint8]:
    ground = np.full((*SIZE, 3), 116, np.uint8)
    view = AlignedView(PART, SIZE, similarity(angle, 1.0, at=(23.5, 23.5), to=at))
    shown = AlignedView(SIZE, PART, view.inverse).to_image(np.ones(PART)) > 0.5
    ground[shown] = view.cut(part(seed, defective))[shown]
    return ground


@pytest.fixture(scope="module")
def normal() -> Frames:
    random = np.random.default_rng(0)
    return {
        f"normal {n}": frame(
            n, 90 * n + 5 * random.uniform(-1, 1), tuple(random.uniform(45, 65, 2))
        )
        for n in range(9)
    }


@pytest.fixture(scope="module")
def locator() -> ks.GoldenTemplate:
    backbone = ks.Backbone(levels=(1, 2), image_size=128, resize="pad")
    found = ks.GoldenTemplate(backbone, turns=8, smallest=1, largest=1, scales=1)
    return found.fit(part(100), box=(0, 0, *PART))


@pytest.fixture(scope="module")
def detector() -> ks.PatchCore:
    return ks.PatchCore(ks.Backbone(levels=(1, 2), image_size=64, patch_size=3), coreset=None)


@pytest.fixture(scope="module")
def aligned(detector: ks.PatchCore, locator: ks.GoldenTemplate, normal: Frames) -> Aligned:
    return Aligned(detector, locator=locator).fit(normal)


@pytest.fixture(scope="module")
def judged(aligned: Aligned) -> list[Prediction]:
    images = [
        frame(20, 140, (50, 80)),
        frame(21, -60, (52, 70), defective=True),
        np.full((*SIZE, 3), 116, np.uint8),
    ]
    return list(aligned.iter_predict(images, keep_pictures=True))


def test_the_defect_lies_where_it_is_in_the_image(judged: list[Prediction]) -> None:
    good, bad, _ = judged
    assert good.map.shape == bad.map.shape == SIZE
    assert bad.score > 1.5 * good.score
    there = similarity(-60, 1.0, at=(23.5, 23.5), to=(52, 70)) @ (24, 29, 1)
    peak = np.unravel_index(int(bad.map.argmax()), SIZE)
    assert np.hypot(*(np.array(peak) - there)) < 6
    box = bad.regions[0].box
    assert box.top <= there[0] <= box.bottom
    assert box.left <= there[1] <= box.right
    evidence = bad.evidence(int(peak[0]), int(peak[1]))
    assert evidence is not None
    assert evidence.image.startswith("normal")
    assert evidence.box.top - 1 <= peak[0] <= evidence.box.bottom + 1
    assert evidence.box.left - 1 <= peak[1] <= evidence.box.right + 1


def test_it_says_the_same_as_locating_and_judging_by_hand(
    detector: ks.PatchCore, locator: ks.GoldenTemplate, normal: Frames, judged: list[Prediction]
) -> None:
    by_hand = deepcopy(detector).fit(locator.aligned(normal))
    images = locator.aligned({"a": frame(21, -60, (52, 70), defective=True)})
    (expected,) = by_hand.predict(images)
    found = judged[1]
    assert found.score == expected.score
    assert found.p_value == expected.p_value
    np.testing.assert_array_equal(found.map, images.to_image("a", expected.map))
    assert found.found is not None
    np.testing.assert_array_equal(found.found.matrix, images.parts["a"].matrix)


def test_beside_the_part_the_map_is_zero(judged: list[Prediction]) -> None:
    assert judged[0].map[0, 0] == judged[0].map[-1, -1] == 0
    assert judged[0].map.max() > 0


def test_a_part_that_is_not_found_is_a_verdict(judged: list[Prediction]) -> None:
    good, _, empty = judged
    assert good.verdict == "normal"
    assert good.is_found
    assert empty.verdict == "not found"
    assert empty.score == np.inf
    assert empty.is_anomalous
    assert not empty.is_found
    assert empty.regions == []
    assert empty.picture is not None
    assert empty.picture.shape == (*SIZE, 3)


def test_it_can_be_an_error_that_is_skipped(aligned: Aligned) -> None:
    strict = deepcopy(aligned).set_params(not_found="error")
    images = {"a": frame(20, 140, (50, 80)), "b": np.full((*SIZE, 3), 116, np.uint8)}
    with pytest.raises(ImageError, match="image b: the part was not found: its score is"):
        strict.predict(images)
    with pytest.warns(ImageWarning, match="left out image b"):
        predictions = strict.predict(images, skip_bad=True)
    assert [each.id for each in predictions] == ["a"]
    left_out: list[str] = []
    assert len(strict.predict(images, skip_bad=lambda id_, _: left_out.append(id_))) == 1
    assert left_out == ["b"]


def test_a_normal_image_without_the_part_cannot_be_learnt(aligned: Aligned, normal: Frames) -> None:
    images = {**normal, "empty": np.full((*SIZE, 3), 116, np.uint8)}
    fresh = Aligned(aligned.detector, locator=aligned.locator)
    with pytest.raises(ImageError, match="image empty: the part was not found"):
        fresh.fit(images)
    with pytest.warns(ImageWarning, match="left out image empty"):
        fresh.fit(images, skip_bad=True)
    assert fresh.n_images_ == 9


class Counting(ks.GoldenTemplate):
    """Counts how often it looks for the part in each image."""

    seen: ClassVar[dict[str, int]] = {}

    def _located(self, item: object, image: object) -> FoundPart:
        found = super()._located(item, image)  # type: ignore[arg-type]
        self.seen[found.image_id] = self.seen.get(found.image_id, 0) + 1
        return found


def test_each_image_is_located_once(
    detector: ks.PatchCore, locator: ks.GoldenTemplate, normal: Frames
) -> None:
    counting = Counting(**locator.get_params(deep=False))
    counting.restore(locator.part_, None)
    fitted = Aligned(detector, locator=counting).fit(normal)
    fitted.predict({"judged": normal["normal 1"]})
    assert counting.seen == dict.fromkeys([*normal, "judged"], 1)


def test_a_margin_shows_more(aligned: Aligned, normal: Frames) -> None:
    wide = Aligned(aligned.detector, locator=aligned.locator, margin=0.25).fit(normal)
    image = [frame(20, 140, (50, 80))]
    n_narrow, n_wide = ((each.predict(image)[0].map != 0).sum() for each in (aligned, wide))
    assert n_wide / n_narrow == pytest.approx(1.5**2, rel=0.15)


def test_saved_and_loaded_it_says_the_same(
    aligned: Aligned, judged: list[Prediction], tmp_path: Path
) -> None:
    file = tmp_path / "part.ks"
    aligned.set_params(false_alarm_rate=0.2).save(file)
    aligned.set_params(false_alarm_rate=None)
    loaded = ks.load(file)
    assert isinstance(loaded, Aligned)
    assert loaded.false_alarm_rate == 0.2
    (prediction,) = loaded.predict([frame(21, -60, (52, 70), defective=True)])
    assert prediction.score == judged[1].score
    np.testing.assert_array_equal(prediction.map, judged[1].map)
    assert prediction.p_value == judged[1].p_value
    assert loaded.n_images_ == 9
    # The weights are there once, for the detector and once for the locator.
    alone = tmp_path / "alone.ks"
    aligned.views_["part"].save(alone)
    assert file.stat().st_size < 2.2 * alone.stat().st_size


def test_a_damaged_file_is_refused(aligned: Aligned, tmp_path: Path) -> None:
    file = tmp_path / "part.ks"
    aligned.save(file)
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(StoreError, match=r"part\.ks.*damaged"):
        ks.load(file)
    with pytest.raises(StoreError, match="expected a file, it is a folder"):
        aligned.save(tmp_path)


def test_it_is_pickled(aligned: Aligned, judged: list[Prediction]) -> None:
    other = pickle.loads(pickle.dumps(aligned))
    assert other.predict([frame(20, 140, (50, 80))])[0].score == judged[0].score


def test_it_is_calibrated_by_images_that_were_not_learnt_from(aligned: Aligned) -> None:
    other = deepcopy(aligned)
    held_out = {f"new {n}": frame(40 + n, 30 * n, (50, 70)) for n in range(5)}
    other.calibrate(held_out)
    assert other.calibration_ is not None
    assert other.calibration_.kind == "held out"
    assert len(other.calibration_) == 5
    assert aligned.calibration_ is not None
    assert aligned.calibration_.kind != "held out"


def test_images_that_were_learnt_from_do_not_calibrate(aligned: Aligned, normal: Frames) -> None:
    before = aligned.calibration_
    with pytest.raises(ks.CalibrationError, match="2 of the 2 calibration images were learnt from"):
        aligned.calibrate({name: normal[name] for name in ("normal 0", "normal 3")})
    assert aligned.calibration_ is before


def test_what_it_cannot_is_said(aligned: Aligned) -> None:
    with pytest.raises(AttributeError, match=r"a composed detector \(aligned\) cannot add: fit it"):
        _ = aligned.add
    assert not hasattr(aligned, "reject")
    with pytest.raises(NotFittedError, match="this Aligned is not fitted yet"):
        Aligned().predict([frame(0, 0, (50, 50))])
    with pytest.raises(NotFittedError, match="this GoldenTemplate is not fitted yet"):
        Aligned(aligned.detector).fit([frame(0, 0, (50, 50))])
    with pytest.raises(ks.DTypeError, match="detector: expected a detector, got str"):
        Aligned("spade").fit([frame(0, 0, (50, 50))])  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="not_found: expected"):
        Aligned(not_found="skip").check_params()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A part that is cut by the border is a warning, which is no matter here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "image .*beyond the border", ImageWarning)
        yield
