"""Data sets in their published formats, from a folder that the user names; the digits need none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from numerics.images import Images, Split, digits_images
from numerics.readers import cifar, folders, idx
from numerics.readers.folders import Folder

Name = Literal["mnist", "cifar10", "cifar100", "imagenet", "digits"]
NAMES: tuple[Name, ...] = ("mnist", "cifar10", "cifar100", "imagenet", "digits")

__all__ = ["NAMES", "Folder", "Images", "Name", "Split", "load"]


def load(
    name: Name, folder: Path | str | None = None, split: Split = "train", *, complete: bool = True, seed: int = 0
) -> Images | Folder:
    """A split of a data set: images in memory, for ImageNet files that are decoded in batches.

    Args:
        name: `mnist` (IDX), `cifar10`, `cifar100` (binary or Python version), `imagenet` (class folders) or `digits`.
        folder: where the files lie; none for the digits, which come with scikit-learn.
        split: `train` or `test`; ImageNet's `test` is its validation set.
        complete: for CIFAR, whether the published number of images is due; see `cifar.load`.
        seed: for the digits, which of them are for testing.

    Raises:
        FileNotFoundError: a missing folder or file, with the names looked for.
        ValueError: an unknown name or split, a folder missing or not wanted, or a damaged file (it is named).
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: use one of {', '.join(NAMES)}")
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r}: use 'train' or 'test'")
    if name == "digits":
        if folder is not None:
            raise ValueError(f"the digits come with scikit-learn: leave out the folder {folder}")
        return digits_images(split, seed=seed)
    if folder is None:
        raise ValueError(f"{name} is read from files: name the folder that holds them")
    if name == "mnist":
        return idx.load(folder, split)
    if name == "imagenet":
        return folders.load(folder, split)
    return cifar.load(folder, split, cifar.CIFAR10 if name == "cifar10" else cifar.CIFAR100, complete)
