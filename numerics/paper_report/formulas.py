"""Statements in words with formulas between `$` signs, as HTML with MathML and as LaTeX; numbers as text."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from xml.etree import ElementTree

from latex2mathml import exceptions
from latex2mathml.converter import convert
from markupsafe import Markup

from theory import latex

FAILURES: tuple[type[Exception], ...] = (
    *(kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    IndexError,
    KeyError,
    ElementTree.ParseError,
)
"""What a formula that cannot be converted raises; the library's errors have no base of their own."""
MATHML = "{http://www.w3.org/1998/Math/MathML}"
BREAKS = re.compile(r"([,(=/:\]])(?=\S)")
"""After these a long closed form may break."""
FUNCTIONS = re.compile(r"\\(?:mathrm|mathit)\{([A-Za-z]{2,})\}")
"""Words in upright letters: one word each, not a product of letters."""


def parts(text: str) -> list[tuple[bool, str]]:
    """`(is a formula, text)` in order; a `$` without a partner is a sign like any other."""
    pieces = text.split("$")
    if len(pieces) % 2 == 0:
        pieces[-2:] = ["$".join(pieces[-2:])]
    return [(bool(i % 2), piece) for i, piece in enumerate(pieces) if piece]


def mathml(formula: str) -> str | None:
    """The formula as MathML, or None where the library cannot say it or what it says is not MathML alone."""
    try:
        text = convert(FUNCTIONS.sub(r"\\operatorname{\1}", formula))
        tree = ElementTree.fromstring(text)
    except FAILURES:
        return None
    known = all(node.tag.startswith(MATHML) and "\\" not in (node.text or "") for node in tree.iter())
    return text if known else None


def as_html(text: str) -> Markup:
    """Text escaped, formulas as MathML; a formula that cannot be converted stays as it was typed, in typewriter letters."""
    out = []
    for formula, piece in parts(text):
        if not formula:
            out.append(html.escape(piece))
        elif (found := mathml(piece)) is not None:
            out.append(found)
        else:
            out.append(f"<code>{html.escape(piece)}</code>")
    return Markup("".join(out))


def as_latex(text: str) -> str:
    """Text escaped for LaTeX, formulas as they are."""
    return "".join(f"${piece}$" if formula else plain_latex(piece) for formula, piece in parts(text))


def plain_latex(text: str) -> str:
    """Text escaped for LaTeX, letters without their accents."""
    return latex.escape(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode())


def breakable(text: str) -> Markup:
    """A closed form or a test's name, escaped, that may break after commas, brackets and the like."""
    return Markup(BREAKS.sub(r"\1<wbr>", html.escape(text, quote=False)).replace("_", "_<wbr>"))


def number(value: float | str | None) -> str:
    """Four significant digits, whole numbers below a thousand million in full, a minus sign and powers of ten typeset in plain text; text as it is."""
    if value is None:
        return ""
    if isinstance(value, str):
        return {"oo": "∞", "-oo": "−∞"}.get(value, value)
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}".replace("-", "−")
    mantissa, _, power = f"{value:.4g}".partition("e")
    digits = str(int(power)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")) if power else ""
    return mantissa.replace("-", "−") + (f"·10{digits}" if digits else "")
