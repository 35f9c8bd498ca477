"""A KEK has one name, and a text names at most one KEK."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.keys.errors import BadKekRef
from stoker.keys.refs import KekRef

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEGMENTS = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,40}[a-z0-9])?", fullmatch=True)
SCOPES = st.tuples(st.sampled_from(["source", "dataset", "run"]), SEGMENTS, SEGMENTS).map("/".join)


@UNHURRIED
@given(SCOPES, st.integers(1, 2**32 - 1))
def test_parsing_gives_back_what_was_named(scope: str, epoch: int) -> None:
    ref = KekRef(scope, epoch)
    assert KekRef.parse(str(ref)) == ref


@UNHURRIED
@given(st.text(max_size=60))
def test_any_text_is_refused_or_is_the_name(text: str) -> None:
    try:
        assert str(KekRef.parse(text)) == text
    except BadKekRef as error:
        assert error.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#1",
        "dataset/own-text",
        "dataset/own-text#0",
        "dataset/own-text#01",
        "dataset/own-text#1 ",
        "dataset/own-text#+1",
        "dataset/own-text#٣",
        "dataset/own-text#4294967296",
        "dataset/own-text#1#2",
        "Dataset/own-text#1",
        "dataset/оwn-text#1",
        "dataset/../x#1",
        "dataset/a..b#1",
        "dataset//x#1",
        "dataset/x/#1",
        "/dataset/x#1",
        "dataset/a/b/c/d#1",
        "dataset/" + "a" * 64 + "#1",
        "dataset/x\n#1",
        "dataset/" + "/".join(["a" * 63] * 3) + "#1234567",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(BadKekRef):
        KekRef.parse(text)
