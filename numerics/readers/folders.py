"""ImageNet as class folders: `train/n01440764/*.JPEG` and `val/n01440764/*.JPEG`, decoded when a batch is asked for.

As published for evaluation (and in torchvision's `Resize(256)`, `CenterCrop(224)`): the short side is resized to 256 by
Pillow's antialiased bilinear filter, the long one to `int(256 long / short)`, and the centre of 224 x 224 is cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from numerics.images import Images, Split, checked_indices, choice
from numerics.readers.files import existing_folder, listed

ENDINGS = (".jpeg", ".jpg", ".png")
SPLITS: dict[str, tuple[str, ...]] = {"train": ("train",), "test": ("val", "validation")}
SUBFOLDERS = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


@dataclass(frozen=True, eq=False)
class Folder:
    """Labelled image files, decoded in batches.

    Attributes:
        files: the image files.
        labels: `(N,)` int64 in `0 .. classes - 1`.
        names: the class folders, sorted; label `k` is that of `names[k]`.
        source: where the files lie, for reports.
        short_side: to which the short side of an image is resized.
        crop: side of the square that is cut out of the centre.
        workers: threads that decode.

    Raises:
        ValueError: no file, fewer than two classes, labels of another number, type or range, or sizes that do not fit.
    """

    files: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    source: str = ""
    short_side: int = 256
    crop: int = 224
    workers: int = 4

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("no image files: at least one is needed")
        if self.classes < 2:
            raise ValueError(f"{self.classes} class folders: at least 2 are needed")
        if self.labels.shape != (len(self),) or self.labels.dtype != torch.int64:
            shape = tuple(self.labels.shape)
            raise ValueError(f"labels are {self.labels.dtype} of shape {shape}: give int64 of shape ({len(self)},)")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            found = f"{int(self.labels.min())} .. {int(self.labels.max())}"
            raise ValueError(f"labels range over {found}: they must lie in 0 .. {self.classes - 1}")
        if not 1 <= self.crop <= self.short_side:
            raise ValueError(f"crop = {self.crop}: it must lie in 1 .. {self.short_side}, the short side")
        if self.workers < 1:
            raise ValueError(f"workers = {self.workers}: at least 1 is needed")

    def __len__(self) -> int:
        """Number `N` of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image as bytes `(3, crop, crop)`, and its label.

        Raises:
            IndexError: an index outside `0 .. N - 1`.
            ValueError: a file that cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside 0 .. {len(self) - 1}")
        return decoded(self.files[index], self.short_side, self.crop), int(self.labels[index])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(channels, height, width)` of one decoded image."""
        return (3, self.crop, self.crop)

    def batch(self, indices: Sequence[int] | Tensor) -> Images:
        """The images at these indices, decoded, in their order.

        Raises:
            ValueError: no index, one outside `0 .. N - 1`, or a file that cannot be decoded (it is named).
        """
        order = checked_indices(indices, len(self)).cpu()
        files = [self.files[index] for index in order.tolist()]
        with ThreadPoolExecutor(min(self.workers, len(files))) as pool:
            pixels = torch.stack(list(pool.map(lambda path: decoded(path, self.short_side, self.crop), files)))
        return Images(pixels, self.labels[order], self.classes, self.names, self.source)

    def subset(self, indices: Sequence[int] | Tensor) -> Folder:
        """The files at these indices, still undecoded.

        Raises:
            ValueError: no index, or one outside `0 .. N - 1`.
        """
        order = checked_indices(indices, len(self)).cpu()
        return replace(self, files=tuple(self.files[index] for index in order.tolist()), labels=self.labels[order])

    def chosen(self, samples: int, seed: int) -> Folder:
        """`samples` distinct files, each choice equally likely, by the seed.

        Raises:
            ValueError: fewer than 1 or more than `N` samples.
        """
        return self.subset(choice(len(self), samples, seed))


def decoded(path: Path, short_side: int, crop: int) -> Tensor:
    """One image file as bytes `(3, crop, crop)`: red, green and blue, short side resized, centre cut out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: Pillow cannot decode it.
    """
    try:
        with Image.open(path) as image:
            colour = image.convert("RGB")
    except FileNotFoundError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, DecompressionBombError and others for damaged files
    except Exception as error:
        raise ValueError(f"{path} cannot be decoded as an image ({error}): fetch it again or remove it") from error
    width, height = colour.size
    short = min(width, height)
    size = (int(short_side * width / short), int(short_side * height / short))
    if size != colour.size:
        colour = colour.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return torch.from_numpy(np.array(colour.crop((left, top, left + crop, top + crop)))).permute(2, 0, 1)


def class_folders(folder: Path) -> list[Path]:
    """The folders in a split's folder, sorted by name; names that start with a dot are passed over.

    Raises:
        ValueError: fewer than two, or image files beside them.
    """
    entries = sorted(
        (entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
    )
    loose = next((entry for entry in entries if entry.suffix.lower() in ENDINGS and entry.is_file()), None)
    if loose is not None:
        raise ValueError(
            f"{loose} lies in no class folder: sort the images into one folder a class, as train/n01440764/ "
            "(the validation images are published unsorted)"
        )
    folders = [entry for entry in entries if entry.is_dir()]
    if len(folders) < 2:
        raise ValueError(f"{folder} holds {len(folders)} class folders: at least 2 are needed")
    return folders


def images_in(folder: Path) -> list[Path]:
    """The image files of a class folder, sorted by name; names that start with a dot are passed over.

    Raises:
        ValueError: there is none, or something else beside them.
    """
    entries = sorted(
        (entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name
    )
    for entry in entries:
        if entry.suffix.lower() not in ENDINGS or not entry.is_file():
            raise ValueError(f"{entry} is no image file ({listed(ENDINGS)}): a class folder holds images only; move it")
    if not entries:
        raise ValueError(f"the class folder {folder} is empty: add its images or remove it")
    return entries


def load(folder: Path | str, split: Split) -> Folder:
    """The files of a split with labels by class folder, in the order of the names; nothing is decoded yet.

    Looked for in the folder and in its `ILSVRC/Data/CLS-LOC`: `train`, or for the test images `val` or `validation` (the
    labels of ImageNet's own test images are not published).

    Raises:
        FileNotFoundError: a missing folder, with the names looked for.
        ValueError: images outside class folders, fewer than two classes, an empty class folder, a file in one that is no
            image, or for testing other class folders than for training, where these are there (labels would differ).
    """
    top = existing_folder(folder)
    places = {kind: [top / sub / name for sub in SUBFOLDERS for name in SPLITS[kind]] for kind in SPLITS}
    present = {kind: next((place for place in places[kind] if place.is_dir()), None) for kind in SPLITS}
    place, training = present[split], present["train"]
    if place is None:
        raise FileNotFoundError(
            f"ImageNet's {split} images not found: looked for the folders {listed(places[split])}; "
            "put the class folders there or name another folder"
        )
    classes = class_folders(place)
    names = tuple(entry.name for entry in classes)
    if split == "test" and training is not None:
        differing = {entry.name for entry in class_folders(training)} ^ set(names)
        if differing:
            raise ValueError(
                f"the class folder {min(differing)} is in only one of {place} and {training}: "
                "labels are numbers of sorted folders, so both need the same ones"
            )
    files = [images_in(entry) for entry in classes]
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(held) for held in files]))
    return Folder(tuple(path for held in files for path in held), labels, names, f"{place}")
