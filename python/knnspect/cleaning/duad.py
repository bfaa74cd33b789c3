"""Which images of a folder are normal, where some may have defects: tight clusters keep them."""

from __future__ import annotations

from knnspect.constraints import Instance
from knnspect.data import open_to_learn
from knnspect.data.loading import OnBad
from knnspect.detectors.selecting import Selecting, Selection
from knnspect.detectors.selecting.duad import rows_of
from knnspect.features import Backbone, Extractor, Pixels
from knnspect.gallery import Gallery
from knnspect.normal_features import Run, extract
from knnspect.parameters import parameter

__all__ = ["Cleaner"]


class Cleaner(Selecting):
    """Selects the normal images of a folder, where some images may be defective.

    1. The images are clustered, by a mixture of Gaussians with diagonal covariances over their
       principal components. The variance of cluster i is ``v_i``, the mean of ``||x - mu_i||^2``
       over its images. Clusters are kept, tightest first, as long as they have at most the share
       ``1 - first_drop`` of all images, or less than half of that.
    2. An autoencoder learns the images that are kept, for `round_epochs`.
    3. All images, also those that were dropped, are clustered by their codes and by the cosine of
       the angle between what comes in and what comes out; clusters are kept as before, by `drop`.
       So an image that was dropped can come back.
    4. This goes on from 2 until a round changes nothing, or for `most_rounds`. Then what most of
       the rounds after the first one kept is kept.

    The same images under the same ids give the same selection, in whichever order they come, on the
    same machine with as many threads.

    Parameters
    ----------
    backbone : Backbone or Pixels, optional
        What describes images: a backbone by its pooled features, `Pixels` by all of them.
        ``Backbone()`` by default.

    Source
    ------
    Li, Yang, Chen, Liu and Tang, "Deep Unsupervised Anomaly Detection" (2021). Deviations:

    - `first_drop` and `drop` are shares of images, in whole clusters, where the paper has quantiles
      of the clusters' variances: these leave open how many images are kept, as clusters differ in
      size;
    - a cluster of less than a fifth of the mean size is dropped, however tight: copies of one
      defect, or a lone image, have no variance;
    - variances of the first round are taken over all features, not over the principal components,
      in which foreign images lose what makes them foreign;
    - code and cosine are scaled to the same variance, as that of codes is arbitrary;
    - where rounds do not settle, most of them decide and not the last one;
    - a mixture is fitted from five random starts, of which the likeliest counts;
    - by default images are described by pooled features of a frozen network, not by their pixels;
      the autoencoder has two layers to a code of 16 values, and two back.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(100, 120, (24, 64, 64, 3)).astype("u1")
    >>> images[:3, 10:40, 10:40] = rng.integers(0, 255, (3, 30, 30, 3))
    >>> found = Cleaner(Backbone(image_size=64), clusters=3).clean(images)
    >>> [id_ for id_ in found.kept if int(id_) < 3], len(found.images)
    ([], 24)
    """

    backbone: Extractor = parameter(
        Instance(Backbone, Pixels), default_factory=lambda: Backbone(), kw_only=False
    )

    def clean(
        self,
        images: object,
        *,
        batch_size: int = 16,
        n_workers: int = 2,
        skip_bad: bool | OnBad = False,
        progress: bool = False,
    ) -> Selection:
        """Return which images to keep; nothing is changed by this.

        Parameters
        ----------
        images : folder, file, list of paths, arrays or PIL images, array, or loader
            As `knnspect.data.open_images` takes them.
        batch_size, n_workers, skip_bad, progress
            As in `Detector.fit`.

        Returns
        -------
        Selection
            What is kept and what is dropped, and why.

        Raises
        ------
        ParameterError, DTypeError
            If a parameter lies outside its values, or there are fewer images than `clusters`.
        ImageError
            If an image cannot be used, there is none, all are alike, or everything would be
            dropped.
        MissingPackageError
            If PyTorch or scikit-learn is not installed.
        """
        self.check_params()
        self._require_to_select()
        run = Run(batch_size, n_workers, skip_bad, progress)
        normal = extract(self.backbone, open_to_learn(images), Gallery(), run)
        rows, device = rows_of(self.backbone, normal), self.backbone.torch_device
        return self._select(rows, normal.gallery.ids, device, progress)
