"""Published formats read back what was written, and every damaged, missing or foreign file is refused by its name."""

from __future__ import annotations

import gzip
import io
import itertools
import math
import os
import pickle
import random
import shutil
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from numerics.images import Images, digits_images
from numerics.readers import NAMES, Folder, cifar, folders, idx, load
from numerics.readers.cifar import CIFAR10, CIFAR100, Published
from numerics.readers.files import read_at_most


def outcome(work: Callable[[], Any]) -> Any:
    """What it returns, or the text of the error that readers may raise; any other error fails the test."""
    try:
        return work()
    except (ValueError, FileNotFoundError) as error:
        return str(error)


# MNIST: IDX


def idx_bytes(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def drawn(shape: tuple[int, ...], seed: int = 0, below: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(below, size=shape, dtype=np.uint8)


def write_mnist(folder: Path, split: str = "train", samples: int = 3, mark: str = "-", end: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    prefix = {"train": "train", "test": "t10k"}[split]
    for kind, array in (("images", drawn((samples, 28, 28))), ("labels", np.arange(samples, dtype=np.uint8) % 10)):
        content = idx_bytes(array)
        path = folder / f"{prefix}-{kind}{mark}idx{array.ndim}-ubyte{end}"
        path.write_bytes(zipped(content) if end else content)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_an_idx_file_reads_back_equal(tmp_path_factory: Any, shape: list[int], gz: bool, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / f"written{'.gz' if gz else ''}"
    array = drawn(tuple(shape), seed)
    path.write_bytes(zipped(idx_bytes(array)) if gz else idx_bytes(array))
    found = idx.read_idx(path, len(shape))
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), array)


@settings(max_examples=100)
@given(st.data())
def test_an_idx_file_cut_anywhere_is_refused_by_name(tmp_path_factory: Any, data: st.DataObject) -> None:
    gz = data.draw(st.booleans())
    array = drawn((2, 3, data.draw(st.integers(1, 40))))
    content = zipped(idx_bytes(array)) if gz else idx_bytes(array)
    path = tmp_path_factory.getbasetemp() / f"cut{'.gz' if gz else ''}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=f"{path} is truncated"):
        idx.read_idx(path, 3)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_every_single_cut_of_a_small_idx_file_is_refused(tmp_path: Path, end: str) -> None:
    content = idx_bytes(drawn((4,)))
    content = zipped(content) if end else content
    path = tmp_path / f"labels{end}"
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="is truncated"):
            idx.read_idx(path, 1)


def test_a_flipped_byte_of_a_gzip_file_is_refused_or_harmless(tmp_path: Path) -> None:
    """The checksum guards the contents; the header's time and flags may change without a trace in them."""
    array = drawn((50,))
    content = zipped(idx_bytes(array))
    path = tmp_path / "labels.gz"
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        found = outcome(lambda: idx.read_idx(path, 1).numpy())
        refused += isinstance(found, str)
        assert str(path) in found if isinstance(found, str) else np.array_equal(found, array)
    assert refused >= len(content) - 10


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("f", b"\0\0\x08\x03" + b"\0\0\0\1" * 3 + b"x", r"magic number 00000803, not 00000801"),
        ("f", b"\0\0\x0d\x01\0\0\0\1x", r"magic number 00000d01"),
        ("f", b"hello, world", r"magic number 68656c6c"),
        ("f", b"\0\0\x08\x01\0\0\0\0", r"holds nothing.*\(0,\)"),
        ("f", b"\0\0\x08\x01\0\0\0\1xy", r"bytes after the 1"),
        ("f", b"\0\0\x08\x01\xff\xff\xff\xffxy", r"truncated: 2 of the 4294967295 bytes"),
        ("f", zipped(idx_bytes(drawn((3,)))), r"is gzipped: decompress it, or add \.gz"),
        ("f.gz", idx_bytes(drawn((3,))), r"named \.gz but is not gzipped"),
        ("f.gz", zipped(idx_bytes(drawn((3,))) + b"!"), r"bytes after the 3"),
        ("f.gz", zipped(idx_bytes(drawn((3,)))) + b"!!", r"damaged gzip"),
        ("f.gz", zipped(b"hello, world"), r"magic number 68656c6c"),
    ],
)
def test_a_wrong_idx_file_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name} .*{words}"):
        idx.read_idx(tmp_path / name, 1)


def test_a_header_that_states_more_than_any_memory_holds_is_a_truncated_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0\0\x08\x03" + b"\xff" * 12 + b"xy")
    with pytest.raises(ValueError, match="truncated: 2 of the"):
        idx.read_idx(tmp_path / "f", 3)
    assert read_at_most(io.BytesIO(b"abc"), 2**200) == b"abc"


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("sub", [".", "raw", "MNIST/raw"])
def test_mnist_is_found_under_each_published_name(tmp_path: Path, mark: str, end: str, sub: str) -> None:
    write_mnist(tmp_path / sub, "train", 12, mark, end)
    write_mnist(tmp_path / sub, "test", 5, mark, end)
    images = load("mnist", tmp_path)
    assert isinstance(images, Images)
    assert (len(images), images.shape, images.classes, images.names[7]) == (12, (1, 28, 28), 10, "7")
    assert np.array_equal(images.pixels[:, 0].numpy(), drawn((12, 28, 28)))
    assert images.labels.tolist() == [*range(10), 0, 1]
    assert len(load("mnist", str(tmp_path), "test")) == 5


def test_a_missing_mnist_file_lists_what_was_looked_for(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="train labels not found") as refusal:
        load("mnist", tmp_path)
    for name in ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte.gz", "MNIST/raw/train-labels-idx1-ubyte"):
        assert str(tmp_path / name) in str(refusal.value)
    with pytest.raises(FileNotFoundError, match="IDX file not found"):
        idx.read_idx(tmp_path / "absent", 1)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (drawn((2, 28, 27)), np.zeros(2, np.uint8), "train-images.* 28 x 27 pixels: MNIST's have 28 x 28"),
        (drawn((2, 28, 28)), np.zeros(3, np.uint8), "holds 2 images, but .*train-labels.* 3 labels"),
        (drawn((2, 28, 28)), np.array([9, 10], np.uint8), r"train-labels.*label 10 of image 1 is outside 0 \.\. 9"),
    ],
)
def test_mnist_files_that_do_not_fit_are_refused(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, words: str
) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(ValueError, match=words):
        load("mnist", tmp_path)


# CIFAR


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes as Python 2 did: protocol 2, texts and bytes alike as byte strings."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined] # noqa: RUF012

    def save_string(self, value: str | bytes) -> None:
        raw = value.encode("latin-1") if isinstance(value, str) else value
        self.write((b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(value)

    dispatch[str] = save_string
    dispatch[bytes] = save_string


def python2(content: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(content)
    # where NumPy 1 kept the function
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def python3(content: object) -> bytes:
    return pickle.dumps(content, protocol=3)


Batch = tuple[np.ndarray, dict[str, list[int]]]
BOTH = pytest.mark.parametrize("data", [CIFAR10, CIFAR100], ids=["10", "100"])


def batch(data: Published, samples: int, seed: int = 0) -> Batch:
    """Pixels `(N, 3072)` and the lists of labels of one file."""
    source = np.random.default_rng(seed)
    return drawn((samples, 3072), seed), {
        key: source.integers(classes, size=samples).tolist() for key, classes in data.labels
    }


def as_binary(made: Batch) -> bytes:
    pixels, labels = made
    columns = [np.array(values, dtype=np.uint8)[:, None] for values in labels.values()]
    return np.concatenate([*columns, pixels], axis=1).tobytes()


def as_dictionary(made: Batch) -> dict[str, object]:
    pixels, labels = made
    return {"batch_label": "one of five", "data": pixels, "filenames": ["a.png"] * len(pixels), **labels}


WRITERS: dict[str, Callable[[Batch], bytes]] = {
    "binary": as_binary,
    "python 2": lambda made: python2(as_dictionary(made)),
    "python 3": lambda made: python3(as_dictionary(made)),
    "by columns": lambda made: python2(as_dictionary((np.asfortranarray(made[0]), made[1]))),
}
WRITTEN = pytest.mark.parametrize("writer", WRITERS)


def reader(writer: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return cifar.read_binary if writer == "binary" else cifar.read_pickle


def small(data: Published, samples: int) -> Published:
    """The data set with that many images a file."""
    return replace(data, train=samples * len(data.versions[0].train), test=samples)


def write_cifar(folder: Path, data: Published, writer: str, samples: int = 2) -> dict[str, Batch]:
    """All files of a version; file `k` of the list is drawn by seed `k`."""
    folder.mkdir(parents=True, exist_ok=True)
    version = data.versions[writer != "binary"]
    made = {name: batch(data, samples, seed) for seed, name in enumerate((*version.train, *version.test))}
    for name, content in made.items():
        (folder / name).write_bytes(WRITERS[writer](content))
    names = [f"class {k}" for k in range(data.classes)]
    text = "\n".join(names) + "\n\n"
    meta = text.encode() if writer == "binary" else python2({data.names: names, "num_vis": 3072})
    (folder / version.meta).write_bytes(meta)
    return made


def write_archive(path: Path, data: Published, writer: str, samples: int = 2, level: int = 6) -> None:
    """The archive as published: one folder, the files in another order than they are counted."""
    version = data.versions[writer != "binary"]
    folder = path.parent / "to pack"
    write_cifar(folder, data, writer, samples)
    with tarfile.open(path, "w:gz", compresslevel=level) as archive:
        for name in sorted(os.listdir(folder), reverse=True):
            archive.add(folder / name, f"{version.folder}/{name}")
    shutil.rmtree(folder)


@settings(max_examples=40)
@given(st.sampled_from([CIFAR10, CIFAR100]), st.sampled_from(sorted(WRITERS)), st.integers(1, 4), st.integers(0, 99))
def test_a_cifar_file_reads_back_equal(data: Published, writer: str, samples: int, seed: int) -> None:
    made = batch(data, samples, seed)
    pixels, labels = reader(writer)(WRITERS[writer](made), data, "a file")
    assert np.array_equal(pixels, made[0])
    assert labels.tolist() == made[1][data.labels[-1][0]]


@settings(max_examples=150)
@given(st.sampled_from([CIFAR10, CIFAR100]), st.sampled_from(sorted(WRITERS)), st.data())
def test_a_cifar_file_cut_anywhere_is_refused_by_name(
    tmp_path_factory: Any, data: Published, writer: str, draw: st.DataObject
) -> None:
    content = WRITERS[writer](batch(data, 2))
    name = data.versions[writer != "binary"].test[0]
    folder = tmp_path_factory.getbasetemp() / f"cut {name}"
    folder.mkdir(exist_ok=True)
    # half of the draws where the structure is, the other half anywhere in the pixels; a whole record among them
    edges = st.integers(0, 400) | st.integers(len(content) - 400, len(content) - 1) | st.just(len(content) // 2)
    (folder / name).write_bytes(content[: draw.draw(edges | st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=f"{name} (is truncated|has .*truncated|holds .*truncated)"):
        cifar.load(folder, "test", small(data, 2))


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_of_a_pickle_gives_images_or_our_refusal(place: int, change: int) -> None:
    content = bytearray(python2(as_dictionary(batch(CIFAR100, 1))))
    # all bytes but the pixels, which may be anything
    structure = [*range(400), *range(len(content) - 400, len(content))]
    content[structure[place % len(structure)]] ^= change
    found = outcome(lambda: cifar.read_pickle(bytes(content), CIFAR100, "the file"))
    if isinstance(found, str):
        assert "the file" in found
    else:
        pixels, labels = found
        assert pixels.shape == (1, 3072)
        assert 0 <= labels[0] < 100


@BOTH
@WRITTEN
@pytest.mark.parametrize("place", ["itself", "parent", "archive", "archive by name"])
def test_cifar_is_found_where_it_is_published(tmp_path: Path, data: Published, writer: str, place: str) -> None:
    version = data.versions[writer != "binary"]
    folder = tmp_path
    if place.startswith("archive"):
        write_archive(tmp_path / version.archive, data, writer)
        folder = tmp_path / version.archive if place == "archive by name" else tmp_path
    else:
        write_cifar(tmp_path / version.folder if place == "parent" else tmp_path, data, writer)
    for split, names in (("train", version.train), ("test", version.test)):
        images = cifar.load(folder, split, small(data, 2))  # type: ignore[arg-type]
        seeds = [(*version.train, *version.test).index(name) for name in names]
        made = [batch(data, 2, seed) for seed in seeds]
        expected = np.concatenate([pixels for pixels, _ in made]).reshape(-1, 3, 32, 32)
        assert images.pixels.dtype == torch.uint8
        assert np.array_equal(images.pixels.numpy(), expected)
        assert images.labels.tolist() == [k for _, labels in made for k in labels[data.labels[-1][0]]]
        assert (images.classes, images.names[5]) == (data.classes, "class 5")


def test_the_first_byte_of_a_record_is_red_at_the_upper_left(tmp_path: Path) -> None:
    record = np.zeros(3073, np.uint8)
    record[0], record[1], record[2], record[1 + 32], record[1 + 1024], record[3072] = 7, 10, 20, 30, 40, 50
    (tmp_path / "test_batch.bin").write_bytes(record.tobytes())
    images = load("cifar10", tmp_path, "test", complete=False)
    assert isinstance(images, Images)
    pixels = images.pixels
    assert images.labels.tolist() == [7]
    found = (pixels[0, 0, 0, 0], pixels[0, 0, 0, 1], pixels[0, 0, 1, 0], pixels[0, 1, 0, 0], pixels[0, 2, 31, 31])
    assert [int(value) for value in found] == [10, 20, 30, 40, 50]
    assert images.names == ()


def test_the_published_number_of_images_is_due(tmp_path: Path) -> None:
    with (tmp_path / "test.bin").open("wb") as stream:
        stream.truncate(10_000 * 3074)
    images = load("cifar100", tmp_path, "test")
    assert (len(images), images.classes, images.shape) == (10_000, 100, (3, 32, 32))
    os.truncate(tmp_path / "test.bin", 9_999 * 3074)
    with pytest.raises(ValueError, match=r"test\.bin holds 9999 images, not 10000: it is truncated"):
        load("cifar100", tmp_path, "test")
    assert len(load("cifar100", tmp_path, "test", complete=False)) == 9_999
    os.truncate(tmp_path / "test.bin", 0)
    with pytest.raises(ValueError, match=r"test\.bin holds 0 images"):
        load("cifar100", tmp_path, "test", complete=False)
    (tmp_path / "test.bin").write_bytes(bytes(3075))
    with pytest.raises(ValueError, match=r"has 3075 bytes, which is no multiple of a record's 3074.*trailing"):
        load("cifar100", tmp_path, "test")


@BOTH
@WRITTEN
def test_missing_cifar_files_are_listed(tmp_path: Path, data: Published, writer: str) -> None:
    with pytest.raises(FileNotFoundError) as refusal:
        cifar.load(tmp_path, "train", data)
    for version in data.versions:
        for name in (version.train[0], f"{version.folder}/{version.train[0]}", version.archive):
            assert str(tmp_path / name) in str(refusal.value)
    version = data.versions[writer != "binary"]
    write_cifar(tmp_path, data, writer)
    if len(version.train) > 1:
        (tmp_path / version.train[3]).unlink()
        with pytest.raises(FileNotFoundError, match=f"{version.train[3]} not found: .* only some of the files"):
            cifar.load(tmp_path, "train", small(data, 2))
    (tmp_path / version.meta).unlink()
    assert cifar.load(tmp_path, "test", small(data, 2)).names == ()


@BOTH
@WRITTEN
def test_cifar_labels_out_of_range_are_refused(data: Published, writer: str) -> None:
    for key, classes in data.labels:
        pixels, labels = batch(data, 3)
        labels[key] = [0, classes, 0]
        with pytest.raises(
            ValueError, match=rf"a file, {key}: label {classes} of image 1 is outside 0 \.\. {classes - 1}"
        ):
            reader(writer)(WRITERS[writer]((pixels, labels)), data, "a file")
    if writer != "binary":
        labels[key] = [0, -1, 0]
        with pytest.raises(ValueError, match="label -1 of image 1"):
            reader(writer)(WRITERS[writer]((pixels, labels)), data, "a file")


GOOD = as_dictionary(batch(CIFAR10, 2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({**GOOD, "labels": [1]}, "holds 2 images, but 1 labels"),
        ({**GOOD, "labels": [1.0, 2]}, "'labels' is not a list of integers"),
        ({**GOOD, "labels": [True, 2]}, "'labels' is not a list of integers"),
        ({**GOOD, "labels": [2**70, 2]}, "'labels' is not a list of integers"),
        ({**GOOD, "labels": "ab"}, "'labels' is not a list of integers"),
        ({"data": GOOD["data"]}, r"no entry 'labels' \(it holds data\)"),
        ({}, r"no entry 'data' \(it holds nothing\)"),
        ({**GOOD, "data": [1, 2]}, "'data' is not a NumPy matrix of unsigned bytes"),
        ({**GOOD, "data": np.dtype("u1")}, "'data' is not a NumPy matrix of unsigned bytes"),
        ({**GOOD, "data": np.ones((2, 3072))}, "'data' is not a NumPy matrix of unsigned bytes"),
        ({**GOOD, "data": np.ones((2, 3072), np.int8)}, "'data' is not a NumPy matrix of unsigned bytes"),
        ({**GOOD, "data": np.ones((2, 3072), object)}, "'data' is not a NumPy matrix of unsigned bytes"),
        ({**GOOD, "data": np.ones((3072,), np.uint8)}, "'data' is not a NumPy matrix of unsigned bytes"),
        ({**GOOD, "data": np.ones((2, 784), np.uint8)}, r"3072 columns.*\(2, 784\)"),
        ([1, 2], "holds a list, not a dictionary"),
        ({1: 2}, "keys that are not text"),
    ],
)
@pytest.mark.parametrize("write", [python2, python3])
def test_a_pickle_of_something_else_is_refused(content: object, words: str, write: Callable[[object], bytes]) -> None:
    with pytest.raises(ValueError, match=f"a file.*{words}"):
        cifar.read_pickle(write(content), CIFAR10, "a file")


def test_bytes_after_a_pickle_are_refused() -> None:
    with pytest.raises(ValueError, match="a file has bytes after the end"):
        cifar.read_pickle(python2(GOOD) + b"N.", CIFAR10, "a file")


class Calls:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (getattr, r"(builtins|__builtin__)\.getattr"),
        (Path, r"pathlib\.Path"),
        (np.load, r"numpy\.load"),
        (np.fromfile, r"numpy(\._?core\.multiarray)?\.fromfile"),
        (torch.load, r"torch\.serialization\.load"),
        (bytearray, r"(builtins|__builtin__)\.bytearray"),
    ],
)
def test_a_pickle_that_calls_anything_else_is_refused_by_name(
    protocol: int, function: Callable[..., object], name: str
) -> None:
    content = pickle.dumps({**GOOD, "filenames": Calls(function, "1")}, protocol=protocol)
    # protocols 0 to 2 hold bytes as a call of _codecs.encode, and 5 arrays as one of _frombuffer: neither was published
    with pytest.raises(cifar.Refused, match=rf"asks for ({name}|_codecs\.encode|numpy\._core\.numeric\._frombuffer),"):
        cifar.read_pickle(content, CIFAR10, "a file")
    with pytest.raises(cifar.Refused, match=rf"asks for {name}, which is refused"):
        cifar.unpickled(pickle.dumps({"names": Calls(function, "1")}, protocol=protocol), "a file")


def test_a_refused_call_has_not_run(tmp_path: Path) -> None:
    content = pickle.dumps({"names": Calls(os.mkdir, str(tmp_path / "made"))}, protocol=3)
    pickle.loads(content)
    (tmp_path / "made").rmdir()
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=r"test_batch: the pickle asks for (posix|nt)\.mkdir"):
        load("cifar10", tmp_path, "test")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nndarray.tofile\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"(S'1'\nibuiltins\neval\n.",
        b"c__main__\nCalls\n.",
    ],
)
def test_dotted_names_and_other_ways_to_a_name_are_refused(content: bytes) -> None:
    with pytest.raises(cifar.Refused, match="asks for"):
        cifar.unpickled(content, "a file")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # an array made without arguments or state
        b"\x80\x02cnumpy\nndarray\n(I1\nI2\ntR.",
        b"\x80\x02cnumpy\nndarray\n.",  # the class itself
        b"\x80\x02cnumpy\nndarray\n)\x81(tb.",  # an empty state
        b"\x80\x02cnumpy\nndarray\n)\x81(I1\n(I1\nI3072\ntI0\nI0\nS''\ntb.",
    ],
)
def test_arrays_that_no_numpy_wrote_are_refused(content: bytes) -> None:
    dictionary = b"\x80\x02}S'data'\n" + content[2:-1] + b"s."
    with pytest.raises(ValueError, match="a file: 'data' is not a NumPy matrix"):
        cifar.read_pickle(dictionary, CIFAR10, "a file")


def test_a_pickle_cannot_change_the_admitted_classes() -> None:
    """The opcode b sets the state of what lies below it, here of the class itself."""
    with pytest.raises(ValueError, match="a file is truncated or is no pickle"):
        cifar.unpickled(b"\x80\x02cnumpy\nndarray\n}S'state'\nI1\nsb.", "a file")
    assert cifar.read_pickle(python2(GOOD), CIFAR10, "a file")[0].shape == (2, 3072)


@BOTH
@WRITTEN
def test_names_of_another_number_than_the_classes_are_refused(tmp_path: Path, data: Published, writer: str) -> None:
    write_cifar(tmp_path, data, writer)
    meta = tmp_path / data.versions[writer != "binary"].meta
    content = b"cat\ndog\n" if writer == "binary" else python2({data.names: ["cat", "dog"]})
    meta.write_bytes(content)
    with pytest.raises(ValueError, match=f"{meta} names 2 classes, not {data.classes}"):
        cifar.load(tmp_path, "test", small(data, 2))
    if writer != "binary":
        for wrong, words in (
            ({data.names: [1, 2]}, "is not a list of texts"),
            ({}, f"no entry '{data.names}'"),
        ):
            meta.write_bytes(python2(wrong))
            with pytest.raises(ValueError, match=f"{meta}.*{words}"):
                cifar.load(tmp_path, "test", small(data, 2))


def test_an_archive_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python.tar.gz"
    write_archive(path, CIFAR100, "python 2")
    content = path.read_bytes()
    assert len(cifar.load(tmp_path, "test", small(CIFAR100, 2))) == 2
    chosen = random.Random(0).sample(range(len(content)), 60)
    for cut in {*chosen, *range(12), *range(len(content) - 12, len(content))}:
        path.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=rf"{path} is truncated or is no \.tar\.gz"):
            cifar.load(tmp_path, "test", small(CIFAR100, 2))


def test_a_changed_byte_of_an_archive_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(path, CIFAR10, "binary", level=0)
    expected = cifar.load(path, "test", small(CIFAR10, 2))
    content = path.read_bytes()
    refused = 0
    chosen = {*random.Random(1).sample(range(len(content)), 60), *range(60)}
    for place in chosen:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x21]) + content[place + 1 :])
        found = outcome(lambda: cifar.load(path, "test", small(CIFAR10, 2)).pixels)
        refused += isinstance(found, str)
        assert str(path) in found if isinstance(found, str) else torch.equal(found, expected.pixels)
    # a header of gzip holds a time, a name and flags that no checksum guards
    assert refused >= len(chosen) - 50


def test_an_archive_is_read_by_exact_member_names_and_files_only(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    content = as_binary(batch(CIFAR10, 2))
    for name, kind in (
        ("../cifar-10-batches-bin/test_batch.bin", tarfile.REGTYPE),
        ("/cifar-10-batches-bin/test_batch.bin", tarfile.REGTYPE),
        ("test_batch.bin", tarfile.REGTYPE),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.LNKTYPE),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.DIRTYPE),
        ("cifar-10-batches-bin/test_batch.bin", tarfile.FIFOTYPE),
    ):
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(content) if kind == tarfile.REGTYPE else 0
            member.linkname = "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))
        with pytest.raises(FileNotFoundError, match=f"{path} has no cifar-10-batches-bin/test_batch.bin"):
            cifar.load(tmp_path, "test", small(CIFAR10, 2))
    assert os.listdir(tmp_path) == [path.name]


def test_a_file_in_place_of_a_folder_is_named_with_the_archives(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is a file.*cifar-10-binary\.tar\.gz, cifar-10-python\.tar\.gz"):
        load("cifar10", tmp_path / "notes.txt")


# ImageNet: class folders


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": (3,), "L": (), "CMYK": (4,)}[mode]
    return Image.fromarray(drawn((height, width, *channels), seed), mode=None if mode != "CMYK" else mode)


def write_folders(root: Path, classes: tuple[str, ...] = ("n02", "n01", "n03"), each: int = 2) -> None:
    for number, (kind, name) in enumerate(itertools.product(("train", "val"), classes)):
        folder = root / kind / name
        folder.mkdir(parents=True)
        for k in range(each):
            picture(40 + 10 * k, 48, number * each + k).save(folder / f"{name}_{k}.JPEG", quality=95)


@pytest.mark.parametrize("sub", [".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"])
def test_labels_number_the_sorted_class_folders(tmp_path: Path, sub: str) -> None:
    write_folders(tmp_path / sub)
    (tmp_path / sub / "train" / "n01" / ".hidden").write_text("")
    for split, kind in (("train", "train"), ("test", "val")):
        found = load("imagenet", tmp_path, split)  # type: ignore[arg-type]
        assert isinstance(found, Folder)
        assert found.names == ("n01", "n02", "n03")
        assert (len(found), found.classes, found.shape) == (6, 3, (3, 224, 224))
        assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
        top = tmp_path / sub / kind
        assert [str(path) for path in found.files] == [
            str(top / name / f"{name}_{k}.JPEG") for name in found.names for k in range(2)
        ]


def test_a_batch_is_decoded_in_its_order_by_any_number_of_threads(tmp_path: Path) -> None:
    write_folders(tmp_path)
    found = folders.load(tmp_path, "train")
    order = [5, 0, 3, 0]
    first = found.batch(order)
    assert first.pixels.shape == (4, 3, 224, 224)
    assert first.pixels.dtype == torch.uint8
    assert first.labels.tolist() == [2, 0, 1, 0]
    assert (first.names, first.classes) == (found.names, 3)
    assert torch.equal(replace(found, workers=1).batch(order).pixels, first.pixels)
    for place, index in enumerate(order):
        pixels, label = found[index]
        assert torch.equal(pixels, first.pixels[place])
        assert label == int(first.labels[place])
    assert torch.equal(found.subset(order).batch(range(4)).pixels, first.pixels)
    assert not torch.equal(first.pixels[0], first.pixels[1])
    assert found.chosen(3, 1).files == found.chosen(3, 1).files != found.chosen(3, 2).files


def test_the_centre_is_cut_out_where_the_short_side_fits_already(tmp_path: Path) -> None:
    for width, height in ((512, 256), (256, 301), (259, 256)):  # odd differences round to the even half
        image = picture(width, height)
        image.save(tmp_path / "a.png")
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        expected = np.array(image)[top : top + 224, left : left + 224]
        assert np.array_equal(folders.decoded(tmp_path / "a.png", 256, 224).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    ("width", "height", "size"), [(500, 375, (341, 256)), (333, 500, (256, 384)), (40, 30, (341, 256))]
)
def test_the_short_side_is_resized_and_the_long_one_rounded_down(
    tmp_path: Path, width: int, height: int, size: tuple[int, int]
) -> None:
    image = picture(width, height)
    image.save(tmp_path / "a.png")
    large = np.array(image.resize(size, Image.Resampling.BILINEAR))
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = large[top : top + 224, left : left + 224]
    assert np.array_equal(folders.decoded(tmp_path / "a.png", 256, 224).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_printing_colours_become_red_green_and_blue(tmp_path: Path, mode: str) -> None:
    image = picture(300, 260, mode=mode)
    image.save(tmp_path / "a.JPEG")
    found = folders.decoded(tmp_path / "a.JPEG", 260, 260)
    with Image.open(tmp_path / "a.JPEG") as saved:
        expected = np.array(saved.convert("RGB"))[:, 20:280]
    assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)


def test_a_damaged_image_is_named_when_it_is_asked_for_and_not_before(tmp_path: Path) -> None:
    write_folders(tmp_path)
    broken = tmp_path / "train" / "n02" / "n02_1.JPEG"
    content = broken.read_bytes()
    for damaged in (b"", b"no image", content[: len(content) // 2], content[:20]):
        broken.write_bytes(damaged)
        found = folders.load(tmp_path, "train")
        assert found.batch([0, 1, 2]).labels.tolist() == [0, 0, 1]
        with pytest.raises(ValueError, match=f"{broken} cannot be decoded"):
            found.batch([0, 3])
        with pytest.raises(ValueError, match=f"{broken} cannot be decoded"):
            found[3]
    broken.unlink()
    with pytest.raises(FileNotFoundError, match=r"n02_1\.JPEG"):
        found.batch([3])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_cut_at_any_byte_is_refused_unless_all_its_pixels_are_there(tmp_path: Path, kind: str) -> None:
    """Pillow does not ask for what follows the pixels: checksums and an end mark, at most 20 bytes."""
    stream = io.BytesIO()
    picture(8, 8).save(stream, kind)
    content, path = stream.getvalue(), tmp_path / "a.png"
    path.write_bytes(content)
    whole = folders.decoded(path, 8, 8)
    refused = 0
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        found = outcome(lambda: folders.decoded(path, 8, 8))
        refused += isinstance(found, str)
        assert f"{path} cannot be decoded" in found if isinstance(found, str) else torch.equal(found, whole)
    assert refused >= len(content) - 20


def test_folders_without_images_or_with_something_else_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path)
    odd = tmp_path / "train" / "n01" / "notes.txt"
    odd.write_text("hello")
    with pytest.raises(ValueError, match=f"{odd} is no image file"):
        load("imagenet", tmp_path)
    odd.unlink()
    (tmp_path / "train" / "n01" / "images").mkdir()
    with pytest.raises(ValueError, match=r"images is no image file"):
        load("imagenet", tmp_path)
    (tmp_path / "train" / "n01" / "images").rmdir()
    (tmp_path / "train" / "n00").mkdir()
    with pytest.raises(ValueError, match=r"the class folder .*n00 is empty"):
        load("imagenet", tmp_path)
    with pytest.raises(ValueError, match=r"the class folder n00 is in only one of"):
        load("imagenet", tmp_path, "test")
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(ValueError, match=r"val_00000001\.JPEG lies in no class folder.*published unsorted"):
        load("imagenet", tmp_path, "test")


def test_missing_and_single_class_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="test images not found") as refusal:
        load("imagenet", tmp_path, "test")
    for name in ("val", "validation", "ILSVRC/Data/CLS-LOC/val"):
        assert str(tmp_path / name) in str(refusal.value)
    write_folders(tmp_path, ("n01",))
    with pytest.raises(ValueError, match="train holds 1 class folders: at least 2"):
        load("imagenet", tmp_path)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "val" / "n02").mkdir()
    picture(9, 9).save(tmp_path / "val" / "n02" / "a.jpg")
    assert load("imagenet", tmp_path, "test").labels.tolist() == [0, 0, 1]  # without training images nothing to compare


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": ()}, "no image files"),
        ({"names": ("a",)}, "1 class folders"),
        ({"labels": torch.tensor([0])}, r"int64 of shape \(2,\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "float32.*give int64"),
        ({"labels": torch.tensor([0, 2])}, r"must lie in 0 \.\. 1"),
        ({"crop": 257}, r"crop = 257: it must lie in 1 \.\. 256"),
        ({"crop": 0}, "crop = 0"),
        ({"workers": 0}, "workers = 0"),
    ],
)
def test_a_malformed_folder_is_refused(changes: dict[str, Any], words: str) -> None:
    good = Folder((Path("a"), Path("b")), torch.tensor([0, 1]), ("x", "y"))
    with pytest.raises(ValueError, match=words):
        replace(good, **changes)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=f"index {wrong} is outside"):
            good.batch([wrong])
        with pytest.raises(IndexError, match=f"index {wrong} is outside"):
            good[wrong]


# All of them


def test_the_digits_need_no_folder() -> None:
    for split in ("train", "test"):
        found = load("digits", split=split, seed=3)  # type: ignore[arg-type]
        assert isinstance(found, Images)
        assert torch.equal(found.pixels, digits_images(split, seed=3).pixels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave out the folder data"):
        load("digits", "data")


def test_unknown_names_splits_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'svhn': use one of mnist, cifar10"):
        load("svhn", tmp_path)  # type: ignore[arg-type]
    for name in NAMES:
        with pytest.raises(ValueError, match="use 'train' or 'test'"):
            load(name, tmp_path, "val")  # type: ignore[arg-type]
        if name != "digits":
            with pytest.raises(ValueError, match=f"{name} is read from files: name the folder"):
                load(name)
            with pytest.raises(FileNotFoundError, match=f"the data folder {tmp_path / 'absent'} does not exist"):
                load(name, tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="file is a file"):
        load("mnist", tmp_path / "file")
    assert math.prod(digits_images().shape) == 64
