"""Prepare: a reviewed source becomes a dataset. See docs/design/intake.md, "Prepare"."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from stoker.core.atomic import exclusive
from stoker.core.canonical import JsonValue, digest_of
from stoker.core.clock import Clock
from stoker.core.errors import ConfigError, MissingExtra
from stoker.core.ids import VersionId, check_name, new_version_id
from stoker.core.progress import Progress
from stoker.core.result import plain
from stoker.intake import names_model
from stoker.intake.building import TOKENIZER
from stoker.intake.dataset_writer import DatasetPlace, dataset_prefix
from stoker.intake.detect.patterns import PATTERNS_DIGEST
from stoker.intake.errors import (
    BrokenRecord,
    LabelMismatch,
    OtherPolicy,
    OtherPurpose,
    OutsideTerms,
    RecordFault,
    ReviewDenied,
    ReviewExpired,
    ReviewRevoked,
    ReviewTampered,
    TooLittleText,
)
from stoker.intake.executors import Executor
from stoker.intake.executors.local import LocalExecutor
from stoker.intake.forms import form_of
from stoker.intake.leftovers import discard, sweep
from stoker.intake.lent_tokenizer import find_lender, lent_tokenizer
from stoker.intake.plan import PreparationPlan, plan_key, work_prefix, write_plan
from stoker.intake.planning import find_unfinished, make_plan, name_model_of
from stoker.intake.quality.judge import check_languages
from stoker.intake.review_gate import Use, require_review, review_in_force
from stoker.intake.review_request import policy_digest, review_digest
from stoker.intake.task_errors import TaskFailed
from stoker.intake.task_room import TaskRoom
from stoker.intake.tasks import BuildResult, Phase, run_tasks
from stoker.intake.workplace import Workplace
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import KeyUnknown
from stoker.keys.moves import keeper, moves
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rotation import may_be_known
from stoker.keys.states import KekState
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, ReviewRecord, SourceRecord
from stoker.spec.policy import PolicySpec, policy_table
from stoker.spec.quality import QualitySpec
from stoker.spec.recipe import RecipeSpec
from stoker.spec.records import RecordsSpec
from stoker.store.errors import ObjectMissing
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore

PREPARATION_FORMAT: Final = 1
"""Raised whenever the same recipe would give other tokens, so that older datasets are not taken for new."""

HOPELESS: Final = (
    TooLittleText,
    BrokenRecord,
    RecordFault,
    LabelMismatch,
    ReviewDenied,
    ReviewRevoked,
    ReviewExpired,
    ReviewTampered,
    OtherPurpose,
    OutsideTerms,
)
"""Errors after which going on with the same plan would fail again: what was done is removed."""

DAY_S: Final = 86_400.0
MAX_ROOMS: Final = 100
"""So many nodes are named in the log; those that were open come first."""


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """The dataset, whether it was there already, and whether an unfinished preparation was gone on with.

    `seconds` says what the time went on, by phase, if any; `rooms` which nodes did tasks now, and how closed
    off from every network what read documents there was.
    """

    kind: ClassVar[str] = "prepare"
    version: ClassVar[int] = 1

    record: DatasetRecord
    found: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    unfinished_removed: int = 0
    resumed: bool = False
    rooms: tuple[TaskRoom, ...] = ()


def recipe_digest(recipe: RecipeSpec, lender_root: str = "") -> str:
    """Names everything that decides the tokens: recipe, patterns and the code's own format; 64 hex digits.

    Where the policy asks for the name model, that model's version and the digest of its files too.
    `lender_root` is the root of the dataset that lends its tokenizer.
    """
    table = dict(_table(plain(recipe)))
    limits = {"document_s": recipe.policy.document_s, "worker_bytes": recipe.policy.worker_bytes}
    usual = {"document_s": PolicySpec().document_s, "worker_bytes": PolicySpec().worker_bytes}
    seeing: dict[str, JsonValue] = {"name_model": names_model.IDENTITY} if recipe.policy.name_model else {}
    table["policy"] = {**policy_table(recipe.policy), **({} if limits == usual else limits), **seeing}
    if recipe.quality == QualitySpec():
        del table["quality"]  # as before there were quality steps
    if recipe.records == RecordsSpec():
        del table["records"]  # as before there were recipes of records
    if not recipe.heldout_paths:
        del table["heldout_paths"]  # as before there were any
    table["tokenizer_of"] = lender_root
    if not lender_root:
        del table["tokenizer_of"]  # as before tokenizers were lent
    return digest_of({"format": PREPARATION_FORMAT, "patterns": PATTERNS_DIGEST, "recipe": table})


def prepare_dataset(
    name: str,
    source_name: str,
    recipe: RecipeSpec,
    *,
    purpose: str,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    progress: Progress,
    clock: Clock,
    locks: Path,
    processes: int = 2,
    executor: Executor | None = None,
    fresh: bool = False,
    reseal: bool = False,
    page_bytes: int | None = None,
) -> PrepareReport:
    """Prepare the newest version of `source_name` for `purpose` as dataset `name`; find it when it is there.

    With `reseal` another version is made although one is there: the same samples under new keys. One whose
    key is known to be compromised is never found. An unfinished preparation of the same source, recipe and
    review is gone on with, unless `fresh`. The
    tasks run on `executor`; None is this machine with so many `processes`. `page_bytes` is about how much of
    the source a task takes; None lets the size of the source decide.

    Raises BadName, ConfigError, UnknownSource, everything require_review raises, OtherPolicy, UnknownDataset
    and DatasetEnded for a dataset that is to lend its tokenizer, TooLittleText, WorkerLost, TaskFailed, Busy,
    DiskFull, MissingExtra. Nothing is a dataset until the ledger has it. After
    an error that may pass, what is done stays, sealed, and the next call goes on from there; after one that
    will not (see HOPELESS) it has been removed.
    """
    check_name(name, "dataset")
    sections = (recipe, recipe.policy, recipe.quality, recipe.records)
    if wrong := [problem for section in sections for problem in section.problems()]:
        raise ConfigError("The recipe does not hold: " + " ".join(wrong), hint="Mend what is named.")
    source = ledger.catalogue.latest_source(source_name)
    require_review(ledger, source, purpose, clock)
    lender = find_lender(recipe, purpose=purpose, ledger=ledger, clock=clock)
    digest = recipe_digest(recipe, "" if lender is None else lender.root)
    review = require_review(ledger, source, purpose, clock, Use(recipe=digest))
    if policy_digest(recipe.policy) != review.policy_digest:
        raise OtherPolicy(
            f"Review {review.id} approved another policy than the one in this recipe.",
            hint="Prepare with the policy that was approved, or request a review of this one.",
        )
    preparation = _Preparation(
        name, source, review, recipe, lender, purpose, actor, ledger, backend, store, clock
    )
    if not reseal and (found := preparation.existing()):
        return preparation.found(found)
    check_languages(recipe.quality)
    name_model_of(recipe)  # raises MissingExtra before anything is written
    if importlib.util.find_spec("tokenizers") is None:
        raise MissingExtra(
            "Preparing a dataset needs the package tokenizers.",
            hint="Run: pip install '.[train]' in Stoker's clone",
        )
    with exclusive(locks / f"dataset-{name}.lock", f"dataset {name}"):
        if not reseal and (found := preparation.existing()):
            return preparation.found(found)
        with contextlib.closing(LocalExecutor(processes) if executor is None else executor) as where:
            return preparation.run(where, progress, fresh=fresh, page_bytes=page_bytes)


@dataclass(frozen=True, slots=True)
class _Preparation:
    """One preparation: what it reads, and under which review."""

    name: str
    source: SourceRecord
    review: ReviewRecord
    recipe: RecipeSpec
    lender: DatasetRecord | None
    purpose: str
    actor: str
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    clock: Clock

    @property
    def recipe_digest(self) -> str:
        """The digest of the recipe with the tokenizer that it names."""
        return recipe_digest(self.recipe, "" if self.lender is None else self.lender.root)

    @property
    def _use(self) -> Use:
        return Use(recipe=self.recipe_digest)

    def existing(self) -> DatasetRecord | None:
        """The newest dataset of this name that this recipe made of these bytes and that can be used now."""
        made = self.ledger.catalogue.datasets_made(self.source.manifest_root, self.recipe_digest, self.name)
        return next((record for record in reversed(made) if self._usable(record)), None)

    def found(self, record: DatasetRecord) -> PrepareReport:
        """The report of a dataset that was there; what a killed commit left of its work goes."""
        prefix = dataset_prefix(record.name, record.version)
        if self.store.exists(plan_key(prefix)):
            self.store.delete_prefix(work_prefix(prefix))
        return PrepareReport(record, found=True)

    def _usable(self, record: DatasetRecord) -> bool:
        now_s = self.clock.now_s()
        if now_s >= record.expires_s:
            return False
        try:
            review_in_force(self.ledger, record.review, self.purpose, self.clock)
            kek = self.backend.info(KekRef.parse(keeper(record.kek, moves(self.ledger))))
            public_key = self.backend.signer("manifest").public_key
            Manifest.open(self.store, dataset_prefix(record.name, record.version), record.root, public_key)
        except (KeyUnknown, ObjectMissing, ReviewDenied, ReviewRevoked, ReviewExpired, OtherPurpose):
            return False
        exposed = may_be_known(self.backend, KekRef.parse(record.kek))
        usable = kek.state in (KekState.ACTIVE, KekState.DEACTIVATED) and not kek.expired(now_s)
        return usable and not exposed

    def run(
        self, executor: Executor, progress: Progress, *, fresh: bool, page_bytes: int | None
    ) -> PrepareReport:
        """Build it, under the name's lock: go on from an unfinished preparation, or begin one."""
        subject = f"dataset/{self.name}"
        recorded = {record.version for record in self.ledger.catalogue.datasets(self.name)}
        plan = None if fresh else self._unfinished(recorded)
        version = new_version_id() if plan is None else plan.version
        detail: dict[str, JsonValue] = {"version": version, "review": self.review.id}
        action = "dataset.prepare.begin" if plan is None else "dataset.prepare.resume"
        with self.ledger.act(actor=self.actor, action=action, subject=subject, detail=detail):
            pass
        kept = recorded if plan is None else {*recorded, plan.version}
        removed = sweep(f"datasets/{self.name}", subject, kept, store=self.store, backend=self.backend)
        resumed = plan is not None
        if plan is None:
            plan = self._plan(version, page_bytes)
        try:
            result, seconds = self._build(plan, executor, progress)
            rooms = tuple(executor.rooms)
            record = self._record(plan, result, rooms)
        except HOPELESS:
            prefix = dataset_prefix(self.name, version)
            discard(prefix, KekRef.parse(plan.kek), store=self.store, backend=self.backend)
            raise
        self.store.delete_prefix(work_prefix(plan.place.prefix))
        return PrepareReport(
            record, found=False, seconds=seconds, unfinished_removed=removed, resumed=resumed, rooms=rooms
        )

    def _unfinished(self, recorded: Collection[str]) -> PreparationPlan | None:
        return find_unfinished(
            self.name,
            recorded,
            self.source,
            self.review,
            review_digest(self.review),
            self.recipe_digest,
            name_model_of(self.recipe),
            now_s=self.clock.now_s(),
            store=self.store,
            backend=self.backend,
        )

    def _plan(self, version: VersionId, page_bytes: int | None) -> PreparationPlan:
        """Make the plan and store it; on any error nothing of it is left."""
        expires_s = min(self.clock.now_s() + self.recipe.expires_after_days * DAY_S, self.review.expires_s)
        if self.lender is not None:
            expires_s = min(expires_s, self.lender.expires_s)
        kek: KekRef | None = None
        try:
            kek = self.backend.create_kek(
                f"dataset/{self.name}/{version}", Purpose.DATASET, expires_s=expires_s
            )
            plan = make_plan(
                DatasetPlace(self.name, version, kek, review_digest(self.review)),
                self.source,
                self.review,
                self.recipe,
                self.recipe_digest,
                expires_s,
                purpose=self.purpose,
                store=self.store,
                backend=self.backend,
                page_bytes=page_bytes,
            )
            write_plan(plan, self.store, BackendKeySource(self.backend))
        except BaseException:
            discard(dataset_prefix(self.name, version), kek, store=self.store, backend=self.backend)
            raise
        return plan

    def _build(
        self, plan: PreparationPlan, executor: Executor, progress: Progress
    ) -> tuple[BuildResult, dict[str, float]]:
        """Do every phase, then commit; the review is asked for again before each."""
        signer = self.backend.signer("manifest")
        seconds: dict[str, float] = {}
        keys = BackendKeySource(self.backend)
        with Workplace(plan, self.store, keys, signer.public_key) as work:
            form = form_of(work)
            if self.lender is not None and not work.is_done(TOKENIZER, 0):
                tokenizer = lent_tokenizer(
                    self.lender, ledger=self.ledger, backend=self.backend, store=self.store
                )
                work.put(TOKENIZER, 0, {"lent_by": self.lender.root}, tokenizer)
            for name in plan.phases:
                began_s = self.clock.monotonic_s()
                review_in_force(self.ledger, self.review.id, self.purpose, self.clock, self._use)
                _run_phase(work, form.phase(name), executor, progress)
                seconds[name] = self.clock.monotonic_s() - began_s
            return form.commit(signer), seconds

    def _record(self, plan: PreparationPlan, result: BuildResult, rooms: Sequence[TaskRoom]) -> DatasetRecord:
        review_in_force(self.ledger, self.review.id, self.purpose, self.clock, self._use)
        public_key = self.backend.signer("manifest").public_key
        block = Manifest.open(self.store, plan.place.prefix, result.root, public_key).superblock
        more: dict[str, JsonValue] = {} if self.lender is None else {"tokenizer_of": self.lender.root}
        if plan.name_model:
            more["name_model"] = plan.name_model
        record = DatasetRecord(
            name=self.name,
            version=plan.version,
            root=result.root,
            kek=plan.kek,
            source=self.source.name,
            source_version=self.source.version,
            source_root=self.source.manifest_root,
            review=self.review.id,
            recipe_digest=plan.recipe_digest,
            recipe=_table(plain(self.recipe)),
            figures={**result.figures, **more, "object_bytes": block.object_bytes},
            prepared_by=self.actor,
            prepared_s=self.clock.now_s(),
            expires_s=plan.expires_s,
            state=DatasetState.LIVE,
        )
        detail: dict[str, JsonValue] = {
            "version": record.version,
            "root": record.root,
            "kek": record.kek,
            "source_root": record.source_root,
            "review": record.review,
            "recipe_digest": record.recipe_digest,
            "expires_s": record.expires_s,
            "rooms": [[room.node, room.state.value, room.reason] for room in rooms[:MAX_ROOMS]],
            **more,
        }
        with self.ledger.act(
            actor=self.actor, action="dataset.prepare", subject=f"dataset/{self.name}", detail=detail
        ) as catalogue:
            catalogue.add_dataset(record)
        return record


def _run_phase(work: Workplace, phase: Phase, executor: Executor, progress: Progress) -> None:
    """Do what is left of a phase. Raises TaskFailed when its executor came back without all of it."""
    done = work.done(phase.name)
    left = [task for task in range(phase.tasks) if task not in done]
    with progress.task(phase.label, sum(phase.amounts), phase.unit) as bar:
        if before := sum(phase.amounts[task] for task in range(phase.tasks) if task in done):
            bar.advance(before)
        if left and phase.here:
            run_tasks(phase, left, lambda task: bar.advance(phase.amounts[task]))
        elif left:
            executor.run(work, phase, left, lambda task: bar.advance(phase.amounts[task]))
    missing = [task for task in left if not work.is_done(phase.name, task)]
    if missing:
        raise TaskFailed(
            f"{len(missing)} tasks of the phase {phase.name} have no result, the first is {missing[0]}.",
            hint="Run the same command again: it goes on from what is done.",
        )


def _table(value: JsonValue) -> Mapping[str, JsonValue]:
    assert isinstance(value, dict)
    return value
