"""A private text's whole way over an object store: imported, reviewed, prepared by forked workers, fed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.core.progress import SILENT
from stoker.feed.dataset import Dataset
from stoker.feed.feed import Feed
from stoker.fleet.launch import start_run
from stoker.intake.importing import import_source
from stoker.intake.prepare import prepare_dataset
from stoker.intake.review import decide_review, request_review
from stoker.intake.review_request import review_digest
from stoker.intake.scan_report import scan_and_seal
from stoker.keys.partition import BackendKeySource
from stoker.ledger.records import RunOutcome
from stoker.spec.model import ModelSpec
from stoker.spec.recipe import ImportSpec, RecipeSpec
from stoker.spec.run import EvaluateSpec, IsolationPolicy, LaunchSpec, RunSpec, TrainSpec
from stoker.store.cache import NodeCache
from stoker.store.objects import ObjectStore
from support.intake_home import IntakeHome, intake_home
from support.s3_servers import MotoServer, moto_server, pointed_at
from support.sealed_dataset import sealed_dataset
from support.sealed_samples import MemoryKeys

RECIPE = RecipeSpec(
    vocabulary=300,
    tokenizer_sample_bytes=4000,
    sequence_tokens=32,
    heldout_fraction=0.3,
    chunk_log2=14,
    samples_per_shard=512,
)
SECRET = "seven stokers carry coal to the furnace"


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as server, pointed_at(server):
        yield server


def test_a_dataset_is_sealed_into_a_bucket_and_read_from_it(moto: MotoServer, tmp_path: Path) -> None:
    local = sealed_dataset(tmp_path / "store", MemoryKeys())
    remote = ObjectStore.open(f"{moto.new_bucket()}/team")
    for key in local.store.list():
        remote.create(key, local.store.get(key))
    assert sorted(remote.list()) == sorted(local.store.list())
    dataset = replace(local, store=remote)
    for cache in (None, NodeCache(tmp_path / "cache", remote, 1 << 30)):
        opened = dataset.open(cache=cache)
        for split in ("train", "heldout"):
            rows = np.concatenate(list(opened.split(split).sequential()))
            assert np.array_equal(rows, local.written[split])
    assert opened._manifest.verify_objects(SILENT).findings == ()


def _home(home: IntakeHome, moto: MotoServer) -> IntakeHome:
    return replace(home, store=ObjectStore.open(moto.new_bucket()))


def _prepared(home: IntakeHome, folder: Path) -> Dataset:
    """Import, scan, approve and prepare the texts of `folder`; the dataset, opened from the store."""
    rooms = {"ledger": home.ledger, "backend": home.backend}
    import_source(
        "letters",
        folder,
        ImportSpec(),
        actor="asker",
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
        **rooms,
    )
    source = home.ledger.catalogue.latest_source("letters")
    report = scan_and_seal(source, actor="asker", store=home.store, progress=SILENT, processes=2, **rooms)
    review = request_review(
        source,
        report.digest,
        RECIPE.policy,
        purpose="research",
        requested_by="asker",
        valid_s=86_400.0,
        ledger=home.ledger,
        clock=home.clock,
    )
    review = decide_review(
        review.id, approve=True, reason="fine", decided_by="decider", clock=home.clock, **rooms
    )
    record = prepare_dataset(
        "mail",
        "letters",
        RECIPE,
        purpose="research",
        actor="asker",
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
        processes=2,
        **rooms,
    ).record
    return Dataset.open(
        home.store,
        None,
        name="mail",
        version=record.version,
        root=record.root,
        public_key=home.backend.signer("manifest").public_key,
        keys=BackendKeySource(home.backend),
        review_digest=review_digest(review),
    )


RUN = RunSpec(
    dataset="mail",
    purpose="research",
    model=ModelSpec(layers=1, width=16, heads=2, kv_heads=1, ffn_width=24),
    train=TrainSpec(steps=2, global_batch=4, warmup_steps=1, checkpoint_every_steps=2),
    launch=LaunchSpec(ranks=1, restarts=0, isolation=IsolationPolicy.OFF),
    evaluate=EvaluateSpec(baselines=False, sample_tokens=0),
)


def test_text_is_imported_prepared_and_fed_while_workers_are_forked(moto: MotoServer, tmp_path: Path) -> None:
    """The parent has used the store before it forks its workers, and goes on using it beside them."""
    folder = tmp_path / "letters"
    folder.mkdir()
    for number in range(24):
        (folder / f"letter-{number:02}.txt").write_text(f"Letter {number}. {SECRET}. " * 60)
    with intake_home(tmp_path / "home", now_s=time.time()) as home:
        house = _home(home, moto)
        dataset = _prepared(house, folder)
        with Feed(dataset, global_batch=4, seed=1) as feed:
            assert feed.next_array().shape == (4, RECIPE.sequence_tokens + 1)
        kept = {key: house.store.get(key) for key in house.store.list()}
        assert len([key for key in kept if key.startswith("datasets/mail/")]) >= 5
        assert all(SECRET.encode() not in data for data in kept.values())
        assert not (tmp_path / "home/store/datasets").exists()
        counts = house.store.counts()
        assert counts is not None and counts.given_up == 0 and counts.bytes_written > 0
        # A rank opens the store itself, with what it is given of the environment.
        summary = start_run(
            RUN,
            home=Home(house.root).prepare(),
            ledger=house.ledger,
            backend=house.backend,
            store_url=house.store.place,
            actor="asker",
            progress=SILENT,
            clock=SystemClock(),
        )
        assert (summary.outcome, summary.error, summary.last_step) == (RunOutcome.FINISHED, None, 2)
        assert list(house.store.list(f"runs/{summary.run}")), "its checkpoints are in the bucket"
