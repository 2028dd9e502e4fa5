"""What the readers share: finding files, reading no more than is due, and refusing labels out of range by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

PIECE = 1 << 20


class Readable(Protocol):
    """An open file of bytes, compressed or not."""

    def read(self, size: int, /) -> bytes: ...


def existing_folder(folder: Path | str) -> Path:
    """The folder as a path.

    Raises:
        FileNotFoundError: it does not exist, or is a file.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"the data folder {path} {what}: name the folder that holds the data set as published")
    return path


def first_file(candidates: Sequence[Path], what: str) -> Path:
    """The first of the candidates that is a file.

    Raises:
        FileNotFoundError: none is; all are listed.
    """
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{what} not found: looked for {listed(candidates)}; put the published files there or name another folder"
    )


def listed(names: Iterable[Path | str]) -> str:
    """Names with commas between them."""
    return ", ".join(str(name) for name in names)


def read_at_most(stream: Readable, count: int) -> bytes:
    """The next `count` bytes, or fewer where the stream ends; a count that no memory holds reserves none."""
    pieces = []
    while count > 0 and (piece := stream.read(min(count, PIECE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def check_labels(where: str, labels: npt.NDArray[np.integer[Any]], classes: int) -> None:
    """Refuse labels outside `0 .. classes - 1`.

    Raises:
        ValueError: the first such label, with its file and place.
    """
    wrong = ((labels < 0) | (labels >= classes)).nonzero()[0]
    if len(wrong):
        place = int(wrong[0])
        raise ValueError(
            f"{where}: label {labels[place]} of image {place} is outside 0 .. {classes - 1}: "
            "the file is damaged or of another data set; take the published one"
        )
