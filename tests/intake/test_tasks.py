"""Preparation as tasks: one plan gives one dataset, whoever does them, twice, or after a kill anywhere."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import datasketch  # noqa: F401 - here once, and not in every worker that is forked
import pytest
import tokenizers  # noqa: F401

from stoker.intake import building, prepare
from stoker.intake.dataset_writer import DatasetCommit
from stoker.intake.errors import WorkerLost
from stoker.intake.executors.local import LocalExecutor
from stoker.intake.forms import form_of
from stoker.intake.packing import packed
from stoker.intake.plan import BrokenPlan, page_bytes_for, page_starts, plan_key
from stoker.intake.prepare import recipe_digest
from stoker.intake.quality.judge import DocumentFacts, Dropped
from stoker.intake.quality_facts import decode_facts, encode_facts
from stoker.intake.sharding import lay_out
from stoker.intake.source_index import SourceFile
from stoker.intake.task_errors import TaskFailed
from stoker.intake.tasks import Phase, run_tasks
from stoker.intake.workplace import Workplace
from stoker.keys.partition import BackendKeySource
from stoker.keys.states import KekState
from stoker.spec.quality import QualitySpec
from stoker.spec.recipe import Kind, PolicySpec
from stoker.store.errors import CommitmentMismatch, CorruptStream, ObjectDiffers, SwappedStream
from support.intake_home import IntakeHome, Interfering, in_child, intake_home
from support.letters import (
    LETTERS,
    approve_letters,
    objects_of,
    plan_letters,
    prepare_letters,
    write_letters,
)

DROPPING = dataclasses.replace(
    LETTERS, quality=QualitySpec(min_words=10, drop_exact_duplicates=True, near_duplicates=0.9)
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a plan of DROPPING, to copy, and the dataset made of that plan in another copy."""
    root = tmp_path_factory.mktemp("planned")
    write_letters(root / "letters")
    (root / "letters/short.txt").write_text("too few words\n")
    (root / "letters/again.txt").write_bytes((root / "letters/letter-03.txt").read_bytes())
    with intake_home(root / "home") as home:
        approve_letters(home, root / "letters", DROPPING)
        plan_letters(home, DROPPING)
    shutil.copytree(root / "home", root / "whole")
    with intake_home(root / "whole") as home:
        assert prepare_letters(home, DROPPING, processes=1).resumed
    return root


@pytest.fixture(scope="module")
def expected(planned: Path) -> tuple[str, dict[str, bytes]]:
    """The root of the dataset of that plan, and all its objects."""
    with intake_home(planned / "whole") as home:
        (record,) = home.ledger.catalogue.datasets("mail")
        return record.root, objects_of(home, record)


@pytest.fixture
def place(planned: Path, tmp_path: Path) -> Path:
    """A copy of the planned home."""
    return shutil.copytree(planned / "home", tmp_path / "home")


def is_the_same_dataset(home: IntakeHome, expected: tuple[str, dict[str, bytes]]) -> bool:
    """Its root, every byte of every object, one key that may seal, and nothing beside it."""
    (record,) = home.ledger.catalogue.datasets("mail")
    active = [
        str(info.ref)
        for info in home.backend.list_keks()
        if info.ref.scope.startswith("dataset/") and info.state is KekState.ACTIVE
    ]
    return (record.root, objects_of(home, record)) == expected and active == [record.kek]


class Unruly(LocalExecutor):
    """Does every task twice, last ones first, each time as a process that knows nothing but the store."""

    home: IntakeHome

    def run(self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]) -> None:
        keys = BackendKeySource(self.home.backend)
        public_key = self.home.backend.signer("manifest").public_key
        for task in reversed([*tasks, *tasks]):
            with Workplace.open(work.plan.place, self.home.store, keys, public_key) as other:
                run_tasks(form_of(other).phase(phase.name), [task], lambda _: None)
        for task in tasks:
            done(task)


def test_one_plan_gives_one_dataset_on_two_processes(
    place: Path, expected: tuple[str, dict[str, bytes]]
) -> None:
    with intake_home(place) as home:
        report = prepare_letters(home, DROPPING, executor=LocalExecutor(2))
        assert report.resumed
        assert is_the_same_dataset(home, expected)


def test_one_plan_gives_one_dataset_when_tasks_are_done_twice_and_in_any_order(
    place: Path, expected: tuple[str, dict[str, bytes]]
) -> None:
    with intake_home(place) as home:
        unruly = Unruly()
        unruly.home = home
        prepare_letters(home, DROPPING, executor=unruly)
        assert is_the_same_dataset(home, expected)


@pytest.mark.parametrize(
    ("label", "after"),
    [
        *(("judge", 1), ("judge", 3), ("compare", 1), ("treat", 2), ("hold", 1), ("train", 1)),
        *(("prepare", 2), ("lay out", 1), ("pack", 2)),
    ],
)
def test_killed_in_any_phase_it_is_gone_on_with_and_gives_the_same_dataset(
    place: Path, expected: tuple[str, dict[str, bytes]], label: str, after: int
) -> None:
    die = Interfering(label, lambda: os.kill(os.getpid(), signal.SIGKILL), after=after)

    def prepare_and_die() -> None:
        with intake_home(place) as home:
            prepare_letters(home, DROPPING, progress=die)

    assert os.WTERMSIG(in_child(prepare_and_die)) == signal.SIGKILL
    with intake_home(place) as home:
        assert home.ledger.catalogue.datasets("mail") == ()
        done = {key for key in home.objects("datasets") if "/work/" in key}
        assert len(done) > 1
        report = prepare_letters(home, DROPPING)
        assert (report.resumed, report.unfinished_removed) == (True, 0)
        assert is_the_same_dataset(home, expected)


def start_dying(_: object) -> Callable[[object], None]:
    """A worker's function that ends its process."""
    return lambda _: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("start", ["start_judging", "start_selecting", "start_training", "start_encoding"])
def test_a_worker_killed_in_any_phase_is_told_and_the_next_call_goes_on(
    place: Path, expected: tuple[str, dict[str, bytes]], start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with intake_home(place) as home:
        with monkeypatch.context() as faulty:
            faulty.setattr(building, start, start_dying)
            with pytest.raises(WorkerLost, match="signal 9"):
                prepare_letters(home, DROPPING)
        assert home.ledger.catalogue.datasets("mail") == ()
        assert prepare_letters(home, DROPPING).resumed
        assert is_the_same_dataset(home, expected)


def killed_after(function: Callable[..., object]) -> Callable[..., object]:
    """`function`, and then the process is gone."""

    def run(*arguments: object, **more: object) -> object:
        function(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    return run


@pytest.mark.parametrize("moment", ["an artefact", "the manifest", "the record"])
def test_killed_while_it_commits_it_is_gone_on_with_or_found(
    place: Path, expected: tuple[str, dict[str, bytes]], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare_and_die() -> None:
        if moment == "the record":
            monkeypatch.setattr(prepare._Preparation, "_record", killed_after(prepare._Preparation._record))
        else:
            name = "add_artefact" if moment == "an artefact" else "finish"
            monkeypatch.setattr(DatasetCommit, name, killed_after(getattr(DatasetCommit, name)))
        with intake_home(place) as home:
            prepare_letters(home, DROPPING)

    assert os.WTERMSIG(in_child(prepare_and_die)) == signal.SIGKILL
    with intake_home(place) as home:
        assert any("/work/" in key for key in home.objects("datasets"))
        report = prepare_letters(home, DROPPING)
        assert (report.found, report.resumed) == (moment == "the record", moment != "the record")
        assert is_the_same_dataset(home, expected)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("position", [150, -1])
@pytest.mark.parametrize(("phase", "bar"), [("judge", "judge"), ("encode", "prepare"), ("layout", "lay out")])
def test_a_changed_intermediate_is_refused_and_named(
    place: Path, phase: str, bar: str, position: int
) -> None:
    with intake_home(place) as home:
        with pytest.raises(KeyboardInterrupt):
            prepare_letters(home, DROPPING, progress=Interfering(bar, interrupt))
        path = min(home.store_dir.glob(f"datasets/mail/*/work/{phase}/*.stk"))
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(
            (CorruptStream, CommitmentMismatch, SwappedStream), match=f"work/{phase}/{path.name}"
        ):
            prepare_letters(home, DROPPING)
        assert home.ledger.catalogue.datasets("mail") == ()


def test_an_intermediate_in_anothers_place_is_refused_and_named(place: Path) -> None:
    with intake_home(place) as home:
        with pytest.raises(KeyboardInterrupt):
            prepare_letters(home, DROPPING, progress=Interfering("lay out", interrupt))
        (folder,) = home.store_dir.glob("datasets/mail/*/work/encode")
        shutil.copy(folder / "00000000.stk", folder / "00000001.stk")
        (folder.parent / "layout/00000000.stk").unlink()
        with pytest.raises(SwappedStream, match=r"work/encode/00000001.stk .* its shard is"):
            prepare_letters(home, DROPPING)


def test_other_bytes_under_a_shards_name_are_refused_and_named(place: Path) -> None:
    with intake_home(place) as home:
        with pytest.raises(KeyboardInterrupt):
            prepare_letters(home, DROPPING, progress=Interfering("pack", interrupt))
        (shard,) = home.store_dir.glob("datasets/mail/*/00000000.stk")
        (shard.parent / "work/pack/00000000.stk").unlink()
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        with pytest.raises(ObjectDiffers, match=r"datasets/mail/\w+/00000000.stk in .* holds other bytes"):
            prepare_letters(home, DROPPING)


def test_a_changed_plan_is_refused_and_named_and_fresh_begins_anew(place: Path) -> None:
    (path,) = (place / "store").glob("datasets/mail/*/work/plan.stk")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with intake_home(place) as home:
        with pytest.raises(CorruptStream, match=r"work/plan.stk, chunk"):
            prepare_letters(home, DROPPING)
        assert prepare_letters(home, DROPPING, fresh=True).unfinished_removed == 1


def test_another_recipe_or_an_expired_plan_begins_anew(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "later")
    with intake_home(place) as home:
        report = prepare_letters(home, dataclasses.replace(DROPPING, seed=1))
        assert (report.resumed, report.unfinished_removed) == (False, 1)
    with intake_home(tmp_path / "later") as home:
        home.clock.advance(30 * 86_400.0)
        report = prepare_letters(home, DROPPING)
        assert (report.resumed, report.unfinished_removed) == (False, 1)


def test_an_executor_that_comes_back_with_work_left_is_an_error(place: Path) -> None:
    class Lazy(LocalExecutor):
        def run(
            self, work: Workplace, phase: Phase, tasks: Sequence[int], done: Callable[[int], None]
        ) -> None:
            run_tasks(phase, tasks[1:], done)

    with intake_home(place) as home, pytest.raises(TaskFailed, match="1 tasks of the phase judge have no"):
        prepare_letters(home, DROPPING, executor=Lazy())


def test_what_quality_steps_dropped_is_counted_and_not_in_the_dataset(planned: Path) -> None:
    with intake_home(planned / "whole") as home:
        (record,) = home.ledger.catalogue.datasets("mail")
    figures = record.figures
    assert figures["quality"]["dropped"] == {"too_short": 1, "exact_duplicate": 1}
    assert figures["train"]["documents"] + figures["heldout"]["documents"] == 24
    assert record.recipe["quality"]["min_words"] == 10


def test_a_recipe_without_newer_sections_has_the_digest_it_had_before_there_were_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the patterns of that time, and a policy that says nothing but what to redact."""
    patterns = "dd210c0d5ad33943f3634334c010f6108d84ab9d87bda1e72c62b29bf3614570"
    monkeypatch.setattr(prepare, "PATTERNS_DIGEST", patterns)
    words = ("email", "phone", "ipv4", "ipv6", "card", "iban", "secret", "url_credentials")
    policy = PolicySpec(tuple(Kind(word) for word in words))
    before = dataclasses.replace(LETTERS, samples_per_shard=512, policy=policy)
    assert recipe_digest(before)[:16] == "2b7792cd02aa5cee"
    assert recipe_digest(DROPPING) != recipe_digest(LETTERS)


def test_facts_of_documents_read_back_as_they_were_written() -> None:
    facts = [
        DocumentFacts(None, "en", b"d" * 16, bytes(range(64))),
        DocumentFacts(Dropped.NEAR_DUPLICATE, "", b"", b""),
    ]
    data = encode_facts(facts)
    assert list(decode_facts(data)) == facts
    for broken in (data[:-1], data + b"\0", b"\xff" + data[1:]):
        with pytest.raises(ValueError, match="cut off"):
            list(decode_facts(broken))


@pytest.mark.parametrize("sizes", [[5], [5, 5, 5], [100, 1, 1], [1, 1, 100, 1], [7] * 50])
@pytest.mark.parametrize("page", [1, 10, 1000])
def test_pages_hold_every_document_once_and_are_about_as_large_as_asked(sizes: list[int], page: int) -> None:
    files = [SourceFile(str(n), size, bytes(32), 0, 0) for n, size in enumerate(sizes)]
    starts = page_starts(files, page)
    ends = (*starts[1:], len(sizes))
    pages = [sizes[start:end] for start, end in zip(starts, ends, strict=True)]
    assert [size for each in pages for size in each] == sizes
    assert all(len(each) == 1 or sum(each) <= page for each in pages)


def test_pages_are_neither_tiny_nor_huge() -> None:
    assert [page_bytes_for(size) >> 10 for size in (0, 1 << 20, 1 << 25, 1 << 40)] == [512, 512, 2048, 32768]


def test_a_layout_gives_each_split_shards_of_its_own_and_every_page_its_place() -> None:
    recipe = dataclasses.replace(LETTERS, sequence_tokens=32, samples_per_shard=1)
    train, heldout = lay_out({"train": [100, 0, 50], "heldout": [0, 40, 30]}, "train", recipe)
    assert (train.packed, heldout.packed) == (packed(150, 32, padded=True), packed(70, 32, padded=False))
    assert (train.first_shard, heldout.first_shard) == (0, train.shards)
    assert train.starts.tolist() == [0, 100, 100, 150]
    assert (train.skips.tolist(), heldout.skips.tolist()) == ([0, 0, 0], [100, 0, 50])


def test_a_plan_of_another_format_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.intake.plan.PLAN_FORMAT", 2)
    with intake_home(place) as home, pytest.raises(BrokenPlan, match=r"work/plan.stk is the plan of another"):
        prepare_letters(home, DROPPING)


def test_phases_are_those_the_recipe_needs() -> None:
    assert building.text_phases(LETTERS) == ("treat", "hold", "tokenizer", "encode", "layout", "pack")
    assert building.text_phases(DROPPING)[:2] == ("judge", "select")
    assert plan_key("datasets/mail/v") == "datasets/mail/v/work/plan.stk"
