"""The README's table of supported layers is the registry's."""

from pathlib import Path

import pytest

from numerics.supported import inserted

README = Path(__file__).parents[1] / "README.md"


def test_the_table_of_supported_layers_is_up_to_date() -> None:
    text = README.read_text(encoding="utf-8")
    assert inserted(text) == text, "run: python -m numerics.supported README.md"
    assert "`conv2d`" in text


def test_a_text_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        inserted("nothing")
