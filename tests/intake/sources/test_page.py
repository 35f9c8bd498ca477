"""The design page names every form, setting, default and limit of an import."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from stoker.intake.sources import media, rows, tar
from stoker.intake.sources.forms import CONTAINER_ENDINGS, FORMS
from stoker.intake.sources.stream import FREE_BYTES
from stoker.spec.source import Form, ImportLimits, ImportSpec

PAGE = (Path(__file__).parents[3] / "docs/design/intake.md").read_text()
SOURCES = PAGE.split("\n## Sources\n")[1].split("\n## Scan\n")[0]


def test_every_form_is_explained_and_done() -> None:
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", SOURCES.split("Settings of")[0], re.M)
    assert [Form(name) for name in listed] == list(FORMS) == [form for form in Form if form is not Form.AUTO]
    for ending in CONTAINER_ENDINGS:
        assert f"`.{ending.split('.')[1]}`" in SOURCES


def test_every_setting_is_explained_with_its_default() -> None:
    table = SOURCES.split("Settings of")[1].split("### Items")[0]
    found = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", table, re.M))))
    names = {field.name for field in dataclasses.fields(ImportSpec)} - {"include", "exclude"}
    assert found == names
    spec, limits = ImportSpec(), ImportLimits()
    assert spec.max_file_bytes == 64 << 20
    assert (limits.pixels, limits.audio_samples, limits.worker_bytes) == (1 << 28, 1 << 29, 3 << 30)
    assert "`pixels` (2^28), `audio_samples` (2^29" in table
    assert f"`ratio` ({limits.ratio}), `items_per_file` ({limits.items_per_file:,})" in table
    assert (limits.row_group_bytes, limits.worker_s, FREE_BYTES) == (1 << 30, 300.0, 64 << 20)
    assert f"`row_group_bytes` (1 GiB), `worker_bytes` (3 GiB), `worker_s` ({limits.worker_s:.0f})" in table


def test_every_extension_is_named_and_a_row_has_nine_digits() -> None:
    for extension in (*media.IMAGE_EXTENSIONS, *media.AUDIO_EXTENSIONS, ".txt", ".cls", ".label", ".json"):
        assert f"`{extension}`" in SOURCES
    assert f"FILE/{17:0{rows.ROW_DIGITS}d}.txt" in SOURCES
    assert tar._HEADER_BYTES == 1 << 20
