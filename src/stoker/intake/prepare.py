"""Prepare: a reviewed source becomes a dataset. See docs/design/intake.md, "Prepare"."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Final

from stoker.core.atomic import exclusive
from stoker.core.canonical import JsonValue, digest_of
from stoker.core.clock import Clock
from stoker.core.errors import ConfigError, MissingExtra
from stoker.core.ids import check_name, new_version_id
from stoker.core.progress import Progress
from stoker.core.result import plain
from stoker.intake.building import Build, BuildResult
from stoker.intake.dataset_writer import DatasetPlace, dataset_prefix
from stoker.intake.errors import OtherPolicy, OtherPurpose, ReviewDenied, ReviewExpired, ReviewRevoked
from stoker.intake.leftovers import discard, sweep
from stoker.intake.patterns import PATTERNS_DIGEST
from stoker.intake.review import policy_digest, require_review, review_digest, review_in_force
from stoker.intake.source_reader import SourceReader
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import KeyUnknown
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.states import KekState
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, ReviewRecord, SourceRecord
from stoker.spec.recipe import RecipeSpec
from stoker.store.errors import ObjectMissing
from stoker.store.manifest import Manifest
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal

PREPARATION_FORMAT: Final = 1
"""Raised whenever the same recipe would give other tokens, so that older datasets are not taken for new."""

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """The dataset, and whether it was there already. `seconds` says what the time went on, if any."""

    kind: ClassVar[str] = "prepare"
    version: ClassVar[int] = 1

    record: DatasetRecord
    found: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    unfinished_removed: int = 0


def recipe_digest(recipe: RecipeSpec) -> str:
    """Names everything that decides the tokens: recipe, patterns and the code's own format; 64 hex digits."""
    policy = replace(recipe.policy, redact=tuple(sorted(recipe.policy.redact)))
    return digest_of(
        {
            "format": PREPARATION_FORMAT,
            "patterns": PATTERNS_DIGEST,
            "recipe": plain(replace(recipe, policy=policy)),
        }
    )


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
) -> PrepareReport:
    """Prepare the newest version of `source_name` for `purpose` as dataset `name`; find it when it is there.

    Raises BadName, ConfigError, UnknownSource, everything require_review raises, OtherPolicy, TooLittleText,
    WorkerLost, Busy, DiskFull, MissingExtra. Nothing is a dataset until the ledger has it; whatever was
    written by the time of an error has been removed.
    """
    check_name(name, "dataset")
    if wrong := tuple(recipe.problems()) + tuple(recipe.policy.problems()):
        raise ConfigError("The recipe does not hold: " + " ".join(wrong), hint="Mend what is named.")
    source = ledger.catalogue.latest_source(source_name)
    review = require_review(ledger, source, purpose, clock)
    if policy_digest(recipe.policy) != review.policy_digest:
        raise OtherPolicy(
            f"Review {review.id} approved another policy than the one in this recipe.",
            hint="Prepare with the policy that was approved, or request a review of this one.",
        )
    preparation = _Preparation(name, source, review, recipe, purpose, actor, ledger, backend, store, clock)
    if found := preparation.existing():
        return PrepareReport(found, found=True)
    if importlib.util.find_spec("tokenizers") is None:
        raise MissingExtra(
            "Preparing a dataset needs the package tokenizers.",
            hint="Run: pip install '.[train]' in Stoker's clone",
        )
    with exclusive(locks / f"dataset-{name}.lock", f"dataset {name}"):
        if found := preparation.existing():
            return PrepareReport(found, found=True)
        return preparation.run(progress, processes)


@dataclass(frozen=True, slots=True)
class _Preparation:
    """One preparation: what it reads, and under which review."""

    name: str
    source: SourceRecord
    review: ReviewRecord
    recipe: RecipeSpec
    purpose: str
    actor: str
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    clock: Clock

    def existing(self) -> DatasetRecord | None:
        """The newest dataset of this name that this recipe made of these bytes and that can be used now."""
        digest = recipe_digest(self.recipe)
        for record in reversed(self.ledger.catalogue.datasets(self.name)):
            same = record.source_root == self.source.manifest_root and record.recipe_digest == digest
            if same and record.state is DatasetState.LIVE and self._usable(record):
                return record
        return None

    def _usable(self, record: DatasetRecord) -> bool:
        now_s = self.clock.now_s()
        if now_s >= record.expires_s:
            return False
        try:
            review_in_force(self.ledger, record.review, self.purpose, self.clock)
            kek = self.backend.info(KekRef.parse(record.kek))
            public_key = self.backend.signer("manifest").public_key
            Manifest.open(self.store, dataset_prefix(record.name, record.version), record.root, public_key)
        except (KeyUnknown, ObjectMissing, ReviewDenied, ReviewRevoked, ReviewExpired, OtherPurpose):
            return False
        return kek.state in (KekState.ACTIVE, KekState.DEACTIVATED) and not kek.expired(now_s)

    def run(self, progress: Progress, processes: int) -> PrepareReport:
        """Build it, under the name's lock."""
        subject, version = f"dataset/{self.name}", new_version_id()
        begin: dict[str, JsonValue] = {"version": version, "review": self.review.id}
        with self.ledger.act(actor=self.actor, action="dataset.prepare.begin", subject=subject, detail=begin):
            pass
        recorded = {record.version for record in self.ledger.catalogue.datasets(self.name)}
        removed = sweep(f"datasets/{self.name}", subject, recorded, store=self.store, backend=self.backend)
        expires_s = min(self.clock.now_s() + self.recipe.expires_after_days * DAY_S, self.review.expires_s)
        kek: KekRef | None = None
        try:
            kek = self.backend.create_kek(f"{subject}/{version}", Purpose.DATASET, expires_s=expires_s)
            place = DatasetPlace(self.name, version, kek, review_digest(self.review))
            result = self._build(place, progress, processes)
            record = self._record(place, result, expires_s)
        except BaseException:
            if version not in {known.version for known in self.ledger.catalogue.datasets(self.name)}:
                prefix = dataset_prefix(self.name, version)
                discard(prefix, kek, store=self.store, backend=self.backend)
            raise
        return PrepareReport(record, found=False, seconds=result.seconds, unfinished_removed=removed)

    def _build(self, place: DatasetPlace, progress: Progress, processes: int) -> BuildResult:
        keys = BackendKeySource(self.backend)
        signer = self.backend.signer("manifest")
        with (
            SourceReader.open(self.source, self.store, keys, signer.public_key) as reader,
            PartitionSeal(keys, place.kek, Purpose.DATASET) as seal,
        ):
            build = Build(place, self.recipe, reader, seal, self.store, self.clock)
            return build.run(recipe_digest(self.recipe), signer, progress, processes)

    def _record(self, place: DatasetPlace, result: BuildResult, expires_s: float) -> DatasetRecord:
        review_in_force(self.ledger, self.review.id, self.purpose, self.clock)
        record = DatasetRecord(
            name=self.name,
            version=place.version,
            root=result.root,
            kek=str(place.kek),
            source=self.source.name,
            source_version=self.source.version,
            source_root=self.source.manifest_root,
            review=self.review.id,
            recipe_digest=recipe_digest(self.recipe),
            recipe=_table(plain(self.recipe)),
            figures=result.figures,
            prepared_by=self.actor,
            prepared_s=self.clock.now_s(),
            expires_s=expires_s,
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
        }
        with self.ledger.act(
            actor=self.actor, action="dataset.prepare", subject=f"dataset/{self.name}", detail=detail
        ) as catalogue:
            catalogue.add_dataset(record)
        return record


def _table(value: JsonValue) -> Mapping[str, JsonValue]:
    assert isinstance(value, dict)
    return value
