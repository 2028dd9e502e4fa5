"""Generalized discrimination value (GDV) of Schilling et al. (arXiv 1811.01753): how well classes separate in a layer, batched over networks and layers.

`GDV = D^{-1/2} (mean_l A_l - mean_{l<m} B_lm)` on features that are z-scored over all samples and halved; `A_l` is the mean Euclidean distance of two samples of
class `l`, `B_lm` that of a sample of `l` and one of `m`. Its range and when it is attained: `theory.separability`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def standardised(features: Tensor) -> Tensor:
    """`(x - mean) / (2 std)` of every dimension over all samples, with the population's standard deviation; constant dimensions become 0.

    Args:
        features: `(*batch, D, N)`, columns are samples.
    """
    constant = features.amax(-1, keepdim=True) == features.amin(-1, keepdim=True)
    centred = features - features.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    # without the replacement the gradient at a constant dimension is NaN
    scores: Tensor = torch.where(constant, 0.0, centred / (2 * variance.masked_fill(constant, 1.0).sqrt()))
    return scores


def _members(labels: Tensor, samples: int) -> Tensor:
    """One-hot classes `(*batch, N, K)`.

    Raises:
        ValueError: see `class_distances`.
    """
    if labels.dtype != torch.int64 or labels.shape[-1:] != (samples,):
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give int64, one for each of {samples} samples"
        )
    if int(labels.min()) < 0:
        raise ValueError(f"label {int(labels.min())} is negative: count the classes from 0")
    classes = int(labels.max()) + 1
    if classes < 2:
        raise ValueError(f"all {samples} samples are of class 0: GDV compares two or more classes")
    members: Tensor = torch.nn.functional.one_hot(labels, classes)
    few = (members.sum(-2) < 2).nonzero()
    if len(few):
        *where, label = few[0].tolist()
        size = int(members.sum(-2)[tuple(few[0])])
        at = f" of batch entry {tuple(where)}" if where else ""
        raise ValueError(
            f"class {label}{at} has {size} sample{'' if size == 1 else 's'}: its mean distance needs two; "
            "leave the class out and count the others from 0"
        )
    return members


def class_distances(features: Tensor, labels: Tensor) -> Tensor:
    """Mean Euclidean distances between and within classes of z-scored and halved features.

    Args:
        features: `(*batch, D, N)`, columns are samples.
        labels: classes `0 .. K-1`, `(N,)` or `(*batch, N)`.

    Returns:
        `(*batch, K, K)`: on the diagonal over pairs of different samples of a class, off it over all pairs of samples of two classes.

    Raises:
        ValueError: a feature that is not finite, a single class, or a class with fewer than two samples, by name.
    """
    wrong = (~features.isfinite()).nonzero()
    if len(wrong):
        *where, dimension, sample = wrong[0].tolist()
        at = f" of batch entry {tuple(where)}" if where else ""
        value = float(features[tuple(wrong[0])])
        raise ValueError(f"dimension {dimension} of sample {sample}{at} is {value}: remove or impute it")
    members = _members(labels, features.shape[-1]).to(features.dtype)
    columns = standardised(features).mT
    # not by inner products: they lose half the digits of small distances
    distances = torch.cdist(columns, columns, compute_mode="donot_use_mm_for_euclid_dist")
    sums = members.mT @ distances @ members
    sizes = members.sum(-2)
    pairs = sizes.unsqueeze(-1) * sizes.unsqueeze(-2) - torch.diag_embed(sizes)
    return sums / pairs


def discrimination_value(features: Tensor, labels: Tensor) -> Tensor:
    """GDV of each entry of a batch, `(*batch,)`; differentiable in the features.

    Low is separated. For `K` classes of `n` samples it lies in `[-sqrt(K/(2(K-1))), 1/sqrt(2n(n-1))]`, and its mean over all ways to deal the labels is 0.

    Args:
        features: `(*batch, D, N)`, columns are samples.
        labels: classes `0 .. K-1`, `(N,)` or `(*batch, N)`.

    Raises:
        ValueError: see `class_distances`.
    """
    means = class_distances(features, labels)
    classes = means.shape[-1]
    within = means.diagonal(dim1=-2, dim2=-1).sum(-1)
    between = (means.sum((-2, -1)) - within) / (classes * (classes - 1))
    value: Tensor = (within / classes - between) / features.shape[-2] ** 0.5
    return value
