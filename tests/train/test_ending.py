"""What is shown of a model's own words."""

from __future__ import annotations

import json

from stoker.train.ending import encode, redacted
from support.small_datasets import small_tokenizer


def test_a_sample_is_redacted_before_it_is_shown() -> None:
    shown = redacted(b"def f():  # ask jane.doe@example.org or 4111 1111 1111 1111")
    assert "jane.doe" not in shown
    assert "4111" not in shown
    assert shown.startswith("def f():  # ask <EMAIL>")


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert redacted(b"a\xffb") == "a\N{REPLACEMENT CHARACTER}b"


def test_a_prompt_is_encoded_by_the_datasets_own_tokenizer() -> None:
    tokenizer = small_tokenizer(["def f(x): return x"] * 20)
    artefact = bytearray(tokenizer.to_str().encode())
    assert json.loads(artefact)["added_tokens"][0]["id"] == 0
    ids = encode(artefact, "def ")
    assert ids and tokenizer.decode(ids) == "def "
    assert encode(artefact, "") == []
