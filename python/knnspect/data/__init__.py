"""Read, check and resize images: from folders, arrays or loaders to batches for a network.

Uses Pillow, tifffile, imagecodecs and NumPy; torch tensors are recognised without importing torch.

- ``images``: one image, read from a file or checked as an array.
- ``reader``: all images of a run, by one white level and one limit of size.
- ``white``: the white level of a set of images.
- ``formats``, ``decoding``, ``tiff``, ``decoded``: from a file to its pixels, and to an image.
- ``folders``: which files of a folder are images.
- ``geometry``: how an image meets the network's input size, and a map finds its way back.
- ``own_size``: the same for images that are not resized, window by window.
- ``axes``: the same along one axis.
- ``sources``: whatever images come as, one after the other, each with an id.
- ``sequences``: frames of videos and numbered folders, in their order.
- ``own_pictures``: overlays of ours, which are no images.
- ``purposes``: sources of images to learn from, and of images to judge.
- ``loading``: from a source to batches, decoded ahead in threads.
- ``scenes``: images of any number of bands.
- ``mvtec``: data sets in the layout of MVTec AD.
- ``masks``: which pixels are defective.
- ``labels``: what is known about a data set's test images, checked before the work.
- ``elpv``: real images of solar cells to try things on.
"""

from knnspect.data.elpv import ElpvSplit, elpv_split
from knnspect.data.folders import list_images
from knnspect.data.geometry import Geometry
from knnspect.data.images import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    ImageArray,
    check_image,
    image_from_pillow,
    read_image,
)
from knnspect.data.labels import Labels, Need
from knnspect.data.loading import Batch, iterate_batches
from knnspect.data.masks import read_mask
from knnspect.data.mvtec import MVTecDataset, TestImage
from knnspect.data.purposes import open_to_judge, open_to_learn
from knnspect.data.reader import ImageReader
from knnspect.data.sequences import open_sequence
from knnspect.data.sources import ImageItem, ImageSource, open_images
from knnspect.data.white import find_white

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Batch",
    "ElpvSplit",
    "Geometry",
    "ImageArray",
    "ImageItem",
    "ImageReader",
    "ImageSource",
    "Labels",
    "MVTecDataset",
    "Need",
    "TestImage",
    "check_image",
    "elpv_split",
    "find_white",
    "image_from_pillow",
    "iterate_batches",
    "list_images",
    "open_images",
    "open_sequence",
    "open_to_judge",
    "open_to_learn",
    "read_image",
    "read_mask",
]
