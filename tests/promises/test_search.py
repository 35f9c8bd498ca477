"""stoker.promises.search: plaintext is found in every form in which it could hide."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.promises.search import forms_of, search

SECRET = b"stoker-canary-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "content",
    [
        b"x" * 5000 + SECRET + b"y",
        SECRET.hex().encode(),
        SECRET.hex().upper().encode(),
        base64.b64encode(SECRET),
        base64.b64encode(b"a" + SECRET + b"tail"),
        base64.b64encode(b"ab" + SECRET + b"t"),
        SECRET.decode().encode("utf-16"),
    ],
)
def test_each_form_is_found_with_file_and_offset(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "leak.bin").write_bytes(content)
    (tmp_path / "empty").touch()
    found = search([tmp_path], {"canary": forms_of(SECRET)})
    assert found.files == 2
    assert {hit.path.name for hit in found.hits} == {"leak.bin"}
    assert content[found.hits[0].offset :]


def test_a_canary_in_a_file_name_is_found(tmp_path: Path) -> None:
    (tmp_path / f"copy-of-{SECRET.decode()}.txt").touch()
    found = search([tmp_path], {"canary": forms_of(SECRET)})
    assert [hit.form for hit in found.hits] == ["file name, raw"]


def test_clean_files_give_no_hit_and_say_what_was_searched(tmp_path: Path) -> None:
    (tmp_path / "clean").write_bytes(b"nothing here" * 100)
    found = search([tmp_path, tmp_path / "absent"], {"canary": forms_of(SECRET)})
    assert (found.files, found.content_bytes, found.hits, found.unreadable) == (1, 1200, (), ())


@given(secret=st.binary(min_size=8, max_size=48), before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_base64_is_found_whatever_stands_around_it(secret: bytes, before: bytes, after: bytes) -> None:
    encoded = base64.b64encode(before + secret + after)
    assert any(value in encoded for form, value in forms_of(secret).items() if form.startswith("base64"))
