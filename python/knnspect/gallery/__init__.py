"""Normal features, kept and searched.

``gallery``         feature pyramids of normal images, in memory or in a folder
``reading``         what of a gallery changes nothing: looking at it
``searching``       searching it
``late_fusion``     searching each of its levels on its own
``coreset``         a few rows of a gallery, searched in place of all
``picking``         which rows these are
``coreset_file``    coresets in files
``rows_of_images``  searching those of some images
``pickling``        galleries as pickles hold them
``folder``          galleries in folders, as far as Python looks at them itself
``sharded``         galleries in several folders, as one
``open_shards``     these folders, changed together
``moving``          images that move when one is added or taken away
``shard_folders``   these folders, made and deleted
``manifest``        which they are
"""

from __future__ import annotations

from knnspect.gallery.coreset import Coreset
from knnspect.gallery.folder import is_gallery_folder
from knnspect.gallery.gallery import Gallery
from knnspect.gallery.late_fusion import LateFusion
from knnspect.gallery.reading import ReadOnlyGallery
from knnspect.gallery.sharded import ShardedGallery

__all__ = [
    "Coreset",
    "Gallery",
    "LateFusion",
    "ReadOnlyGallery",
    "ShardedGallery",
    "is_gallery_folder",
]
