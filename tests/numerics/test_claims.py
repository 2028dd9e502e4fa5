"""Papers, claims and evidence: verdicts, tightness, and which legs are missing."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numerics.claims import Claim, Evidence, Paper, missing_legs, read_evidence, read_paper
from numerics.report import to_json

positive = st.floats(1e-3, 1e6)


def evidence(bound: float | str, measured: float | None, sense: str = "upper", **more: object) -> Evidence:
    return Evidence("A", "c", "measured", "a number", bound, measured, sense, **more)  # type: ignore[arg-type]


@given(positive, st.floats(0.0, 1.0))
def test_tightness_lies_in_the_unit_interval_where_the_bound_holds(bound: float, part: float) -> None:
    for row in (evidence(bound, part * bound), evidence(part * bound, bound, "lower")):
        assert row.holds
        assert row.tightness is not None
        assert 0 <= row.tightness <= 1 + 1e-12


@given(positive, st.floats(1.001, 10.0))
def test_a_violated_bound_does_not_hold(bound: float, factor: float) -> None:
    # at least 0.1 per cent of at least 1e-3 beyond, against a slack of 1e-9
    assert not evidence(bound, bound * factor).holds
    assert not evidence(bound * factor, bound, "lower").holds


def test_equalities_have_a_tolerance_and_no_tightness() -> None:
    assert evidence(1.0, 1.05, "equal", tolerance=0.03).holds
    assert not evidence(1.0, 1.07, "equal", tolerance=0.03).holds
    assert evidence(1.0, 1.0, "equal").tightness is None


def test_not_a_number_never_holds_and_infinite_bounds_do() -> None:
    assert not evidence(1.0, math.nan).holds
    assert not evidence(math.nan, 1.0).holds
    assert evidence(math.inf, 1.0).holds
    assert evidence(math.inf, 1.0).tightness is None
    assert evidence(math.inf, math.inf, "equal").holds


def test_missing_legs_are_named_and_sentences_excuse_them() -> None:
    paper = Paper(
        "A", "authors", "title", 2020, "arXiv", (Claim("c", "s", "read", {"searched": "It is an identity."}),)
    )
    assert missing_legs(paper, []) == {"c": ("derived", "measured")}
    assert missing_legs(paper, [evidence(1.0, 0.5)]) == {"c": ("derived",)}
    assert missing_legs(paper, [evidence(1.0, 0.5), Evidence("A", "c", "derived", "form", "x + 1")]) == {}
    assert missing_legs(paper, [Evidence("B", "c", leg, "form", "x") for leg in ("derived", "measured")]) != {}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Claim("c", "s", "guessed"), "unknown source 'guessed'"),
        (lambda: Claim("c", "s", "read", {"proved": "It is."}), "unknown leg 'proved'"),
        (lambda: Claim("c", "s", "read", {"searched": "no"}), "has to be a sentence"),
        (lambda: Paper("A", "", "", 2020, "", (Claim("c", "s", "read"), Claim("c", "s", "read"))), "stated twice: c"),
        (lambda: Paper("A", "", "", 2020, "", ()).claim("d"), "has no claim 'd'"),
        (lambda: Evidence("A", "c", "seen", "w", 1.0), "unknown leg 'seen'"),
        (lambda: Evidence("A", "c", "derived", "w", 1.0, 1.0, "about"), "sense 'about'"),
        (lambda: Evidence("A", "c", "derived", "w", 1.0, finding="wrong", note="n"), "a finding is one of"),
        (lambda: Evidence("A", "c", "derived", "w", 1.0, finding="false"), "has a note"),
    ],
)
def test_bad_records_are_refused_by_name(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_records_come_back_from_json_with_their_verdicts() -> None:
    paper = Paper(
        "A", "authors", "title", 2020, "arXiv", (Claim("c", "s", "read", {"searched": "It is an identity."}),)
    )
    assert read_paper({"package": "p", **json.loads(to_json(asdict(paper)))}) == paper
    for row in (
        evidence(1.0, 0.5),
        evidence("x + 1", None),
        evidence(math.inf, 3.0),
        evidence(1.0, math.inf),
        evidence(1.0, -math.inf, "lower"),
        evidence("[0, 1]", 0.5, finding="false", note="It is not so."),
    ):
        record = json.loads(to_json({**asdict(row), "holds": row.holds, "tightness": row.tightness}))
        assert read_evidence(record) == row
        assert read_evidence(record).holds == row.holds
    lost = evidence(1.0, math.nan)
    assert not read_evidence(json.loads(to_json({**asdict(lost), "holds": lost.holds}))).holds


@pytest.mark.parametrize(
    ("note", "sentence"),
    [
        ("loose by half", "Loose by half."),
        ("a pose moves it", "A pose moves it."),
        ("worse: 0.3", "Worse: 0.3."),
        ("x -> 0.", "x -> 0."),
        ("", ""),
    ],
)
def test_notes_are_shown_as_sentences(note: str, sentence: str) -> None:
    assert evidence(1.0, 0.5, note=note).sentence == sentence
