"""A run of a mixture: leave, keys and record for every part of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.canonical import JsonValue
from stoker.core.ids import new_version_id
from stoker.core.result import plain
from stoker.fleet.errors import DatasetGone
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import RunSummary, read_run
from stoker.intake.errors import ReviewRevoked
from stoker.intake.review import decide_review, request_review, revoke_review
from stoker.keys.refs import Purpose
from stoker.ledger.records import DatasetRecord, DatasetState, ReviewRecord, RunOutcome, SourceRecord
from stoker.spec.mixture import MixturePartSpec
from stoker.spec.recipe import PolicySpec
from support.run_house import SPEC, RunHouse, run_house

MIXTURE = replace(SPEC, dataset="", mixture=(MixturePartSpec("text", 0.7), MixturePartSpec("code", 0.3)))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as found:
        yield found


def add_code(house: RunHouse, *, lives_s: float = 3_600.0) -> tuple[DatasetRecord, ReviewRecord]:
    """Dataset `code`, of a source and under a review of its own, that lives shorter than `text`."""
    source = SourceRecord(
        "code", new_version_id(), "a" * 64, "source/code#1", 3, 100, {}, "asker", house.clock.now_s()
    )
    with house.ledger.act(
        actor="asker", action="source.import", subject="source/code", detail={}
    ) as catalogue:
        catalogue.add_source(source)
    asked = request_review(
        source,
        "b" * 64,
        PolicySpec(),
        purpose="research",
        requested_by="asker",
        valid_s=7_200.0,
        ledger=house.ledger,
        clock=house.clock,
    )
    review = decide_review(
        asked.id,
        approve=True,
        reason="fine",
        decided_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
    kek = house.backend.create_kek("dataset/code/1", Purpose.DATASET, expires_s=None)
    dataset = replace(
        house.dataset,
        name="code",
        version=new_version_id(),
        root="c" * 64,
        kek=str(kek),
        source="code",
        source_version=source.version,
        source_root=source.manifest_root,
        review=review.id,
        expires_s=house.clock.now_s() + lives_s,
    )
    with house.ledger.act(
        actor="asker", action="dataset.prepare", subject="dataset/code", detail={}
    ) as catalogue:
        catalogue.add_dataset(dataset)
    return dataset, review


def begun(house: RunHouse) -> dict[str, JsonValue]:
    """What the log says of the run's beginning."""
    (entry,) = (each for each in house.ledger.audit.entries() if each.action == "run.start")
    return dict(entry.detail)


def test_every_part_is_recorded_and_finds_the_run(house: RunHouse) -> None:
    code, review = add_code(house)
    summary = house.start(MIXTURE)
    assert summary.outcome is RunOutcome.FINISHED
    record = house.ledger.catalogue.run(summary.run)
    assert (record.dataset, record.dataset_root) == ("text", house.dataset.root)
    assert house.ledger.catalogue.roots_of_run(record) == (house.dataset.root, code.root)
    assert house.ledger.catalogue.runs_of_dataset(code.root) == (record,)
    assert house.ledger.catalogue.runs_of_dataset(house.dataset.root) == (record,)
    assert begun(house)["mixed_with"] == [code.root]
    assert house.ledger.audit.verify().findings == ()
    saved = json.loads(RunFolder.of(house.home.runs_dir, summary.run).run_file.read_text())
    assert saved["spec"] == plain(MIXTURE)
    assert [each["root"] for each in saved["mixed_with"]] == [code.root]
    lineage = read_run(house.home, house.ledger, summary.run).lineage
    assert (lineage.dataset, lineage.weight) == ("text", 0.7)
    (part,) = lineage.mixed_with
    assert (part.dataset, part.weight, part.source, part.review) == ("code", 0.3, "code", review.id)


def test_ranks_are_told_every_part_and_get_its_key(house: RunHouse) -> None:
    code, _ = add_code(house)
    ask = {"do": "connect", "at_step": "start", "attempt": 1}
    summary = house.start(MIXTURE, deeds=[{**ask, "rank": 0, "kek": "own"}])
    job = json.loads(RunFolder.of(house.home.runs_dir, summary.run).job(1).read_text())
    assert [(part["dataset"], part["dataset_root"], part["weight"]) for part in job["parts"]] == [
        ("text", house.dataset.root, 0.7),
        ("code", code.root, 0.3),
    ]
    assert job["parts"][0]["review_digest"] == job["review_digest"] != job["parts"][1]["review_digest"]
    (lease,) = (each for each in house.ledger.audit.entries() if each.action == "run.lease")
    own = house.ledger.catalogue.run(summary.run).kek
    assert lease.detail["may_open"] == sorted([house.dataset.kek, code.kek, own])
    assert lease.detail["may_seal"] == [own]


def test_a_run_of_one_dataset_has_no_parts_and_no_key_of_another(house: RunHouse) -> None:
    code, _ = add_code(house)
    ask = {"do": "connect", "at_step": "start", "attempt": 1}
    summary = house.start(deeds=[{**ask, "rank": 1, "kek": code.kek}])
    folder = RunFolder.of(house.home.runs_dir, summary.run)
    assert json.loads(folder.job(1).read_text())["parts"] == []
    assert "LeaseRefused" in folder.rank_log(1, 1).read_text()
    assert house.ledger.catalogue.runs_of_dataset(code.root) == ()


def test_a_part_without_leave_stops_the_run_before_it_begins(house: RunHouse) -> None:
    _, review = add_code(house)
    revoke(house, review)
    with pytest.raises(ReviewRevoked):
        house.start(MIXTURE)
    assert not house.ledger.catalogue.runs()
    assert not list(house.home.runs_dir.iterdir())


def test_a_part_that_is_gone_stops_the_run_before_it_begins(house: RunHouse) -> None:
    add_code(house, lives_s=-1.0)
    with pytest.raises(DatasetGone, match="code"):
        house.start(MIXTURE)
    assert not house.ledger.catalogue.runs()


def failed_run(house: RunHouse) -> RunSummary:
    always = [{"do": "exit", "rank": 0, "at_step": 5, "attempt": "any", "code": 57, "report": True}]
    failed = house.start(MIXTURE, deeds=always)
    assert failed.outcome is RunOutcome.FAILED
    return failed


def test_a_run_goes_on_with_the_versions_that_it_began_with(house: RunHouse) -> None:
    code, _ = add_code(house)
    failed = failed_run(house)
    newer = replace(code, version=new_version_id(), root="d" * 64)
    with house.ledger.act(actor="asker", action="test", subject="dataset/code", detail={}) as catalogue:
        catalogue.add_dataset(newer)
    summary = house.resume(failed.run)
    assert summary.outcome is RunOutcome.FINISHED
    job = json.loads(RunFolder.of(house.home.runs_dir, summary.run).job(2).read_text())
    assert [part["dataset_root"] for part in job["parts"]] == [house.dataset.root, code.root]


def test_a_run_does_not_go_on_when_leave_for_one_part_is_withdrawn_or_it_is_gone(house: RunHouse) -> None:
    code, review = add_code(house)
    failed = failed_run(house)
    with house.ledger.act(actor="asker", action="test", subject="dataset/code", detail={}) as catalogue:
        catalogue.set_dataset_state(code.root, DatasetState.DESTROYED)
    with pytest.raises(DatasetGone, match="code"):
        house.resume(failed.run)
    revoke(house, review)
    with pytest.raises(DatasetGone, match="code"):
        house.resume(failed.run)


def revoke(house: RunHouse, review: ReviewRecord) -> None:
    revoke_review(
        review.id,
        reason="no longer",
        revoked_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )
