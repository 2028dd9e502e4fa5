"""CIFAR-10 and CIFAR-100 as published: the binary version, the Python version, unpacked or as the `.tar.gz`.

Binary: records of the label bytes (one; coarse and fine for CIFAR-100) and 3072 pixel bytes, 1024 a channel, row by row.
Python: a pickled dictionary with `data`, uint8 `(N, 3072)` in the same order, and lists of labels.
Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009, and the data sets' page.

A pickle can run any code. These are read by an unpickler that knows three names, all of NumPy's, and puts inert
records in their place: nothing of NumPy or of any other module runs before the contents have been looked at.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from numerics.images import Images, Split
from numerics.readers.files import PIECE, check_labels, existing_folder, listed, read_at_most

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Version:
    """One way in which a data set is published.

    Attributes:
        pickled: the Python version (else the binary one).
        folder: the folder in the archive, hence where the files lie after unpacking.
        archive: the file name of the archive.
        train, test: the files of each split; together they hold its images in order.
        meta: the file that names the classes, not needed.
    """

    pickled: bool
    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str

    def files(self, split: Split) -> tuple[str, ...]:
        return self.train if split == "train" else self.test


@dataclass(frozen=True)
class Published:
    """A data set: its name, the labels of an image (key of the Python version, number of classes; the last one is used),
    the key of the names of the classes, the numbers of images, and its versions."""

    name: str
    labels: tuple[tuple[str, int], ...]
    names: str
    train: int
    test: int
    versions: tuple[Version, ...]

    @property
    def classes(self) -> int:
        return self.labels[-1][1]


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = Published(
    "CIFAR-10",
    (("labels", 10),),
    "label_names",
    50_000,
    10_000,
    (
        Version(
            False,
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            tuple(f"{batch}.bin" for batch in _BATCHES),
            ("test_batch.bin",),
            "batches.meta.txt",
        ),
        Version(True, "cifar-10-batches-py", "cifar-10-python.tar.gz", _BATCHES, ("test_batch",), "batches.meta"),
    ),
)
CIFAR100 = Published(
    "CIFAR-100",
    (("coarse_labels", 20), ("fine_labels", 100)),
    "fine_label_names",
    50_000,
    10_000,
    (
        Version(
            False, "cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), "fine_label_names.txt"
        ),
        Version(True, "cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), "meta"),
    ),
)


class _Record:
    """What stands for an array or a dtype while a pickle is read: the arguments and the state, and no behaviour."""

    __slots__ = ("arguments", "state")

    arguments: tuple[object, ...]
    state: object

    def __new__(cls, *arguments: object) -> Self:  # an opcode of pickle skips __init__
        record = super().__new__(cls)
        record.arguments, record.state = arguments, ()
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Record):
    __slots__ = ()


class _Dtype(_Record):
    __slots__ = ()


ADMITTED: Mapping[tuple[str, str], type[_Record]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # the same, as NumPy 2 writes it
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class Refused(ValueError):
    """A pickle asks for something that no published file holds."""


class _Unpickler(pickle.Unpickler):
    """Admits arrays, bytes, texts, numbers, lists, tuples and dictionaries."""

    def __init__(self, stream: io.BytesIO, where: str) -> None:
        super().__init__(stream, encoding="bytes")
        self.where = where

    def find_class(self, module: str, name: str) -> type[_Record]:
        if (module, name) not in ADMITTED:
            raise Refused(
                f"{self.where}: the pickle asks for {module}.{name}, which is refused: a CIFAR file holds only "
                "NumPy arrays, bytes, texts, numbers, lists and dictionaries; do not trust this file"
            )
        return ADMITTED[module, name]


def unpickled(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary of a published pickle, its keys as text; arrays are inert records until `_array` has checked them.

    Raises:
        ValueError: a name other than NumPy's three (it is given), a truncated or damaged pickle, something that is not a
            dictionary with text keys, or bytes after its end.
    """
    stream = io.BytesIO(content)
    try:
        found = _Unpickler(stream, where).load()
    except Refused:
        raise
    # damaged pickles raise anything, as the documentation of pickle says
    except Exception as error:
        raise ValueError(f"{where} is truncated or is no pickle ({error}): fetch it again") from error
    if stream.read(1):
        raise ValueError(f"{where} has bytes after the end of the pickle: the file is damaged; fetch it again")
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds a {type(found).__name__}, not a dictionary: take the published file")
    if not all(isinstance(key, bytes | str) for key in found):
        raise ValueError(f"{where} has keys that are not text: take the published file")
    return {_text(key): value for key, value in found.items()}


def _text(value: bytes | str) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _entry(content: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in content:
        held = listed(sorted(content)) or "nothing"
        raise ValueError(f"{where} has no entry {key!r} (it holds {held}): it is another file; take the published one")
    return content[key]


def _array(value: object, where: str) -> Bytes:
    """The matrix `(N, 3072)` of bytes that a record stands for."""
    wrong = f"{where}: 'data' is not a NumPy matrix of unsigned bytes with {PIXELS} columns: take the published file"
    if not isinstance(value, _Array) or not isinstance(value.state, tuple) or len(value.state) != 5:
        raise ValueError(wrong)
    _, shape, dtype, by_columns, raw = value.state
    if not isinstance(dtype, _Dtype) or dtype.arguments[:1] not in (("u1",), (b"u1",)) or not isinstance(raw, bytes):
        raise ValueError(wrong)
    if not isinstance(shape, tuple) or len(shape) != 2 or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(wrong)
    if shape[1] != PIXELS or shape[0] * shape[1] != len(raw):
        raise ValueError(f"{wrong} (it states the shape {shape} and holds {len(raw)} bytes)")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if by_columns else "C")


def read_pickle(content: bytes, data: Published, where: str) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Pixels `(N, 3072)` and labels `(N,)` of one file of the Python version.

    Raises:
        ValueError: as `unpickled`; a missing entry, an array of another type or shape, labels that are not integers, of
            another number than the images or out of range.
    """
    found = unpickled(content, where)
    pixels = _array(_entry(found, "data", where), where)
    labels = np.empty(0, dtype=np.int64)
    for key, classes in data.labels:
        values = _entry(found, key, where)
        # bounded before they become 64-bit integers, because a pickle's integers have no size
        if not isinstance(values, list) or not all(type(value) is int and abs(value) < 2**31 for value in values):
            raise ValueError(f"{where}: {key!r} is not a list of integers: take the published file")
        if len(values) != len(pixels):
            raise ValueError(f"{where} holds {len(pixels)} images, but {len(values)} {key}: take the published file")
        labels = np.array(values, dtype=np.int64)
        check_labels(f"{where}, {key}", labels, classes)
    return pixels, labels


def read_binary(content: bytes, data: Published, where: str) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Pixels `(N, 3072)` and labels `(N,)` of one file of the binary version.

    The format has no header: a file cut after a whole record can be told only by the number of images that is due.

    Raises:
        ValueError: a size that is no multiple of the record's, or a label out of range.
    """
    record = len(data.labels) + PIXELS
    if len(content) % record:
        raise ValueError(
            f"{where} has {len(content)} bytes, which is no multiple of a record's {record}: "
            f"it is truncated, has trailing bytes or is not of {data.name}; fetch it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    for column, (key, classes) in enumerate(data.labels):
        check_labels(f"{where}, {key}", records[:, column], classes)
    return records[:, len(data.labels) :], records[:, len(data.labels) - 1].astype(np.int64)


def load(folder: Path | str, split: Split, data: Published, complete: bool = True) -> Images:
    """The images `(N, 3, 32, 32)` of a split in bytes, with their (fine) labels.

    Args:
        folder: holds the files, or the folder they are unpacked to (such as `cifar-10-batches-py`), or the archive; or
            is the archive. The binary version is looked for first; nothing is unpacked to the disk.
        split: `train` or `test`.
        data: `CIFAR10` or `CIFAR100`.
        complete: whether the published number of images is due. Without it a smaller copy is read, and a binary file cut
            after a whole record goes unnoticed.

    Raises:
        FileNotFoundError: a missing folder or file, with the names looked for.
        ValueError: a damaged archive, or what `read_binary` and `read_pickle` refuse, or another number of images.
    """
    version, contents, source = _contents(Path(folder), split, data)
    read = read_pickle if version.pickled else read_binary
    parts = [read(contents[name], data, f"{source}/{name}") for name in version.files(split)]
    due = (data.train if split == "train" else data.test) // len(parts)
    for name, (pixels, _) in zip(version.files(split), parts, strict=True):
        if len(pixels) == 0 or (complete and len(pixels) != due):
            raise ValueError(f"{source}/{name} holds {len(pixels)} images, not {due}: it is truncated; fetch it again")
    pixels, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    names = _names(version, contents, data, source)
    shaped = torch.from_numpy(pixels).reshape(-1, *SHAPE)
    return Images(shaped, torch.from_numpy(labels), data.classes, names, f"{data.name} {split}, {source}")


def _contents(path: Path, split: Split, data: Published) -> tuple[Version, dict[str, bytes], str]:
    """The version found, the bytes of its files by name, and where they lie."""
    if path.is_file():
        for version in data.versions:
            if path.name == version.archive:
                return version, _unpacked(path, version, split), str(path)
        archives = listed(version.archive for version in data.versions)
        raise ValueError(f"{path} is a file, and not one of {data.name}'s archives {archives}: name one, or a folder")
    existing_folder(path)
    for version in data.versions:
        for place in (path, path / version.folder):
            if any((place / name).is_file() for name in version.files(split)):
                return version, _on_disk(place, version, split), str(place)
    for version in data.versions:
        if (path / version.archive).is_file():
            return version, _unpacked(path / version.archive, version, split), str(path / version.archive)
    looked_for = [
        place / version.files(split)[0] for version in data.versions for place in (path, path / version.folder)
    ] + [path / version.archive for version in data.versions]
    raise FileNotFoundError(
        f"{data.name}'s {split} images not found: looked for {listed(looked_for)}; "
        "put the published files there or name another folder"
    )


def _on_disk(place: Path, version: Version, split: Split) -> dict[str, bytes]:
    missing = [place / name for name in version.files(split) if not (place / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{listed(missing)} not found: {place} holds only some of the files; add them")
    present = [name for name in (*version.files(split), version.meta) if (place / name).is_file()]
    return {name: (place / name).read_bytes() for name in present}


def _unpacked(archive: Path, version: Version, split: Split) -> dict[str, bytes]:
    """The files of a split, by exact member names and in one pass; other members are not looked at."""
    wanted = {f"{version.folder}/{name}": name for name in (*version.files(split), version.meta)}
    contents: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as content:
            with tarfile.open(fileobj=content, mode="r|") as members:
                for member in members:
                    if (
                        member.name in wanted
                        and member.isfile()
                        and (stream := members.extractfile(member)) is not None
                    ):
                        contents[wanted[member.name]] = read_at_most(stream, member.size)
            # to the very end: only there does gzip compare its checksum
            while content.read(PIECE):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive} is truncated or is no .tar.gz ({error}): fetch it again") from error
    missing = [f"{version.folder}/{name}" for name in version.files(split) if name not in contents]
    if missing:
        raise FileNotFoundError(f"{archive} has no {listed(missing)}: take the published archive")
    return contents


def _names(version: Version, contents: Mapping[str, bytes], data: Published, source: str) -> tuple[str, ...]:
    """The names of the classes, or none where the file that holds them is missing."""
    if version.meta not in contents:
        return ()
    where = f"{source}/{version.meta}"
    if version.pickled:
        values = _entry(unpickled(contents[version.meta], where), data.names, where)
        if not isinstance(values, list) or not all(isinstance(value, bytes | str) for value in values):
            raise ValueError(f"{where}: {data.names!r} is not a list of texts: take the published file")
        names = tuple(_text(value) for value in values)
    else:
        names = tuple(line.strip() for line in _text(contents[version.meta]).splitlines() if line.strip())
    if len(names) != data.classes:
        raise ValueError(
            f"{where} names {len(names)} classes, not {data.classes}: take the published file, or remove it"
        )
    return names
