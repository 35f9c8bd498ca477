"""Preparing: what is in a dataset, what forbids it, and what faults and interruption leave."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.core.atomic import exclusive
from stoker.core.errors import BadName, Busy, ConfigError, DiskFull
from stoker.core.progress import SILENT, Progress
from stoker.intake import errors
from stoker.intake.dataset_writer import ARTEFACT_SCHEMA, dataset_prefix
from stoker.intake.detect.scan import find
from stoker.intake.importing import import_source
from stoker.intake.policy.treat import treat
from stoker.intake.prepare import PREPARATION_FORMAT, PrepareReport, prepare_dataset, recipe_digest
from stoker.intake.review import revoke_review
from stoker.intake.review_request import review_digest
from stoker.intake.tokenizer import END_OF_TEXT, load_tokenizer
from stoker.keys.errors import KeyExpired
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.records import DatasetRecord, ReviewRecord
from stoker.spec.recipe import ImportSpec, Kind, PolicySpec, RecipeSpec
from stoker.store.header import StreamKind
from stoker.store.manifest import Manifest
from stoker.store.objects import StoredObject
from stoker.store.shards import SHARD_SCHEMA, ShardReader
from support.intake_home import (
    IntakeHome,
    Interfering,
    approve_source,
    in_child,
    intake_home,
    small_file_system,
)

DAY_S = 86_400.0
RECIPE = RecipeSpec(
    vocabulary=300,
    tokenizer_sample_bytes=4000,
    sequence_tokens=32,
    heldout_fraction=0.3,
    chunk_log2=14,
    samples_per_shard=512,
)
WORDS = ["the", "furnace", "burns", "while", "seven", "stokers", "carry", "coal", "and", "count", "shovels"]


def write_letters(folder: Path, count: int = 24) -> None:
    folder.mkdir()
    for number in range(count):
        words = " ".join(WORDS[(number * 7 + place * place) % len(WORDS)] for place in range(600))
        text = f"Letter {number} to person{number}@example.org\n{words}\nÜber 192.0.2.{number}.\n"
        (folder / f"letter-{number:02}.txt").write_text(text + f"literal {END_OF_TEXT} here\n")


@dataclass(frozen=True, slots=True)
class Letters:
    """A home with an imported, scanned and approved source of letters."""

    home: IntakeHome
    folder: Path
    review: ReviewRecord


def bring(home: IntakeHome, folder: Path) -> None:
    import_source(
        "letters",
        folder,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    )


def approve(home: IntakeHome, policy: PolicySpec = RECIPE.policy, *, days: float = 60.0) -> ReviewRecord:
    return approve_source(home, "letters", policy, days=days)


@pytest.fixture(scope="module")
def approved_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home and a folder of letters as they are after import, scan and approval; copied for each test."""
    root = tmp_path_factory.mktemp("approved")
    write_letters(root / "letters")
    with intake_home(root / "home") as home:
        bring(home, root / "letters")
        approve(home)
    return root


@pytest.fixture
def letters(tmp_path: Path, approved_home: Path) -> Iterator[Letters]:
    shutil.copytree(approved_home, tmp_path, dirs_exist_ok=True)
    with intake_home(tmp_path / "home") as home:
        yield Letters(home, tmp_path / "letters", home.ledger.catalogue.reviews()[0])


def prepare(
    home: IntakeHome,
    recipe: RecipeSpec = RECIPE,
    *,
    name: str = "mail",
    purpose: str = "research",
    progress: Progress = SILENT,
    processes: int = 2,
    **options: Any,
) -> PrepareReport:
    return prepare_dataset(
        name,
        "letters",
        recipe,
        purpose=purpose,
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=progress,
        clock=home.clock,
        locks=home.locks,
        processes=processes,
        **options,
    )


@dataclass(frozen=True, slots=True)
class Opened:
    """Everything in a dataset, decrypted: samples by split, and the tokenizer's JSON."""

    splits: dict[str, np.ndarray]
    tokenizer: str
    shards: int


def open_dataset(home: IntakeHome, record: DatasetRecord) -> Opened:
    keys = BackendKeySource(home.backend)
    prefix = dataset_prefix(record.name, record.version)
    manifest = Manifest.open(home.store, prefix, record.root, home.backend.signer("manifest").public_key)
    block = manifest.superblock
    assert block.review_digest == review_digest(home.ledger.catalogue.review(record.review))
    assert (block.source_root, block.recipe_digest) == (record.source_root, record.recipe_digest)
    splits = {}
    for split in block.splits:
        rows = []
        for shard in range(split.first_shard, split.first_shard + split.shards):
            label = manifest.label(shard, StreamKind.SHARD, SHARD_SCHEMA)
            source = StoredObject(home.store, manifest.shard_key(shard))
            reader = ShardReader.open(manifest, shard, label, keys, source=source)
            rows += [reader.read_chunk(chunk) for chunk in range(reader.chunks)]
        splits[split.name] = np.concatenate(rows)
        assert len(splits[split.name]) == split.samples
    artefact = block.artefact("tokenizer")
    assert artefact is not None
    stream = manifest.open_stream(artefact.shard, keys, StreamKind.ARTEFACT, ARTEFACT_SCHEMA)
    return Opened(splits, stream.read_all(1 << 24).decode(), manifest.shards)


def stream_of(samples: np.ndarray) -> list[int]:
    """The stream that the samples were cut from."""
    return [*samples[0, :1].tolist(), *samples[:, 1:].reshape(-1).tolist()]


def documents_of(opened: Opened, split: str) -> list[str]:
    library = load_tokenizer(opened.tokenizer)
    documents: list[list[int]] = [[]]
    for token in stream_of(opened.splits[split]):
        if token == 0:
            documents.append([])
        else:
            documents[-1].append(token)
    return [library.decode(tokens, skip_special_tokens=False) for tokens in documents if tokens]


def no_dataset_is_left(home: IntakeHome) -> bool:
    states = [info.state for info in home.backend.list_keks() if info.ref.scope.startswith("dataset/")]
    return (
        home.objects("datasets") == set()
        and home.ledger.catalogue.datasets() == ()
        and KekState.ACTIVE not in states
        and multiprocessing.active_children() == []
    )


def test_a_dataset_holds_exactly_the_redacted_documents_and_the_canary(letters: Letters) -> None:
    home = letters.home
    record = prepare(home).record
    opened = open_dataset(home, record)
    train, heldout = documents_of(opened, "train"), documents_of(opened, "heldout")
    kinds = RECIPE.policy.treatments
    expected = [treat(path.read_bytes(), kinds).text.decode() for path in sorted(letters.folder.iterdir())]
    source = home.ledger.catalogue.latest_source("letters")
    canary = home.backend.canary(f"source/letters/{source.version}") + "\n"
    assert train[-1] == canary
    whole_heldout = heldout if record.figures["heldout"]["dropped_tokens"] == 0 else heldout[:-1]
    kept = [text for text in expected if text in train] + [text for text in expected if text in whole_heldout]
    assert train[:-1] + whole_heldout == kept
    assert len(expected) - len(kept) <= 1
    assert not any(find(text.encode(), kinds) for text in (*train[:-1], *heldout))
    assert all("<EMAIL>" in text and "Über <IPV4>." in text for text in train[:-1])


def test_the_figures_count_what_is_there(letters: Letters) -> None:
    record = prepare(letters.home).record
    opened = open_dataset(letters.home, record)
    figures = record.figures
    train, heldout = figures["train"], figures["heldout"]
    assert train["files"] + heldout["files"] == 24
    assert train["source_bytes"] + heldout["source_bytes"] == sum(
        path.stat().st_size for path in letters.folder.iterdir()
    )
    assert figures["redactions"] == {
        kind.value: 24 if kind in (Kind.EMAIL, Kind.IPV4) else 0 for kind in Kind
    }
    for name, split in (("train", train), ("heldout", heldout)):
        assert split["samples"] == len(opened.splits[name])
        held = split["samples"] * RECIPE.sequence_tokens + 1
        assert split["tokens"] == held + split["dropped_tokens"] - split["padding_tokens"]
    assert figures["vocabulary"] == len(json.loads(opened.tokenizer)["model"]["vocab"]) <= 300


def test_the_same_source_and_recipe_give_the_same_tokens_whatever_the_number_of_processes(
    letters: Letters,
) -> None:
    first = open_dataset(letters.home, prepare(letters.home, name="one", processes=1).record)
    second = open_dataset(letters.home, prepare(letters.home, name="two", processes=3).record)
    assert first.tokenizer == second.tokenizer
    for name in ("train", "heldout"):
        assert np.array_equal(first.splits[name], second.splits[name])


def test_prepared_again_it_is_found_and_nothing_is_done(letters: Letters) -> None:
    first = prepare(letters.home)
    objects, size = letters.home.objects("datasets"), letters.home.ledger.audit.size
    reordered = dataclasses.replace(RECIPE, policy=PolicySpec(tuple(reversed(RECIPE.policy.redact))))
    for recipe in (RECIPE, reordered):
        second = prepare(letters.home, recipe)
        assert second.found
        assert second.record == first.record
    assert (letters.home.objects("datasets"), letters.home.ledger.audit.size) == (objects, size)


@pytest.mark.parametrize("change", [{"seed": 1}, {"vocabulary": 310}, {"sequence_tokens": 33}])
def test_another_recipe_makes_another_version(letters: Letters, change: dict[str, int]) -> None:
    first = prepare(letters.home).record
    other = dataclasses.replace(RECIPE, **change)
    second = prepare(letters.home, other)
    assert not second.found
    assert second.record.version != first.version
    assert recipe_digest(other) != recipe_digest(RECIPE)
    assert prepare(letters.home).record == first


def test_shards_are_cut_at_the_size_the_recipe_names(letters: Letters) -> None:
    small = dataclasses.replace(RECIPE, samples_per_shard=1, sequence_tokens=200)
    opened = open_dataset(letters.home, prepare(letters.home, small).record)
    assert opened.shards > 3
    large = open_dataset(
        letters.home, prepare(letters.home, dataclasses.replace(small, samples_per_shard=512)).record
    )
    assert large.shards == 3
    assert np.array_equal(opened.splits["train"], large.splits["train"])


def test_the_key_expires_with_the_dataset_and_then_it_is_prepared_anew(letters: Letters) -> None:
    home = letters.home
    record = prepare(home).record
    assert record.expires_s == home.clock.now_s() + 30 * DAY_S
    assert home.backend.info(KekRef.parse(record.kek)).expires_s == record.expires_s
    home.clock.advance(30 * DAY_S)
    with pytest.raises(KeyExpired):
        open_dataset(home, record)
    again = prepare(home)
    assert not again.found
    assert again.record.version != record.version
    assert set(open_dataset(home, again.record).splits) == {"train", "heldout"}


def test_a_dataset_never_outlives_its_review(letters: Letters) -> None:
    approve(letters.home, days=2.0)
    record = prepare(letters.home).record
    assert record.expires_s == letters.home.clock.now_s() + 2 * DAY_S


def test_a_dataset_whose_key_was_destroyed_is_not_found(letters: Letters) -> None:
    record = prepare(letters.home).record
    kek = KekRef.parse(record.kek)
    letters.home.backend.request_destroy(kek, "asker")
    letters.home.backend.destroy(kek, "decider")
    assert not prepare(letters.home).found


def test_a_dataset_whose_objects_are_gone_is_not_found(letters: Letters) -> None:
    record = prepare(letters.home).record
    letters.home.store.delete_prefix(dataset_prefix(record.name, record.version))
    assert not prepare(letters.home).found


def test_a_dataset_under_a_revoked_review_is_not_found_under_the_next(letters: Letters) -> None:
    home = letters.home
    first = prepare(home).record
    revoke(letters)
    with pytest.raises(errors.ReviewRevoked):
        prepare(home)
    approve(home)
    second = prepare(home)
    assert not second.found
    assert second.record.review != first.review


def revoke(letters: Letters) -> None:
    revoke_review(
        letters.review.id,
        reason="changed my mind",
        revoked_by="decider",
        ledger=letters.home.ledger,
        backend=letters.home.backend,
        clock=letters.home.clock,
    )


def test_nothing_is_prepared_without_a_review(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters", 2)
    with intake_home(tmp_path / "home") as home:
        bring(home, tmp_path / "letters")
        with pytest.raises(errors.ReviewMissing):
            prepare(home)
        assert no_dataset_is_left(home)


def test_a_source_imported_again_needs_a_new_review(letters: Letters) -> None:
    (letters.folder / "letter-00.txt").write_text("changed\n")
    bring(letters.home, letters.folder)
    with pytest.raises(errors.ReviewStale):
        prepare(letters.home)
    assert no_dataset_is_left(letters.home)


def test_another_purpose_or_policy_is_refused(letters: Letters) -> None:
    with pytest.raises(errors.OtherPurpose):
        prepare(letters.home, purpose="advertising")
    weaker = dataclasses.replace(RECIPE, policy=PolicySpec((Kind.EMAIL,)))
    with pytest.raises(errors.OtherPolicy, match=letters.review.id):
        prepare(letters.home, weaker)
    assert no_dataset_is_left(letters.home)


def test_an_expired_review_is_refused(letters: Letters) -> None:
    letters.home.clock.advance(60 * DAY_S)
    with pytest.raises(errors.ReviewExpired):
        prepare(letters.home)


def test_a_review_revoked_while_preparing_stops_it(letters: Letters) -> None:
    with pytest.raises(errors.ReviewRevoked):
        prepare(letters.home, progress=Interfering("prepare", lambda: revoke(letters)))
    assert no_dataset_is_left(letters.home)


def test_names_and_recipes_are_checked_first(letters: Letters) -> None:
    for name in ("../mail", "a/b", "", "Mail"):
        with pytest.raises(BadName):
            prepare(letters.home, name=name)
    wrong = dataclasses.replace(RECIPE, vocabulary=10, sequence_tokens=0, heldout_fraction=2.0)
    with pytest.raises(ConfigError, match=r"vocabulary.*sequence_tokens.*heldout_fraction"):
        prepare(letters.home, wrong)
    assert no_dataset_is_left(letters.home)


def test_too_little_text_says_how_much_is_needed(letters: Letters) -> None:
    long = dataclasses.replace(RECIPE, sequence_tokens=60_000, chunk_log2=18)
    with pytest.raises(errors.TooLittleText, match=r"heldout split has .* one sample takes 60001"):
        prepare(letters.home, long)
    assert no_dataset_is_left(letters.home)


def test_one_file_cannot_be_split(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters", 1)
    with intake_home(tmp_path / "home") as home:
        bring(home, tmp_path / "letters")
        approve(home)
        with pytest.raises(errors.TooLittleText, match="held-out"):
            prepare(home)
        assert no_dataset_is_left(home)


def interrupt() -> None:
    raise KeyboardInterrupt


def nothing_runs_and_no_dataset_is_recorded(home: IntakeHome) -> bool:
    return home.ledger.catalogue.datasets() == () and multiprocessing.active_children() == []


def only_the_dataset_is_left(home: IntakeHome, record: DatasetRecord) -> bool:
    """No second version, no second key that may seal, none of the preparation's work."""
    prefix = dataset_prefix(record.name, record.version)
    active = [
        str(info.ref)
        for info in home.backend.list_keks()
        if info.ref.scope.startswith("dataset/") and info.state is KekState.ACTIVE
    ]
    objects = home.objects("datasets")
    return (
        active == [record.kek]
        and all(key.startswith(prefix) for key in objects)
        and not any("/work/" in key for key in objects)
    )


@pytest.mark.parametrize("label", ["train the tokenizer", "prepare", "lay out", "pack"])
def test_an_interrupt_at_any_step_makes_no_dataset_and_the_next_call_goes_on(
    letters: Letters, label: str
) -> None:
    home = letters.home
    with pytest.raises(KeyboardInterrupt):
        prepare(home, progress=Interfering(label, interrupt))
    assert nothing_runs_and_no_dataset_is_recorded(home)
    (plan,) = (key for key in home.objects("datasets") if key.endswith("plan.stk"))
    report = prepare(home)
    assert (report.found, report.resumed, report.unfinished_removed) == (False, True, 0)
    assert report.record.version == plan.split("/")[2]
    assert only_the_dataset_is_left(home, report.record)


def test_fresh_starts_anew(letters: Letters) -> None:
    home = letters.home
    with pytest.raises(KeyboardInterrupt):
        prepare(home, progress=Interfering("prepare", interrupt))
    (plan,) = (key for key in home.objects("datasets") if key.endswith("plan.stk"))
    report = prepare(home, fresh=True)
    assert (report.resumed, report.unfinished_removed) == (False, 1)
    assert report.record.version != plan.split("/")[2]
    assert only_the_dataset_is_left(home, report.record)


def test_a_worker_that_is_killed_is_an_error_and_the_next_call_goes_on(letters: Letters) -> None:
    def kill_workers() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(errors.WorkerLost, match="signal 9"):
        prepare(letters.home, progress=Interfering("prepare", kill_workers), page_bytes=8000)
    assert nothing_runs_and_no_dataset_is_recorded(letters.home)
    report = prepare(letters.home)
    assert report.resumed
    assert only_the_dataset_is_left(letters.home, report.record)


def test_after_a_kill_another_recipe_removes_what_is_unfinished(letters: Letters) -> None:
    home = letters.home
    kept = prepare(home, dataclasses.replace(RECIPE, seed=5)).record
    before = home.objects("datasets")
    home.ledger.close()
    small = dataclasses.replace(RECIPE, samples_per_shard=1, sequence_tokens=200)

    def die_after_some_shards() -> None:
        with intake_home(home.root) as theirs:
            prepare(theirs, small, progress=Interfering("pack", kill_self), page_bytes=8000)

    assert os.WTERMSIG(in_child(die_after_some_shards)) == signal.SIGKILL
    with intake_home(home.root) as again:
        assert len(again.objects("datasets")) > len(before)
        assert again.ledger.catalogue.datasets() == (kept,)
        report = prepare(again)
        assert (report.unfinished_removed, report.resumed) == (1, False)
        versions = {key.split("/")[2] for key in again.objects("datasets")}
        assert versions == {kept.version, report.record.version}


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_full_disk_is_named_and_with_room_it_goes_on(tmp_path: Path) -> None:
    write_letters(tmp_path / "letters")
    with (
        small_file_system(tmp_path / "small", "600k") as small,
        intake_home(tmp_path / "home", store_dir=small / "store") as home,
    ):
        bring(home, tmp_path / "letters")
        approve(home)
        ballast = small / "ballast"
        room = os.statvfs(small)
        ballast.write_bytes(b"x" * (room.f_bavail * room.f_frsize - 20_000))
        with pytest.raises(DiskFull, match="small"):
            prepare(home)
        assert nothing_runs_and_no_dataset_is_recorded(home)
        ballast.unlink()
        report = prepare(home)
        assert report.resumed
        assert only_the_dataset_is_left(home, report.record)


@pytest.mark.parametrize("room", [0, 2_000])
def test_a_disk_that_is_full_before_there_is_a_plan_leaves_nothing(tmp_path: Path, room: int) -> None:
    write_letters(tmp_path / "letters")
    with (
        small_file_system(tmp_path / "small", "600k") as small,
        intake_home(tmp_path / "home", store_dir=small / "store") as home,
    ):
        bring(home, tmp_path / "letters")
        approve(home)
        found = os.statvfs(small)
        (small / "ballast").write_bytes(b"x" * (found.f_bavail * found.f_frsize - room))
        with pytest.raises(DiskFull, match="small"):
            prepare(home)
        assert no_dataset_is_left(home)


def test_the_tokens_are_those_of_every_stoker_before(letters: Letters) -> None:
    """Known answers of preparation format 1, made by the sequential packer that it began with."""
    opened = open_dataset(letters.home, prepare(letters.home, page_bytes=8000).record)
    train = np.array(stream_of(opened.splits["train"]), dtype="<u2")
    last = np.flatnonzero(train)[-1]
    before_canary = train[: np.flatnonzero(train[:last] == 0)[-1] + 1]
    heldout = opened.splits["heldout"].astype("<u2")
    found = [
        hashlib.sha256(data).hexdigest()[:16]
        for data in (opened.tokenizer.encode(), before_canary.tobytes(), heldout.tobytes())
    ]
    assert found == ["01f2944ad46cb268", "93bf647d3ddbdcfc", "821f8e9e4a5aa603"]
    assert PREPARATION_FORMAT == 1


def test_two_preparations_of_one_name_do_not_meet(letters: Letters) -> None:
    with exclusive(letters.home.locks / "dataset-mail.lock", "dataset mail"), pytest.raises(Busy):
        prepare(letters.home)


def test_no_text_lies_in_plain_anywhere(letters: Letters) -> None:
    prepare(letters.home)
    stored = [path.read_bytes() for path in letters.home.root.rglob("*") if path.is_file()]
    for secret in (b"furnace", b"example.org", b"letter-0", b"stoker-canary", "furnace".encode("utf-16-le")):
        assert not any(secret in data for data in stored)


def test_every_act_is_in_the_audit_log(letters: Letters) -> None:
    prepare(letters.home)
    actions = [entry.action for entry in letters.home.ledger.audit.entries()]
    assert actions[2:] == [
        "source.import.begin",
        "source.import",
        "source.scan",
        "review.request",
        "review.decide",
        "dataset.prepare.begin",
        "dataset.prepare",
    ]
