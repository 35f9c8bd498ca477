"""stoker.promises.search: plaintext is found in every form in which it could hide."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.promises import search as search_module
from stoker.promises.search import Matcher, Remembered, forms_of, search

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


def test_names_of_many_folders_are_looked_at_together_and_none_is_passed_over(tmp_path: Path) -> None:
    canary = b"stoker-canary-" + b"5a" * 16
    hidden = [tmp_path / "first" / f"a-{canary.decode()}", tmp_path / "rear" / f"z-{canary.decode()}"]
    for folder, names in (("first", 3), ("middle", 4500), ("rear", 2)):
        (tmp_path / folder).mkdir()
        for number in range(names):
            (tmp_path / folder / f"{number:05}").touch()
    for path in hidden:
        path.touch()
    (tmp_path / "middle" / f"{canary.decode()}-folder").mkdir()
    found = search([tmp_path], {"canary": forms_of(canary)})
    assert {hit.path for hit in found.hits} == {*hidden, tmp_path / "middle" / f"{canary.decode()}-folder"}
    assert found.files == 4505 + len(hidden)


def test_two_neighbouring_names_are_no_name(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / name).touch()
    assert search([tmp_path], {"split": {"raw": b"left/right"}}).hits == ()


def test_clean_files_give_no_hit_and_say_what_was_searched(tmp_path: Path) -> None:
    (tmp_path / "clean").write_bytes(b"nothing here" * 100)
    found = search([tmp_path, tmp_path / "absent"], {"canary": forms_of(SECRET)})
    assert (found.files, found.content_bytes, found.hits, found.unreadable) == (1, 1200, (), ())


@given(secret=st.binary(min_size=8, max_size=48), before=st.binary(max_size=7), after=st.binary(max_size=7))
def test_base64_is_found_whatever_stands_around_it(secret: bytes, before: bytes, after: bytes) -> None:
    encoded = base64.b64encode(before + secret + after)
    assert any(value in encoded for form, value in forms_of(secret).items() if form.startswith("base64"))


def naively(content: bytes, needles: dict[str, dict[str, bytes]]) -> set[tuple[str, str, int]]:
    found = set()
    for name, forms in needles.items():
        for form, value in forms.items():
            at = content.find(value)
            while at >= 0:
                found.add((name, form, at))
                at = content.find(value, at + 1)
    return found


small_bytes = st.lists(st.sampled_from(b"ab\0"), min_size=4, max_size=16).map(bytes)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(small_bytes, min_size=1, max_size=30, unique=True),
    content=st.lists(small_bytes).map(b"".join),
)
def test_every_place_of_every_needle_is_found_few_or_many(values: list[bytes], content: bytes) -> None:
    needles = {"it": {str(number): value for number, value in enumerate(values)}}
    assert set(Matcher(needles).find(content)) == naively(content, needles)


def test_a_needle_that_chance_would_find_is_refused() -> None:
    with pytest.raises(ValueError, match="a needle needs 4"):
        Matcher({"it": {"raw": b"abc"}})


@pytest.mark.parametrize("secrets_count", [1, 40])
@pytest.mark.parametrize("before", [-46, -45, -1, 0, 1])
def test_a_needle_across_the_border_of_two_blocks_is_found(
    tmp_path: Path, secrets_count: int, before: int
) -> None:
    start = search_module._BLOCK_BYTES + before
    leak = tmp_path / "leak"
    with leak.open("wb") as file:
        file.write(b"z" * start + SECRET + b"z" * 100)
    needles = {str(number): forms_of(b"%016d-other" % number) for number in range(secrets_count - 1)}
    found = search([tmp_path], {**needles, "canary": forms_of(SECRET)})
    assert [(hit.needle, hit.form, hit.offset) for hit in found.hits] == [("canary", "raw", start)]
    assert found.content_bytes == leak.stat().st_size


def test_a_hole_is_skipped_and_what_lies_behind_it_is_found(tmp_path: Path) -> None:
    leak = tmp_path / "sparse"
    with leak.open("wb") as file:
        file.seek(1 << 40)
        file.write(SECRET)
    found = search([tmp_path], {"canary": forms_of(SECRET)})
    assert [hit.offset for hit in found.hits] == [1 << 40]
    assert found.content_bytes < 1 << 20


def test_each_of_several_needles_is_named_once_in_a_file(tmp_path: Path) -> None:
    secrets = [b"stoker-canary-%032d" % number for number in range(20)]
    (tmp_path / "leak").write_bytes(b"..".join(secrets[:3]) + secrets[0])
    found = search([tmp_path], {str(number): forms_of(secret) for number, secret in enumerate(secrets)})
    assert [hit.needle for hit in found.hits] == ["0", "1", "2"]


def test_a_pipe_and_a_link_that_leads_in_a_circle_are_no_obstacle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    found = search([tmp_path], {"canary": forms_of(SECRET)})
    assert (found.files, found.hits, found.unreadable) == (0, (), ())


def test_a_path_too_long_for_one_call_is_searched_all_the_same(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(24):
            os.mkdir("d" * 200, dir_fd=here)
            below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        leaf = os.open("leak", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here)
        os.write(leaf, SECRET)
        os.close(leaf)
    finally:
        os.close(here)
    found = search([tmp_path], {"canary": forms_of(SECRET)})
    assert [hit.path.name for hit in found.hits] == ["leak"]
    assert len(str(found.hits[0].path)) > 4096
    assert found.unreadable == ()


# -- searching again


def test_a_file_that_was_searched_is_not_read_again_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"x" * 100)
    other.write_bytes(b"y" * 50)
    needles, remembered = {"canary": forms_of(SECRET)}, Remembered()
    read: list[bytes] = []
    monkeypatch.setattr(
        search_module.Matcher,
        "find",
        lambda self, content, find=Matcher.find: (read.append(content), find(self, content))[1],
    )

    def again() -> tuple[int, int, list[str], list[bytes]]:
        read.clear()
        found = search([tmp_path], needles, remembered=remembered)
        contents = [content for content in read if len(content) > 10]
        return found.files, found.content_bytes, [hit.path.name for hit in found.hits], contents

    assert again() == (2, 150, [], [b"x" * 100, b"y" * 50])
    assert again() == (2, 150, [], [])
    path.write_bytes(SECRET.ljust(100, b"x"))
    os.utime(path, ns=(0, 0))  # the time of writing set back; the time of change is not
    for _ in range(2):  # what held something is read each time
        files, size, hits, contents = again()
        assert (files, size, hits, len(contents)) == (2, 150, ["file"], 1)
    remembered.forget()
    assert len(again()[3]) == 2


def test_what_was_searched_for_other_needles_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(SECRET)
    remembered = Remembered()
    assert not search([tmp_path], {"other": forms_of(SECRET[::-1])}, remembered=remembered).hits
    assert search([tmp_path], {"canary": forms_of(SECRET)}, remembered=remembered).hits


def test_a_file_with_another_in_its_place_is_read(tmp_path: Path) -> None:
    path, beside = tmp_path / "file", tmp_path / "beside"
    path.write_bytes(b"x" * len(SECRET))
    remembered, needles = Remembered(), {"canary": forms_of(SECRET)}
    assert not search([tmp_path], needles, remembered=remembered).hits
    times = path.stat().st_mtime_ns
    beside.write_bytes(SECRET)
    os.utime(beside, ns=(times, times))
    beside.replace(path)
    assert search([tmp_path], needles, remembered=remembered).hits
