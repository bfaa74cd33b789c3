"""DUAD: tight clusters and an autoencoder, in turns, say which images are normal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnspect.constraints import Count, Positive
from knnspect.detectors.selecting.clusters import Clusters, clusters_of
from knnspect.detectors.selecting.selection import Round, SelectedImage, Selection
from knnspect.errors import ImageError, ParameterError
from knnspect.extras import require
from knnspect.features import Extractor, Pixels
from knnspect.forked import fork_safe
from knnspect.normal_features import NormalFeatures
from knnspect.parameters import Parametrized, parameter
from knnspect.progress import Progress

if TYPE_CHECKING:
    from knnspect.detectors.heads.networks.autoencoder import RowNetwork

__all__ = ["Selecting", "rows_of"]

_LARGEST_SEED = 2**63 - 1


class Selecting(Parametrized):
    """Keeps the images of tight clusters, of images and then of an autoencoder's codes.

    Parameters
    ----------
    clusters : int, default 10
        Components of the mixture of Gaussians, from 2 to the number of images.
    components : int, default 30
        Principal components of the images in which they are clustered at first; fewer where there
        are no more.
    first_drop : float, default 0.35
        The share of images that the first round drops, in whole clusters, those of the largest
        variances.
    drop : float, default 0.3
        The same for the rounds after it.
    most_rounds : int, default 10
        Rounds after the first one, unless one of them changes nothing.
    round_epochs : int, default 10
        Passes of the autoencoder through the images that are kept, between two rounds.
    latent_size : int, default 16
        Values of an autoencoder's code.
    hidden : int, default 128
        Width of an autoencoder's inner layers.
    seed : int, default 0
        Decides the clusters' random starts, the weights at the beginning, and the order in which
        images are learnt.
    """

    clusters: int = parameter(Count(minimum=2), default=10)
    components: int = parameter(Count(), default=30)
    first_drop: float = parameter(Positive(below=1), default=0.35)
    drop: float = parameter(Positive(below=1), default=0.3)
    most_rounds: int = parameter(Count(), default=10)
    round_epochs: int = parameter(Count(), default=10)
    latent_size: int = parameter(Count(), default=16)
    hidden: int = parameter(Count(), default=128)
    seed: int = parameter(Count(minimum=0, maximum=_LARGEST_SEED), default=0)

    def _require_to_select(self) -> None:
        """Raise a MissingPackageError, before the work, if images cannot be selected here."""
        require("sklearn", "torch", for_="selecting normal images")

    def _select(
        self,
        rows: NDArray[np.float32],
        ids: Sequence[str],
        device: object = "cpu",
        progress: bool = False,
    ) -> Selection:
        """Return which images are normal.

        Parameters
        ----------
        rows : ndarray of float32, shape (n_images, n_features)
            What describes them.
        ids : sequence of str
            Their ids; the order does not matter.
        device : torch.device or str
            Where the autoencoder is trained.
        progress : bool
            Report progress on standard error.

        Raises
        ------
        ParameterError
            If there are fewer images than clusters.
        ImageError
            If all images are alike, or no cluster is large enough to be kept.
        """
        if len(ids) < self.clusters:
            raise ParameterError(
                f"clusters: expected at most the number of images, {len(ids)}, got {self.clusters}",
                parameter="clusters",
            )
        order = sorted(range(len(ids)), key=ids.__getitem__)
        names = [ids[place] for place in order]
        scaled = _scaled(np.asarray(rows, np.float64)[order])
        found = clusters_of(self._principal(scaled), self.clusters, self.seed, scaled)
        kept = [self._tight(found, self.first_drop)]
        rounds = [_round(kept[0], np.zeros_like(kept[0]))]
        network = self._new_rows_network(scaled.shape[1], device)
        errors = np.zeros(len(names))
        with Progress("selecting", self.most_rounds, progress, "rounds") as report:
            while len(kept) <= self.most_rounds and (len(kept) == 1 or rounds[-1].n_changed):
                codes, errors = self._learn_rows(network, scaled, names, kept)
                found = clusters_of(codes, self.clusters, self.seed)
                kept.append(self._tight(found, self.drop))
                rounds.append(_round(kept[-1], kept[-2]))
                report.advance(1)
                report.note(f"{rounds[-1].n_kept} kept, {rounds[-1].n_changed} changed")
        rounds_kept, is_kept = np.sum(kept, axis=0), kept[-1]
        if rounds[-1].n_changed:  # else the last round would decide, which is one of many
            by_most = np.mean(kept[1:], axis=0) > 0.5
            is_kept = by_most if by_most.any() else is_kept
        images = [
            SelectedImage(
                names[place],
                bool(is_kept[place]),
                (label := int(found.labels[place])),
                int(found.counts[label]),
                float(found.variances[label]),
                float(found.sq_distances[place]),
                float(errors[place]),
                int(rounds_kept[place]),
            )
            for place in range(len(names))
        ]
        return Selection(images, found.limit(self.drop), found.fewest, rounds)

    def _tight(self, found: Clusters, drop: float) -> NDArray[np.bool_]:
        tight = found.is_tight(drop)
        if not tight.any():
            raise ImageError(
                f"images: everything is dropped, as no cluster of {len(tight)} images has "
                f"{found.fewest} of them: expected fewer clusters than {self.clusters}"
            )
        return tight

    @fork_safe
    def _principal(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the images' principal components."""
        left, values, _ = np.linalg.svd(scaled, full_matrices=False)
        components: NDArray[np.float64] = (left * values)[:, : self.components]
        return components

    @fork_safe
    def _new_rows_network(self, n_features: int, device: object) -> RowNetwork:
        import torch

        from knnspect.detectors.heads.networks.autoencoder import RowNetwork

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = RowNetwork(n_features, self.hidden, self.latent_size)
        return network.to(device)  # type: ignore[call-overload, no-any-return]

    def _learn_rows(
        self,
        network: RowNetwork,
        scaled: NDArray[np.float64],
        names: list[str],
        kept: list[NDArray[np.bool_]],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Train with the images that are kept; return codes and errors of all images."""
        from knnspect.detectors.heads.networks.autoencoder import RowSource
        from knnspect.training.loop import Training, TrainingSettings

        source = RowSource(scaled.astype(np.float32), names)
        seed = int(np.random.SeedSequence([self.seed, len(kept)]).generate_state(1)[0])
        ids = [name for name, is_kept in zip(names, kept[-1], strict=True) if is_kept]
        settings = TrainingSettings(self.round_epochs, None, seed, mixed_precision=False)
        Training(network, source, ids, [], settings).run(progress=False)
        return network.described(source.batch(names))


def rows_of(backbone: Extractor, normal: NormalFeatures) -> NDArray[Any]:
    """Return what describes images: their pixels, or the backbone's pooled features.

    In the order of the gallery's ids, shape (n_images, n_features).
    """
    if not isinstance(backbone, Pixels):
        return normal.pooled
    gallery = normal.gallery
    rows = [gallery.pyramid([id_]).levels[0].reshape(-1) for id_ in gallery.ids]
    return np.stack(rows)


def _scaled(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rows with a mean of 0 and, over all features, a standard deviation of 1."""
    centred = rows - rows.mean(axis=0)
    deviation = np.sqrt(np.square(centred).mean())
    if not deviation > 1e-7 * np.abs(rows).max():
        raise ImageError("images: expected some that differ, all have the same features")
    scaled: NDArray[np.float64] = centred / deviation
    return scaled


def _round(kept: NDArray[np.bool_], before: NDArray[np.bool_]) -> Round:
    return Round(int(kept.sum()), int((kept & ~before).sum()), int((before & ~kept).sum()))
