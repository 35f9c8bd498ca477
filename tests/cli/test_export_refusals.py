"""Who may take which model out, and what keeps one in: judged without a process of its own for each try."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from stoker.core.atomic import exclusive
from stoker.core.clock import SystemClock
from stoker.core.errors import Busy, ConfigError, StokerError
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.core.result import plain
from stoker.fleet.exposures import ExposureFigure
from stoker.fleet.model_export import ExportForm, ModelExport, WeightType, export_model
from stoker.fleet.release import (
    Standing,
    is_known_by_heart,
    release_in_force,
    release_run,
    require_releasable,
    standing_of,
)
from stoker.fleet.summary import supervisor_lock
from stoker.intake.errors import NotAllowed, ReviewRevoked, UnusableTarget
from stoker.intake.review import revoke_review
from stoker.keys.backend import KeyBackend
from stoker.keys.identities import create_identity
from stoker.keys.open import open_backend
from stoker.ledger.errors import LedgerUnusable, UnknownRun
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import Role
from stoker.spec.vision import VisionSpec
from stoker.store.errors import CorruptStream
from stoker.store.objects import ObjectStore
from stoker.train.checkpoint_errors import BadCommitLog, CheckpointUnfit
from stoker.train.exchange.errors import FormUnknown, ReleaseRefused
from stoker.train.exchange.own_form import load_model
from support.cli_home import CliHome, flip

HomeAt = Callable[[str], CliHome]


@dataclass(frozen=True, slots=True)
class Open:
    """A home that is open in this process."""

    place: Path
    home: Home
    ledger: Ledger
    backend: KeyBackend
    run: RunId

    def standing(self) -> Standing:
        found = standing_of(self.home, self.ledger, self.run)
        assert found is not None
        return found

    def take(self, standing: Standing | None = None, *, by: str = "asker", **more: Any) -> ModelExport:
        return export_model(
            standing or self.standing(),
            more.pop("out", self.place / "out"),
            home=self.home,
            actor=by,
            ledger=self.ledger,
            backend=self.backend,
            store=ObjectStore.open(self.home.store_dir.as_uri()),
            clock=SystemClock(),
            **more,
        )

    def refused(self, error: type[StokerError], match: str, **more: Any) -> None:
        """Nothing is left of the export, and nothing is recorded of it."""
        with pytest.raises(error, match=match):
            self.take(**more)
        assert [path.name for path in self.place.iterdir() if "out" in path.name] == []

    def acts(self) -> list[str]:
        return [entry.action for entry in self.ledger.audit.entries() if "export" in entry.action]


@contextmanager
def opened(home: CliHome) -> Iterator[Open]:
    house, clock = Home(home.root), SystemClock()
    backend = open_backend(house.keys_dir.as_uri(), clock=clock, passphrase=None)
    with Ledger.open(f"sqlite:///{house.ledger_path}", house.ledger_key_path, clock) as ledger:
        (run,) = home.runs()
        yield Open(home.place, house, ledger, backend, RunId(run))


@pytest.fixture
def house(home_at: HomeAt) -> Iterator[Open]:
    """A home with one run that finished, open."""
    with opened(home_at("trained")) as found:
        for name, role in (("watcher", Role.AUDITOR), ("hands", Role.OPERATOR), ("boss", Role.ADMIN)):
            create_identity(
                name, role, actor=None, ledger=found.ledger, backend=found.backend, clock=SystemClock()
            )
        yield found


def known_by_heart(standing: Standing) -> Standing:
    """The same, as if the model knew its data by heart."""
    return replace(standing, problems=("it knows text by heart: 90.0 bits, and 20 are allowed",))


def test_weights_of_half_the_size_are_written_as_such(house: Open) -> None:
    whole = house.take()
    half = house.take(out=house.place / "half", dtype=WeightType.BFLOAT16)
    assert (whole.dtype, half.dtype) == ("float32", "bfloat16")
    assert half.files[0].bytes < 0.6 * whole.files[0].bytes
    assert half.digest != whole.digest
    model = transformers.AutoModelForCausalLM.from_pretrained(house.place / "half")
    assert model.dtype == torch.bfloat16
    assert house.acts() == ["run.export.begin", "run.export"] * 2


def test_our_own_form_computes_the_same_with_our_own_modules(house: Open) -> None:
    house.take()
    own = house.take(out=house.place / "own", form=ExportForm.STOKER)
    assert own.form == "stoker"
    found = load_model(house.place / "own")
    assert (found.family, found.vocabulary, found.classes) == ("model", 300, ())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(house.place / "out").eval()
    tokens = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(found.module(tokens), theirs(tokens).logits, atol=1e-4)
    assert (house.place / "own/tokenizer.json").is_file()
    assert "library_name" not in (house.place / "own/README.md").read_text()


def test_only_who_may_takes_a_model_out(house: Open) -> None:
    for name in ("watcher", "hands", "decider"):
        house.refused(NotAllowed, f"{name} is .* and may not export a model", by=name)
    assert house.acts() == []
    assert house.take(by="boss").released_by is None


def test_a_model_goes_only_where_nothing_is_and_never_into_the_home(house: Open) -> None:
    house.refused(UnusableTarget, "everything is sealed", out=house.home.root / "out")
    house.refused(UnusableTarget, "cannot be used", out=house.place / "nowhere/model")
    house.take(out=house.place / "there")
    house.refused(UnusableTarget, "exists already", out=house.place / "there")
    assert house.acts() == ["run.export.begin", "run.export"]


@pytest.mark.parametrize(
    ("bits", "limit", "known"),
    [(19.9, 20.0, False), (20.1, 20.0, True), (20.1, 128.0, True), (5.0, 4.0, True), (5.0, 128.0, False)],
)
def test_a_run_file_may_ask_for_less_exposure_and_never_allow_more(
    bits: float, limit: float, known: bool
) -> None:
    assert is_known_by_heart(ExposureFigure("text", bits, 1, 512, limit, not bits <= limit)) is known


def test_a_model_that_knows_its_data_by_heart_stays_in_until_somebody_else_releases_it(house: Open) -> None:
    standing = known_by_heart(house.standing())
    house.refused(ReleaseRefused, "it knows text by heart: 90.0 bits", standing=standing)
    for name, why in (("asker", "researcher"), ("watcher", "auditor"), ("hands", "operator")):
        with pytest.raises(NotAllowed, match=why):
            release_run(standing, reason="why", actor=name, ledger=house.ledger)
    with pytest.raises(ConfigError, match="needs a reason"):
        release_run(standing, reason=" \n", actor="decider", ledger=house.ledger)
    with pytest.raises(ConfigError, match="nothing to withdraw"):
        release_run(standing, reason="why", actor="decider", ledger=house.ledger, withdraw=True)
    told = release_run(standing, reason="its data is public", actor="boss", ledger=house.ledger)
    assert (told.released, told.by, told.problems) == (True, "boss", standing.problems)
    house.refused(NotAllowed, "boss released the model", standing=standing, by="boss")
    report = house.take(standing)
    assert report.released_by == "boss"
    assert "its data is public" in (house.place / "out/README.md").read_text()
    release_run(standing, reason="it was not", actor="decider", ledger=house.ledger, withdraw=True)
    with pytest.raises(ReleaseRefused, match="by heart"):
        house.take(standing, out=house.place / "again")
    assert house.ledger.audit.verify().holds


def test_whoever_started_a_run_never_releases_its_model(house: Open) -> None:
    standing = known_by_heart(house.standing())
    mine = replace(standing, record=replace(standing.record, started_by="boss"))
    with pytest.raises(NotAllowed, match="boss started run"):
        release_run(mine, reason="why", actor="boss", ledger=house.ledger)
    with pytest.raises(ConfigError, match="free to go"):
        release_run(house.standing(), reason="why", actor="decider", ledger=house.ledger)


def test_a_release_is_of_one_checkpoint_one_record_and_the_figures_of_then(house: Open) -> None:
    standing = known_by_heart(house.standing())
    release_run(standing, reason="why", actor="decider", ledger=house.ledger)
    assert require_releasable(standing, "asker", house.ledger) is not None
    newer = replace(standing.checkpoint, sequence=standing.checkpoint.sequence + 1)
    other = replace(standing.checkpoint, digest="0" * 64)
    for changed in (
        replace(standing, checkpoint=newer),
        replace(standing, checkpoint=other),
        replace(standing, events_digest="1" * 64),
        replace(standing, record=replace(standing.record, id=RunId("r-0123456789abcdef0123"))),
    ):
        assert release_in_force(changed, house.ledger) is None
        with pytest.raises(ReleaseRefused):
            require_releasable(changed, "asker", house.ledger)


def test_a_run_that_did_not_finish_is_not_to_be_released(home_at: HomeAt) -> None:
    with opened(home_at("cancelled")) as house:
        assert house.standing().problems == (
            "the run is not finished but cancelled",
            "nobody measured whether it knows text by heart",
        )
        house.refused(ReleaseRefused, "not finished but cancelled")


def test_a_run_that_goes_on_is_left_alone(house: Open) -> None:
    standing = house.standing()
    with exclusive(supervisor_lock(house.home, house.run), "the run"):
        house.refused(Busy, "Another process", standing=standing)


def test_an_unknown_run_and_one_without_a_checkpoint_have_nothing(house: Open) -> None:
    with pytest.raises(UnknownRun):
        standing_of(house.home, house.ledger, RunId("r-00000000000000000000"))
    record = replace(house.standing().record, id=RunId("r-0123456789abcdef0123"))
    with house.ledger.act(actor="asker", action="run.start", subject="run/x", detail={}) as catalogue:
        catalogue.add_run(record, [])
    assert standing_of(house.home, house.ledger, record.id) is None


def test_a_review_that_is_revoked_keeps_the_model_in_even_while_it_is_written(house: Open) -> None:
    def revoke() -> None:
        with contextlib.suppress(StokerError):
            revoke_review(
                house.standing().record.review,
                reason="no more",
                revoked_by="decider",
                ledger=house.ledger,
                backend=house.backend,
                clock=SystemClock(),
            )

    house.refused(ReviewRevoked, "no more", go_on=revoke)
    assert house.acts() == ["run.export.begin"]
    house.refused(ReviewRevoked, "no more")
    assert house.acts() == ["run.export.begin"]


def test_figures_that_were_improved_afterwards_keep_the_model_in(house: Open) -> None:
    events = house.home.runs_dir / house.run / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    for event in lines:
        if event["kind"] == "exposure":
            event["bits"] = 0.25
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ReleaseRefused, match="are not those that the log recorded"):
        house.standing()


def test_a_row_that_was_changed_in_the_database_keeps_the_model_in(house: Open) -> None:
    with contextlib.closing(sqlite3.connect(house.home.ledger_path)) as database, database:
        database.execute("UPDATE run SET started_by = 'decider'")
    with pytest.raises(LedgerUnusable):
        house.standing()


def test_a_release_that_was_written_into_the_database_releases_nothing(house: Open) -> None:
    standing = known_by_heart(house.standing())
    release_run(standing, reason="why", actor="decider", ledger=house.ledger)
    release_run(standing, reason="no", actor="decider", ledger=house.ledger, withdraw=True)
    with contextlib.closing(sqlite3.connect(house.home.ledger_path)) as database, database:
        database.execute("UPDATE audit_entry SET action = 'run.release' WHERE action LIKE 'run.release%'")
    with pytest.raises(LedgerUnusable, match="does not hold"):
        house.standing()


def test_a_checkpoint_that_was_changed_is_named_and_nothing_is_left(house: Open) -> None:
    store = house.home.store_dir / "runs" / house.run
    *_, newest = sorted((store / "checkpoints").iterdir())
    part, *_ = sorted(newest.iterdir())
    flip(part, part.stat().st_size // 2)
    house.refused(CorruptStream, part.name)
    assert house.acts() == ["run.export.begin"]
    flip(part, part.stat().st_size // 2)
    *_, record = sorted((store / "log").iterdir())
    flip(record, -1)
    house.refused(BadCommitLog, record.name)


def test_a_checkpoint_of_another_model_than_the_runs_is_refused(house: Open) -> None:
    standing = house.standing()
    spec = {**standing.record.spec, "model": {**standing.record.spec["model"], "ffn_width": 96}}  # type: ignore[dict-item]
    house.refused(
        CheckpointUnfit,
        "another model",
        standing=replace(standing, record=replace(standing.record, spec=spec)),
    )


def test_a_family_without_a_foreign_form_is_told_of_our_own(house: Open) -> None:
    standing = house.standing()
    spec = {name: value for name, value in standing.record.spec.items() if name != "model"}
    spec["vision"] = plain(VisionSpec())
    seeing = replace(standing, record=replace(standing.record, spec=spec))
    house.refused(FormUnknown, "for decoders", standing=seeing)
    assert house.take(seeing, form=ExportForm.STOKER, dry_run=True).form == "stoker"
