"""The example folder goes the whole way with the settings and the recipe that lie beside it."""

from __future__ import annotations

from pathlib import Path

from stoker.core.config import load, read_layer
from stoker.core.progress import SILENT
from stoker.intake.importing import import_source
from stoker.intake.prepare import prepare_dataset
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import scan_and_seal
from stoker.spec.recipe import ImportSpec, Kind, RecipeSpec
from support.intake_home import intake_home

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-text"


def test_the_example_becomes_a_dataset(tmp_path: Path) -> None:
    spec = load(ImportSpec, [read_layer(EXAMPLE / "import.toml")]).value
    recipe = load(RecipeSpec, [read_layer(EXAMPLE / "recipe.toml")]).value
    with intake_home(tmp_path / "home") as home:
        imported = import_source(
            "letters",
            EXAMPLE / "texts",
            spec,
            actor="asker",
            ledger=home.ledger,
            backend=home.backend,
            store=home.store,
            progress=SILENT,
            clock=home.clock,
            locks=home.locks,
        )
        assert imported.record.files == 6
        report = scan_and_seal(
            imported.record,
            actor="asker",
            ledger=home.ledger,
            backend=home.backend,
            store=home.store,
            progress=SILENT,
        )
        found = {kind for kind, count in report.counts.items() if count}
        assert found == {Kind.EMAIL, Kind.PHONE, Kind.IBAN, Kind.IPV4, Kind.PERSON}
        review = request_review(
            imported.record,
            report.digest,
            recipe.policy,
            purpose="research",
            requested_by="asker",
            valid_s=86_400.0,
            ledger=home.ledger,
            clock=home.clock,
        )
        decide_review(
            review.id,
            approve=True,
            reason="read the report",
            decided_by="decider",
            ledger=home.ledger,
            backend=home.backend,
            clock=home.clock,
        )
        prepared = prepare_dataset(
            "letters",
            "letters",
            recipe,
            purpose="research",
            actor="asker",
            ledger=home.ledger,
            backend=home.backend,
            store=home.store,
            progress=SILENT,
            clock=home.clock,
            locks=home.locks,
        )
        assert prepared.record.figures["train"]["samples"] > 0
        assert prepared.record.figures["heldout"]["samples"] > 0
        assert sum(prepared.record.figures["redactions"].values()) == sum(report.counts.values())
