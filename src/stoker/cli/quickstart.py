"""`stoker quickstart`: private text becomes a trained model, the whole way, on this machine, with a failure
in the middle and the promises checked at the end. Each step is a command of its own."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.key_life import house_replicas
from stoker.cli.prepare import prepare_text
from stoker.cli.review_scan import scan_text
from stoker.cli.run import require_torch
from stoker.cli.run_text import evaluations_text, sample_text, training_text
from stoker.cli.source import import_text
from stoker.cli.table import day, human_seconds
from stoker.cli.verify import verify_text
from stoker.core.errors import EXIT_DONE, EXIT_FINDING, StokerError
from stoker.fleet.faults import KillRank
from stoker.fleet.launch import start_run
from stoker.fleet.summary import EvaluationFigure, RunSummary, read_run
from stoker.intake.importing import import_source
from stoker.intake.permission import record_view
from stoker.intake.prepare import prepare_dataset
from stoker.intake.review import decide_review, request_review
from stoker.intake.scan_report import scan_and_seal
from stoker.keys.death import prove_death
from stoker.keys.destruction import destroy_in_emergency, request_destruction
from stoker.keys.identities import create_identity
from stoker.keys.refs import KekRef
from stoker.keys.rewrap import without_moves
from stoker.ledger.errors import UnknownIdentity
from stoker.ledger.records import DatasetRecord, ReviewRecord, Role, RunOutcome, SourceRecord
from stoker.promises.destruction import try_reading
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, VerifyReport
from stoker.promises.verify import verify_promises
from stoker.spec.recipe import ImportSpec, OnFault, RecipeSpec
from stoker.spec.run import RunSpec

RESEARCHER, REVIEWER = "researcher", "reviewer"
SOURCE, DATASET, PURPOSE = "python-stdlib", "python-text", "language-model"
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class QuickstartReport:
    """The figures of the whole way. `seconds` is by step; `reading_after_destruction` what was tried last."""

    kind: ClassVar[str] = "quickstart"
    version: ClassVar[int] = 1
    run: str
    outcome: str
    page: str
    evaluations: tuple[EvaluationFigure, ...]
    ettr: float | None
    tokens_per_s: float | None
    failures_survived: int
    promises: VerifyReport
    reading_after_destruction: tuple[Check, ...]
    seconds: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether everything that the quickstart shows came out as it says."""
        gone = bool(self.reading_after_destruction) and all(
            each.held for each in self.reading_after_destruction
        )
        return self.outcome == RunOutcome.FINISHED and self.failures_survived > 0 and gone


class QuickstartFailed(StokerError):
    """Training did not come to its end, so the rest of the way cannot be shown."""

    exit_code = 172


@dataclass
class _Tour:
    """The quickstart under way: says each step aloud and times it."""

    house: House
    seconds: dict[str, float] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """For people on stdout; with --json on stderr, so that stdout holds the result only."""
        click.echo(text, err=self.house.as_json)

    def step(self, number: int, title: str, explanation: str) -> Callable[[str], None]:
        """Announce a step; the returned function shows its result and how long it took."""
        self.say(f"\n{click.style(f'{number}  {title}', bold=True)}  {explanation}")
        began_s = self.house.clock.monotonic_s()

        def done(text: str) -> None:
            self.seconds[title] = self.house.clock.monotonic_s() - began_s
            self.say(f"{_indented(text)}\n   took {human_seconds(self.seconds[title])}")

        return done


def _indented(text: str) -> str:
    return "\n".join(f"   {line}".rstrip() for line in text.splitlines())


@command(
    "quickstart",
    needs=Deed.QUICKSTART,
    text=lambda report: _closing_text(report),
    exit_code=lambda report: _judge(report),
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Train on this folder's *.py files instead of Python's own.",
)
@click.option("--steps", type=click.IntRange(20), help="Train for so many steps instead of the default.")
def quickstart(house: House, folder: Path | None, steps: int | None) -> QuickstartReport:
    """The whole way on this machine: import, review, prepare, train through a failure, verify, destroy."""
    require_torch()
    tour = _Tour(house)
    tour.say(f"Stoker quickstart, in {house.home.root}")
    _people(tour)
    source = _import(tour, folder or Path(sysconfig.get_path("stdlib")))
    recipe = RecipeSpec()
    _review(tour, source, recipe)
    dataset = _prepare(tour, recipe)
    summary = _train(tour, steps)
    page = _report(tour, summary)
    promises = _verify(tour)
    tries = _expire(tour, dataset)
    return QuickstartReport(
        run=summary.run,
        outcome=summary.outcome,
        page=str(page),
        evaluations=summary.evaluations,
        ettr=summary.goodput.ettr,
        tokens_per_s=summary.goodput.tokens_per_s,
        failures_survived=sum(each.next_step_s is not None for each in summary.recoveries),
        promises=promises,
        reading_after_destruction=tries,
        seconds=tour.seconds,
    )


def _people(tour: _Tour) -> None:
    house = tour.house
    for name, role in ((RESEARCHER, Role.RESEARCHER), (REVIEWER, Role.REVIEWER)):
        try:
            house.ledger.catalogue.identity(name)
        except UnknownIdentity:
            create_identity(
                name, role, actor=None, ledger=house.ledger, backend=house.backend, clock=house.clock
            )
    tour.say(
        f"It acts as two identities, {RESEARCHER} and {REVIEWER}. Both are yours here; a team would use two "
        "people."
    )


def _import(tour: _Tour, folder: Path) -> SourceRecord:
    done = tour.step(1, "import", f"the Python files of {folder}, sealed from the first byte")
    house = tour.house
    report = import_source(
        SOURCE,
        folder,
        ImportSpec(
            include=("*.py",),
            exclude=("site-packages", "dist-packages", "__pycache__", "*/__pycache__"),
            unreadable=OnFault.LEAVE_OUT,
            outside_links=OnFault.LEAVE_OUT,
        ),
        actor=RESEARCHER,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
        clock=house.clock,
        locks=house.home.locks_dir,
    )
    done(import_text(report))
    return report.record


def _review(tour: _Tour, source: SourceRecord, recipe: RecipeSpec) -> ReviewRecord:
    done = tour.step(2, "review", "every byte is scanned; one identity asks, another decides")
    house = tour.house
    scanned = scan_and_seal(
        source,
        actor=RESEARCHER,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        progress=house.progress,
    )
    asked = request_review(
        source,
        scanned.digest,
        recipe.policy,
        purpose=PURPOSE,
        requested_by=RESEARCHER,
        valid_s=30 * _DAY_S,
        ledger=house.ledger,
        clock=house.clock,
    )
    record_view(house.ledger, REVIEWER, source, scanned.digest)
    lines = [
        scan_text(scanned),
        f"{RESEARCHER} asks to use it for {PURPOSE}: {asked.id}. {REVIEWER} looked at the examples above, "
        "which others are not shown",
    ]
    try:
        _approve(house, asked, RESEARCHER)
    except StokerError as refusal:
        lines.append(f"{RESEARCHER} approves it: refused ({refusal.id}). {refusal.message}")
    else:
        raise AssertionError("one identity approved its own request")
    decided = _approve(house, asked, REVIEWER)
    lines.append(
        f"{REVIEWER} approves it until {day(decided.expires_s)}, signed, bound to {asked.request_digest[:16]}"
    )
    done("\n".join(lines))
    return decided


def _approve(house: House, review: ReviewRecord, identity: str) -> ReviewRecord:
    return decide_review(
        review.id,
        approve=True,
        reason="personal data is redacted in preparation",
        decided_by=identity,
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )


def _prepare(tour: _Tour, recipe: RecipeSpec) -> DatasetRecord:
    done = tour.step(3, "prepare", "redact, train a tokenizer, pack, split, seal, sign")
    house = tour.house

    def prepare() -> tuple[DatasetRecord, bool, str]:
        report = prepare_dataset(
            DATASET,
            SOURCE,
            recipe,
            purpose=PURPOSE,
            actor=RESEARCHER,
            ledger=house.ledger,
            backend=house.backend,
            store=house.store,
            progress=house.progress,
            clock=house.clock,
            locks=house.home.locks_dir,
        )
        return report.record, report.found, prepare_text(report)

    record, _, text = prepare()
    began_s = house.clock.monotonic_s()
    again, found, _ = prepare()
    assert found and again.root == record.root
    again_s = house.clock.monotonic_s() - began_s
    done(f"{text}\nprepared again: found what is there, in {human_seconds(again_s)}")
    return record


def _train(tour: _Tour, steps: int | None) -> RunSummary:
    from stoker.core.config import Layer, load

    overrides = [] if steps is None else [f"train.steps={steps}"]
    layer = Layer("quickstart", {"dataset": DATASET, "name": "quickstart", "purpose": PURPOSE})
    loaded = load(RunSpec, [layer], overrides)
    spec = loaded.value
    kill = KillRank(rank=1, at_step=spec.train.steps // 3)
    done = tour.step(
        4,
        "train",
        f"{spec.train.steps} steps on {spec.launch.ranks} ranks; rank {kill.rank} gets SIGKILL after step "
        f"{kill.at_step}, on purpose",
    )
    house = tour.house
    summary = start_run(
        spec,
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store_url=house.store_url,
        actor=RESEARCHER,
        progress=house.progress,
        clock=house.clock,
        faults=(kill,),
        origins=loaded.origins,
    )
    done(training_text(summary))
    if summary.outcome is RunOutcome.CANCELLED:
        raise click.Abort
    if summary.outcome is not RunOutcome.FINISHED:
        reason = summary.error.message if summary.error is not None else summary.outcome
        raise QuickstartFailed(
            f"Run {summary.run} ended before its time: {reason}",
            hint=f"Look at {summary.folder}; when it is mended, go on with: stoker run resume {summary.run}",
        )
    tour.say(f"\n{click.style('5  evaluate', bold=True)}  on files that the model never saw")
    tour.say(_indented(f"{evaluations_text(summary.evaluations)}\n{sample_text(summary.sample)}"))
    return summary


def _report(tour: _Tour, summary: RunSummary) -> Path:
    from stoker.web.report import write_report

    house = tour.house
    done = tour.step(6, "report", "one page that needs nothing else")
    path = write_report(read_run(house.home, house.ledger, summary.run), house.home)
    done(f"{path}\nthe same figures: stoker run show {summary.run}")
    return path


def _verify(tour: _Tour) -> VerifyReport:
    done = tour.step(7, "verify", "each promise, checked just now")
    house = tour.house
    report = verify_promises(
        home=house.home,
        ledger=house.ledger,
        backend=house.backend,
        store=house.store,
        cache=house.cache,
        clock=house.clock,
        progress=house.progress,
    )
    done(verify_text(report))
    return report


def _expire(tour: _Tour, dataset: DatasetRecord) -> tuple[Check, ...]:
    done = tour.step(8, "expire", "the dataset's key is destroyed by two identities; then reading is tried")
    house = tour.house
    kek = KekRef.parse(dataset.kek)
    replicas = house_replicas(house)
    request_destruction(kek, actor=RESEARCHER, ledger=house.ledger, backend=house.backend, replicas=replicas)
    lines = [f"{RESEARCHER} asks that {kek} be destroyed"]
    try:
        destroy_in_emergency(kek, actor=RESEARCHER, reason="mine", ledger=house.ledger, backend=house.backend)
    except StokerError as refusal:
        lines.append(f"{RESEARCHER} approves it: refused ({refusal.id})")
    else:
        raise AssertionError("one identity destroyed a key")
    lines.append("approved in the usual way it could be withdrawn for 7 days; here it is an emergency")
    destroy_in_emergency(
        kek, actor=REVIEWER, reason="the quickstart ends", ledger=house.ledger, backend=house.backend
    )
    lines.append(f"{REVIEWER} approves it, with a reason: destroyed")
    proof = prove_death(
        kek,
        actor=REVIEWER,
        ledger=house.ledger,
        backend=without_moves(house.backend),
        replicas=replicas,
        clock=house.clock,
    )
    lines.append(f"proof of death, recorded: {'holds' if proof.holds else 'does not hold'}")
    whole = OpenHouse(house.home, house.ledger, house.backend, house.store, house.cache, house.clock)
    (thing,) = (each for each in whole.sealed_things() if each.kek == dataset.kek)
    tries = tuple(try_reading(whole, thing))
    lines += [f"{each.tried}: {each.seen}" for each in tries]
    done("\n".join(lines))
    return tries


def _judge(report: QuickstartReport) -> int:
    return EXIT_DONE if report.holds else EXIT_FINDING


def _closing_text(report: QuickstartReport) -> str:
    figures = {each.name: each.bits_per_byte for each in report.evaluations}
    model, bigram = figures.get("model"), figures.get("bigram")
    total_s = sum(report.seconds.values())
    lines = ["", f"done in {human_seconds(total_s)}: {report.promises.kept} of 8 promises kept"]
    if model is not None and bigram is not None:
        lines.append(
            f"the model needs {model:.3f} bits a byte on files it never saw; the bigram {bigram:.3f}"
        )
    lines.append(f"page: {report.page}")
    return "\n".join(lines)
