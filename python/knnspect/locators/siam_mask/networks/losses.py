"""What SiamMask's network learns from: the losses of class, box, turn and mask."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss, softplus

__all__ = ["box_loss", "class_loss", "mask_loss", "turn_loss"]


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of locations, those with the part and those without weighing the same.

    Parameters
    ----------
    logits : tensor, shape (n, 2, rows, columns)
        For "no part" and "part".
    labels : tensor of long, shape (n, rows, columns)
        1: the part lies there; 0: not; -1: does not count.

    Examples
    --------
    >>> import torch
    >>> labels = torch.tensor([[[1, 0, 0, -1]]])
    >>> class_loss(torch.zeros(1, 2, 1, 4), labels)
    tensor(0.6931)
    """
    each = cross_entropy(logits, labels.clamp(min=0), reduction="none")
    means = [
        each[labels == kind].mean() if (labels == kind).any() else each.sum() * 0 for kind in (0, 1)
    ]
    return (means[0] + means[1]) / 2


def box_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """Smooth L1 of boxes, shape (n, 4): the sum over four numbers, the mean over boxes.

    >>> import torch
    >>> box_loss(torch.tensor([[0.5, 0.0, 0.0, 3.0]]), torch.zeros(1, 4))
    tensor(2.6250)
    """
    if not len(boxes):
        return boxes.sum()
    return smooth_l1_loss(boxes, truth, reduction="sum") / len(boxes)


def turn_loss(turns: Tensor, truth: Tensor) -> Tensor:
    """Mean squared distance of (cosine, sine) from those of the true turn, shape (n, 2).

    >>> import torch
    >>> turn_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(2.)
    """
    if not len(turns):
        return turns.sum()
    return (turns - truth).square().sum(dim=1).mean()


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Logistic loss of masks: the mean over pixels and masks of log(1 + exp(-c m)).

    Parameters
    ----------
    logits : tensor, shape (n, side, side)
        The m of each pixel.
    truth : tensor of bool, of the same shape
        Where the part is; c is 1 there, else -1.

    Source
    ------
    Wang et al., "Fast Online Object Tracking and Segmentation: A Unifying Approach" (2019),
    equation 3, of locations that show the part.

    Examples
    --------
    >>> import torch
    >>> mask_loss(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool))
    tensor(0.6931)
    """
    if not len(logits):
        return logits.sum()
    signs = truth.to(logits.dtype) * 2 - 1
    return softplus(-signs * logits).mean()
