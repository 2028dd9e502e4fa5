"""MNIST in its published format, IDX: big-endian, a magic number, the sizes, then the entries; gzipped or not.

The magic number is two zero bytes, a type (0x08, unsigned byte) and the number of axes; one 32-bit size an axis follows.
Source: LeCun, Cortes, Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from numerics.images import Images, Split
from numerics.readers.files import Readable, check_labels, existing_folder, first_file, read_at_most

UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
SIDE = 28
CLASSES = 10
PREFIX: dict[str, str] = {"train": "train", "test": "t10k"}
SUBFOLDERS = (".", "raw", "MNIST/raw")


def read_idx(path: Path | str, axes: int) -> Tensor:
    """An IDX file of unsigned bytes with that many axes, as uint8 of the shape that its header states.

    A file whose name ends in `.gz` is decompressed, and its checksum verified.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged or misnamed gzip file, a wrong magic number, an axis of length 0, too few or too many bytes.
    """
    path = first_file([Path(path)], "IDX file")
    zipped = path.suffix == ".gz"
    with path.open("rb") as stream:
        start = stream.read(2)
        stream.seek(0)
        if len(start) < 2:
            raise ValueError(f"{path} is truncated: it has {len(start)} bytes; fetch it again")
        if zipped and start != GZIP_MAGIC:
            raise ValueError(f"{path} is named .gz but is not gzipped (it starts with {start.hex()}): rename it")
        if not zipped and start == GZIP_MAGIC:
            raise ValueError(f"{path} is gzipped: decompress it, or add .gz to its name")
        if not zipped:
            return _entries(stream, path, axes)
        try:
            with gzip.GzipFile(fileobj=stream) as content:
                return _entries(content, path, axes)
        except EOFError as error:
            raise ValueError(f"{path} is truncated: the gzip stream ends too early; fetch it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}): fetch it again") from error


def _entries(stream: Readable, path: Path, axes: int) -> Tensor:
    """The array behind an open stream."""
    header = read_at_most(stream, 4 + 4 * axes)
    expected = bytes([0, 0, UNSIGNED_BYTE, axes])
    if header[:4] != expected[: len(header)]:
        raise ValueError(
            f"{path} has magic number {header[:4].hex()}, not {expected.hex()} (unsigned bytes, {axes} axes): "
            "it is another file; take the published one"
        )
    if len(header) < 4 + 4 * axes:
        raise ValueError(f"{path} is truncated: the header has {len(header)} of {4 + 4 * axes} bytes; fetch it again")
    shape = struct.unpack(f">{axes}I", header[4:])
    count = math.prod(shape)
    if count == 0:
        raise ValueError(f"{path} holds nothing: its header states the shape {shape}; take the published file")
    # one byte more: whether anything trails; and reading to the end makes gzip compare its checksum
    body = read_at_most(stream, count + 1)
    if len(body) < count:
        raise ValueError(f"{path} is truncated: {len(body)} of the {count} bytes of shape {shape}; fetch it again")
    if len(body) > count:
        raise ValueError(
            f"{path} has bytes after the {count} of its shape {shape}: the file is damaged; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(body, dtype=np.uint8).reshape(shape).copy())


def names_of(split: Split, kind: str) -> list[str]:
    """File names in the order in which they are looked for, such as `train-images-idx3-ubyte`; `kind` is images or labels."""
    axes = {"images": 3, "labels": 1}[kind]
    stem = f"{PREFIX[split]}-{kind}"
    return [f"{stem}{mark}idx{axes}-ubyte{end}" for end in ("", ".gz") for mark in ("-", ".")]


def load(folder: Path | str, split: Split) -> Images:
    """MNIST's images `(N, 1, 28, 28)` in bytes with their labels; `N` is what the headers state.

    Looked for in the folder, in its `raw` and in its `MNIST/raw`: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`
    (`t10k-` for the test images), with a dot for the dash before `idx`, each with or without `.gz`.

    Raises:
        FileNotFoundError: a missing folder or file, with the names looked for.
        ValueError: as `read_idx`; images of another size, a label above 9, or unequal numbers of images and labels.
    """
    top = existing_folder(folder)
    images_path, labels_path = (
        first_file(
            [top / sub / name for sub in SUBFOLDERS for name in names_of(split, kind)], f"MNIST's {split} {kind}"
        )
        for kind in ("images", "labels")
    )
    pixels, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if pixels.shape[1:] != (SIDE, SIDE):
        size = f"{pixels.shape[1]} x {pixels.shape[2]}"
        raise ValueError(
            f"{images_path} holds images of {size} pixels: MNIST's have {SIDE} x {SIDE}; take the published file"
        )
    if len(pixels) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(pixels)} images, but {labels_path} {len(labels)} labels: take both from one release"
        )
    check_labels(str(labels_path), labels.numpy(), CLASSES)
    names = tuple(str(digit) for digit in range(CLASSES))
    return Images(pixels[:, None], labels.to(torch.int64), CLASSES, names, f"{images_path}")
