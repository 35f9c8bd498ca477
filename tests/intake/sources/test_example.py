"""The import settings of examples/images do what its README says."""

from __future__ import annotations

from pathlib import Path

from stoker.core.config import load, read_layer
from stoker.spec.source import ImportSpec
from support.import_sources import bring, contents, reasons
from support.intake_home import intake_home
from support.media_samples import jpeg, png, png_of_claimed_size

EXAMPLE = Path(__file__).parents[3] / "examples" / "images"


def test_a_folder_of_classes_is_imported_with_the_examples_settings(tmp_path: Path) -> None:
    spec = load(ImportSpec, [read_layer(EXAMPLE / "import.toml")]).value
    files = {
        "cat/1.jpg": jpeg(),
        "dog/1.png": png(),
        "dog/huge.png": png_of_claimed_size(100_000, 100_000),
        "top.jpg": jpeg(),
    }
    for path, data in files.items():
        (tmp_path / "shots" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shots" / path).write_bytes(data)
    (tmp_path / "shots" / "empty").mkdir()
    with intake_home(tmp_path / "home") as home:
        report = bring(home, tmp_path / "shots", spec)
        assert contents(home, report.record) == {
            "cat/1.jpg": jpeg(),
            "cat/1.label": b"cat",
            "dog/1.png": png(),
            "dog/1.label": b"dog",
        }
        assert reasons(report) == {"too_many_pixels": 1, "no_class": 1, "empty_class": 1}
