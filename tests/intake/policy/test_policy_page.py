"""docs/design/policy.md names every treatment, every kind that has a general form, and every limit."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from stoker.intake.bounded import Why
from stoker.intake.policy.pseudonym import PSEUDONYM_LETTERS
from stoker.intake.policy.treat import MAX_ROUNDS
from stoker.spec.kinds import Kind
from stoker.spec.policy import DOMAIN_BITS, GENERALISED, LEAST_PSEUDONYM_BITS, PolicySpec, Treatment
from stoker.spec.terms import Protection, ReviewTerms

PAGE = (Path(__file__).parents[3] / "docs/design/policy.md").read_text()


def rows(heading: str) -> list[str]:
    """The words in code type of the first column of the table under a heading."""
    part = re.split(r"^#+ ", PAGE.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]
    return [word for row in re.findall(r"^\| (`.*?) \|", part, re.M) for word in re.findall(r"`(\w+)`", row)]


def test_treatments_kinds_and_terms_are_those_of_the_code() -> None:
    assert set(rows("The file")) == {each.value for each in Treatment}
    assert set(rows("Generalising")) == {kind.value for kind in GENERALISED}
    assert rows("The gate") == [field.name for field in dataclasses.fields(ReviewTerms)]
    assert ", ".join(f"`{each}`" for each in Protection) in PAGE


def test_limits_and_reasons_are_those_of_the_code() -> None:
    usual = PolicySpec()
    assert f"document_s = {usual.document_s}" in PAGE
    assert f"worker_bytes = {usual.worker_bytes}" in PAGE
    assert f"{PSEUDONYM_LETTERS} letters" in PAGE
    assert MAX_ROUNDS == 8
    assert all(f"`scan {why}`" in PAGE for why in Why)
    few = [kind for kind in Kind if DOMAIN_BITS.get(kind, 64) < LEAST_PSEUDONYM_BITS]
    assert {f"`{kind}`" for kind in few} == {"`age`", "`title`", "`nationality`"}
    assert f"2^{LEAST_PSEUDONYM_BITS}" in PAGE
