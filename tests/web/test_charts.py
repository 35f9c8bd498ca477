"""stoker.web.charts: every value is shown, gaps stay gaps, text cannot leave its place."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.web.charts import Mark, Part, Series, line_chart, share_bar, ticks

NAN = float("nan")


def test_a_gap_splits_the_line_and_is_not_drawn_as_zero() -> None:
    svg = line_chart(
        [Series("loss", [(1, 3.0), (2, NAN), (3, 2.0), (4, 1.0)], "loss")], [], x_title="x", y_title="y"
    )
    lines = [each for each in ElementTree.fromstring(svg).iter() if each.tag == "polyline"]
    assert [len(each.attrib["points"].split()) for each in lines] == [1, 2]


def test_marks_stand_at_their_place_with_word_and_sentence() -> None:
    svg = line_chart(
        [Series("loss", [(0, 1.0), (10, 0.0)], "loss")],
        [Mark(5, "kill", "rank 1 was killed", "kill")],
        x_title="step",
        y_title="loss",
    )
    mark = next(each for each in ElementTree.fromstring(svg).iter() if each.get("class") == "mark kill")
    assert mark.findtext("title") == "rank 1 was killed"
    assert float(mark.find("line").attrib["x1"]) == pytest.approx((56 + 860 - 16) / 2)  # type: ignore[union-attr]


def test_hostile_names_stay_text() -> None:
    name = "<script>alert(1)</script>\"'&"
    for page in (
        line_chart(
            [Series(name, [(0, 1), (1, 2)], name)], [Mark(0, name, name, name)], x_title=name, y_title=name
        ),
        share_bar([Part(name, 1.0, name)], unit=name),
    ):
        assert "<script" not in page
        ElementTree.fromstring(f"<div>{page}</div>")


def test_nothing_measured_is_said_not_drawn() -> None:
    assert "No points" in line_chart([Series("a", [(1, NAN)], "a")], [], x_title="x", y_title="y")
    assert "Nothing" in share_bar([], unit="s")


def test_shares_fill_the_bar_and_the_legend_holds_every_value() -> None:
    page = share_bar(
        [Part("productive", 75.0, "a"), Part("lost", 25.0, "b"), Part("hang", 0.0, "c")], unit="s"
    )
    widths = [float(each.attrib["width"]) for each in ElementTree.fromstring(f"<d>{page}</d>").iter("rect")]
    assert widths == [750.0, 250.0, 0.0]
    assert page.count("<li>") == 3
    assert "75.0%" in page


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_lie_inside_and_are_a_handful(low: float, span: float) -> None:
    values = ticks(low, low + span)
    assert 2 <= len(values) <= 9
    assert all(low - span * 1e-6 <= value <= low + span * (1 + 1e-6) for value in values)
