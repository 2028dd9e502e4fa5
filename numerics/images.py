"""Labelled images `(N, channels, height, width)`: shapes, subsets, normalisation, and the augmentation that CIFAR training uses.

Bytes stay bytes until a batch is asked for as numbers: CIFAR's 50,000 images then take 154 MB instead of 614 MB.
The embedded default is scikit-learn's copy of the UCI handwritten digits; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
from torch import Tensor
from torch.nn import functional

from numerics.device import generator

BYTE_MAXIMUM = 255
DIGITS = 1797
DIGITS_FOR_TEST = 360
DIGITS_MAXIMUM = 16.0

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their labels.

    Attributes:
        pixels: `(N, channels, height, width)`, bytes 0 .. 255 as a file stores them, or float32 numbers.
        labels: `(N,)` int64 in `0 .. classes - 1`, on the device of the pixels.
        classes: number of classes.
        names: the classes in words, or empty.
        source: where the images come from, for reports.

    Raises:
        ValueError: no image, fewer than two classes, mismatching shapes, types or devices, a label out of range, or a
            pixel that is not finite (the first one is named).
    """

    pixels: Tensor
    labels: Tensor
    classes: int
    names: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype not in (torch.uint8, torch.float32):
            found = f"{self.pixels.dtype} of shape {tuple(self.pixels.shape)}"
            raise ValueError(f"pixels are {found}: give uint8 or float32 of shape (N, channels, height, width)")
        if 0 in self.pixels.shape:
            raise ValueError(f"pixels have shape {tuple(self.pixels.shape)}: at least one image of one pixel is needed")
        if self.classes < 2:
            raise ValueError(f"{self.classes} classes: at least 2 are needed")
        if self.labels.shape != (len(self),) or self.labels.dtype != torch.int64:
            shape = tuple(self.labels.shape)
            raise ValueError(f"labels are {self.labels.dtype} of shape {shape}: give int64 of shape ({len(self)},)")
        if self.labels.device != self.pixels.device:
            raise ValueError(f"labels are on {self.labels.device}, pixels on {self.pixels.device}: move one of them")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            found = f"{int(self.labels.min())} .. {int(self.labels.max())}"
            raise ValueError(f"labels range over {found}: they must lie in 0 .. {self.classes - 1}")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} names for {self.classes} classes: give one each, or none")
        # the extremes show whether all is finite without a second array of the size of the images
        if self.pixels.is_floating_point() and not torch.stack(self.pixels.aminmax()).isfinite().all():
            place = (~self.pixels.isfinite()).nonzero()[0].tolist()
            value = float(self.pixels[tuple(place)])
            raise ValueError(f"pixels{place} = {value} (of image {place[0]}): remove or replace it")

    def __len__(self) -> int:
        """Number `N` of images."""
        return self.pixels.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)` of one image."""
        return (self.pixels.shape[1], self.pixels.shape[2], self.pixels.shape[3])

    def values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The pixels as numbers `(N, channels, height, width)`: bytes divided by 255 in that precision, numbers as they are."""
        return as_values(self.pixels, dtype)

    def subset(self, indices: Sequence[int] | Tensor) -> Images:
        """The images at these indices, in their order; an index may come twice.

        Raises:
            ValueError: no index, or one outside `0 .. N - 1`.
        """
        order = checked_indices(indices, len(self)).to(self.pixels.device)
        return replace(self, pixels=self.pixels[order], labels=self.labels[order])

    def batch(self, indices: Sequence[int] | Tensor) -> Images:
        """The same as `subset`: images in memory and images in a folder are asked for batches by one name."""
        return self.subset(indices)

    def chosen(self, samples: int, seed: int) -> Images:
        """`samples` distinct images, each choice equally likely, by the seed.

        Raises:
            ValueError: fewer than 1 or more than `N` samples.
        """
        return self.subset(choice(len(self), samples, seed))

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


def as_values(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes as numbers in [0, 1] (divided by 255 in `dtype`); numbers as they are, in `dtype`."""
    return pixels.to(dtype) / BYTE_MAXIMUM if pixels.dtype == torch.uint8 else pixels.to(dtype)


def checked_indices(indices: Sequence[int] | Tensor, total: int) -> Tensor:
    """Indices as an int64 vector.

    Raises:
        ValueError: no index, entries that are not integers (a mask among them), or one outside `0 .. total - 1`.
    """
    order = torch.as_tensor(indices)
    if order.ndim != 1 or len(order) == 0:
        raise ValueError(f"indices have shape {tuple(order.shape)}: give a list of at least one")
    if order.is_floating_point() or order.dtype == torch.bool:
        raise ValueError(f"indices are {order.dtype}: give integers (of a mask, mask.nonzero()[:, 0])")
    wrong = order[(order < 0) | (order >= total)]
    if len(wrong):
        raise ValueError(f"index {int(wrong[0])} is outside 0 .. {total - 1}")
    return order.to(torch.int64)


def choice(total: int, samples: int, seed: int) -> Tensor:
    """`samples` distinct indices below `total`, each ordered choice equally likely, by the seed.

    Raises:
        ValueError: fewer than 1 or more than `total` samples.
    """
    if not 1 <= samples <= total:
        raise ValueError(f"samples = {samples}: between 1 and {total} images can be chosen")
    return torch.randperm(total, generator=generator(seed))[:samples]


def divided(images: Images, test: int, seed: int) -> tuple[Images, Images]:
    """Two disjoint parts that make up all the images, `N - test` for training and `test` for testing, by the seed.

    Raises:
        ValueError: a part would be empty.
    """
    if not 1 <= test < len(images):
        raise ValueError(
            f"test = {test}: of {len(images)} images between 1 and {len(images) - 1} can be kept for testing"
        )
    order = torch.randperm(len(images), generator=generator(seed))
    return images.subset(order[test:]), images.subset(order[:test])


def resized(images: Images, height: int, width: int) -> Images:
    """The images at another size by bilinear interpolation (half-pixel centres, antialiased where it shrinks).

    `torch.nn.functional.interpolate(mode="bilinear", align_corners=False, antialias=True)` on the numbers `values()`:
    float32, not rounded to bytes. Images that have the size already are returned as they are. All images are held at
    their new size at once: choose a subset first where that is too much.

    Raises:
        ValueError: a size below 1.
    """
    if height < 1 or width < 1:
        raise ValueError(f"size {height} x {width}: both must be at least 1")
    if images.shape[1:] == (height, width):
        return images
    pixels = functional.interpolate(
        images.values(), size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return replace(images, pixels=pixels)


def grey_to_channels(images: Images, channels: int) -> Images:
    """Grey images with their one channel repeated (the copies share memory); images of that many channels as they are.

    Raises:
        ValueError: fewer than 1 channels asked for, or images that are neither grey nor of that many channels.
    """
    if channels < 1:
        raise ValueError(f"channels = {channels}: at least 1 is needed")
    found = images.shape[0]
    if found == channels:
        return images
    if found != 1:
        raise ValueError(f"the images have {found} channels, not {channels}: only grey images can be repeated")
    return replace(images, pixels=images.pixels.expand(-1, channels, -1, -1))


def shaped(images: Images, shape: tuple[int, int, int]) -> Images:
    """The images at a protocol's shape `(channels, height, width)`: `resized`, then `grey_to_channels`.

    Raises:
        ValueError: as these two do.
    """
    channels, height, width = shape
    return grey_to_channels(resized(images, height, width), channels)


@dataclass(frozen=True)
class Normalisation:
    """`x -> (x - mean_c) / std_c` for the values of channel `c`, where bytes count as numbers in [0, 1].

    Attributes:
        mean, std: one number a channel.

    Raises:
        ValueError: no channel, different numbers of channels, a number that is not finite, or a std that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} standard deviations: give one each a channel")
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            if not (abs(mean) < float("inf") and 0 < std < float("inf")):
                raise ValueError(
                    f"channel {channel} has mean {mean} and standard deviation {std}: "
                    "give finite ones, the second above 0 (0 says that the channel is constant: leave it out)"
                )

    @classmethod
    def measured(cls, images: Images) -> Normalisation:
        """Mean and population standard deviation of each channel over all images and places.

        Of bytes they come from exact counts of the 256 values, of numbers in float64.

        Raises:
            ValueError: a channel is constant (it is named).
        """
        means, stds = [], []
        for channel in images.pixels.transpose(0, 1):
            if channel.dtype == torch.uint8:
                counts = torch.bincount(channel.flatten(), minlength=BYTE_MAXIMUM + 1)
                weights = counts.double() / channel.numel()
                places = torch.arange(BYTE_MAXIMUM + 1, device=channel.device).double() / BYTE_MAXIMUM
                mean = (weights * places).sum()
                variance = (weights * (places - mean) ** 2).sum()
            else:
                mean = channel.mean(dtype=torch.float64)
                # in parts: float64 copies of all images at once may not fit
                squares = torch.stack([((part.double() - mean) ** 2).sum() for part in channel.split(64)])
                variance = squares.sum() / channel.numel()
            means.append(float(mean))
            stds.append(float(variance.sqrt()))
        return cls(tuple(means), tuple(stds))

    def __call__(self, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """A batch `(N, channels, height, width)` of bytes or numbers, normalised.

        Raises:
            ValueError: another number of channels.
        """
        if pixels.ndim != 4 or pixels.shape[1] != len(self.mean):
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}: give (N, {len(self.mean)}, height, width)")
        mean, std = (torch.tensor(numbers, dtype=dtype, device=pixels.device) for numbers in (self.mean, self.std))
        return (as_values(pixels, dtype) - mean[:, None, None]) / std[:, None, None]


def normalised(images: Images, normalisation: Normalisation | None = None) -> Images:
    """The images with each channel normalised (float32): as given, or by their own mean and standard deviation.

    Images for testing take the normalisation of the images for training.

    Raises:
        ValueError: a constant channel, or another number of channels than the normalisation has.
    """
    chosen = Normalisation.measured(images) if normalisation is None else normalisation
    return replace(images, pixels=chosen(images.pixels))


def random_crop(pixels: Tensor, padding: int, source: torch.Generator) -> Tensor:
    """Each image padded by zeros on all sides and cut back to its size at a place of its own, each equally likely.

    The published order is crop, flip, normalise: the border is black, not the mean.

    Args:
        pixels: `(N, channels, height, width)`, bytes or numbers.
        padding: width of the border; the `2 padding + 1` offsets of a side are equally likely.
        source: the draws are made on its device.

    Raises:
        ValueError: pixels of another number of axes, or a negative padding.
    """
    if pixels.ndim != 4:
        raise ValueError(f"pixels have shape {tuple(pixels.shape)}: give (N, channels, height, width)")
    if padding < 0:
        raise ValueError(f"padding = {padding}: it must not be negative")
    samples, _, height, width = pixels.shape
    padded = functional.pad(pixels, (padding,) * 4)
    offsets = torch.randint(2 * padding + 1, (2, samples, 1), generator=source, device=source.device).to(pixels.device)
    rows = offsets[0] + torch.arange(height, device=pixels.device)
    columns = offsets[1] + torch.arange(width, device=pixels.device)
    image = torch.arange(samples, device=pixels.device)
    # the channels, indexed by a slice between indexed axes, come out last
    cut = padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def random_flip(pixels: Tensor, source: torch.Generator) -> Tensor:
    """Each image `(channels, height, width)` of the batch mirrored left to right with probability 1/2.

    Raises:
        ValueError: pixels of another number of axes.
    """
    if pixels.ndim != 4:
        raise ValueError(f"pixels have shape {tuple(pixels.shape)}: give (N, channels, height, width)")
    flip = torch.randint(2, (len(pixels), 1, 1, 1), generator=source, device=source.device).to(pixels.device) == 1
    return torch.where(flip, pixels.flip(-1), pixels)


def digits_images(
    split: Split | Literal["all"] = "all", shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0
) -> Images:
    """The 1797 grey digits of 8 x 8 pixels as float32 in [0, 1] (pixels / 16), at a protocol's shape.

    `train` and `test` are the two parts (1437 and 360 images) that the seed makes; `all` ignores the seed and keeps the
    order of scikit-learn. Shapes of the protocols: `(1, 28, 28)` MNIST, `(3, 32, 32)` CIFAR, `(3, 224, 224)` ImageNet.

    Raises:
        ValueError: another split, or a shape that `shaped` refuses.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split {split!r}: use 'train', 'test' or 'all'")
    pixels, targets = load_digits(return_X_y=True)
    values = torch.as_tensor(pixels, dtype=torch.float32).reshape(DIGITS, 1, 8, 8) / DIGITS_MAXIMUM
    labels = torch.as_tensor(targets, dtype=torch.int64)
    names = tuple(str(digit) for digit in range(10))
    images = Images(values, labels, 10, names, f"digits of scikit-learn, {split}")
    if split != "all":
        train, test = divided(images, DIGITS_FOR_TEST, seed)
        images = train if split == "train" else test
    return shaped(images, shape)
