"""A face on textures, and a small network that was trained to find it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from knnspect import SiamMask
from knnspect.views import AlignedView, similarity

SIZE, PART, MIDDLE = (150, 190), (44, 36), (21.5, 17.5)


def picture(name: str) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = getattr(skimage.data, name)()
    return found


class Faces:
    """Frames with a face at a known place, and without."""

    def __init__(self) -> None:
        face = Image.fromarray(picture("astronaut")[34:210, 160:304]).reduce(4)
        rows, columns = np.indices(PART)
        shown = ((rows - MIDDLE[0]) / 22) ** 2 + ((columns - MIDDLE[1]) / 18) ** 2 < 1
        #: The picture of the template, and the mask of the face in it.
        self.template = np.full((90, 70, 3), 128, np.uint8)
        self.template[20:64, 15:51] = np.asarray(face)
        self.mask = np.zeros((90, 70), bool)
        self.mask[20:64, 15:51] = shown
        self.box = (20, 15, 64, 51)

    def ground(self, name: str, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
        ground = picture(name)
        if ground.ndim == 2:
            ground = np.repeat(ground[..., None], 3, axis=2)
        return np.ascontiguousarray(ground[: 2 * size[0] : 2, : 2 * size[1] : 2])

    def pasted(
        self,
        name: str,
        angle: float,
        scale: float,
        at: tuple[float, float],
        size: tuple[int, int] = SIZE,
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """A frame with the face, and where it is."""
        ground = self.ground(name, size)
        way = similarity(angle, scale, at=MIDDLE, to=at)
        view = AlignedView(PART, size, way)
        cut = view.cut(self.template[20:64, 15:51])
        back = AlignedView(size, PART, view.inverse)
        shown = back.to_image(self.mask[20:64, 15:51].astype(np.float32))
        frame = np.rint(cut * shown[..., None] + ground * (1 - shown[..., None])).astype(np.uint8)
        return frame, shown >= 0.5


@lru_cache
def the_faces() -> Faces:
    return Faces()


@lru_cache
def normal_frames() -> dict[str, NDArray[np.uint8]]:
    """Frames that show the face, for calibration."""
    return {
        f"{name} {angle}": the_faces().pasted(name, angle, scale, at)[0]
        for name, angle, scale, at in (
            ("grass", 10, 1.0, (60, 60)),
            ("gravel", -20, 1.1, (90, 130)),
            ("coffee", 35, 0.9, (75, 100)),
            ("moon", -45, 1.2, (70, 110)),
        )
    }


@lru_cache
def trained_locator() -> SiamMask:
    """Trained for some seconds, once a process: it finds the face, and draws it roughly."""
    faces, frames = the_faces(), normal_frames()
    locator = SiamMask(width=32, pairs=384, max_epochs=1, turn=60)
    return locator.fit(faces.template, mask=faces.mask, frames=frames)
