"""The README's table of what can be traced, generated from the registry: `python -m numerics.supported README.md` writes it anew."""

from __future__ import annotations

import sys
from pathlib import Path

from numerics.report import write_atomically
from numerics.trace import supported

BEGIN, END = "<!-- supported layers: python -m numerics.supported README.md -->", "<!-- end of supported layers -->"


def markdown() -> str:
    """The table as Markdown."""
    rows = []
    for names, note in sorted(supported(), key=lambda row: row[1]):
        operations = ", ".join(
            f"`{name.removeprefix('aten.')}`" for name in names.split(", ") if not name.startswith("numerics.")
        )
        if operations:
            rows.append(f"| {note.replace('|', chr(92) + '|')} | {operations} |")
    return "\n".join(["| layer | torch operations |", "|---|---|", *rows])


def inserted(text: str) -> str:
    """A text with the table between its markers.

    Raises:
        ValueError: the markers are missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the text has no place for the table: write {BEGIN!r} and {END!r}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_atomically(target, inserted(target.read_text(encoding="utf-8")))
