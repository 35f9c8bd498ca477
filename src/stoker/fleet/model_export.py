"""A run's newest checkpoint taken out of the house as plain files that others load, and recorded.

An export declassifies: it takes a role, reviews in force for all that the model was trained on, a model that
is free to go or was released, and two entries in the audit log, one before the first byte and one after the
last. See docs/design/exchange.md, "Leaving the house".
"""

from __future__ import annotations

import enum
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from stoker.core.atomic import exclusive, naming_full_disk
from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.config import from_plain
from stoker.core.home import Home
from stoker.core.progress import SILENT, Progress
from stoker.fleet.errands import require_leave
from stoker.fleet.model_card import card_of, exposure_sentence
from stoker.fleet.release import Standing, require_releasable
from stoker.fleet.summary import supervisor_lock
from stoker.intake.export_folder import draft_folder, free_target, publish
from stoker.intake.permission import require_role
from stoker.intake.reading import DatasetRows
from stoker.intake.records.preparing import CLASSES_ARTEFACT
from stoker.intake.review_request import review_digest
from stoker.keys.backend import KeyBackend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef
from stoker.ledger.ledger import Ledger
from stoker.ledger.permissions import Deed, roles_for
from stoker.ledger.records import AuditEntry, DatasetRecord, ReviewRecord
from stoker.spec.job import CommitRef
from stoker.spec.model import ModelSpec
from stoker.spec.run import RunSpec
from stoker.store.objects import ObjectStore
from stoker.store.superblock import SampleSchema
from stoker.train.checkpoint_errors import CheckpointUnfit
from stoker.train.exchange.card import Card
from stoker.train.exchange.contents import WrittenFile
from stoker.train.exchange.errors import FormUnknown
from stoker.train.exchange.hugging_face import form_of

if TYPE_CHECKING:
    from stoker.train.exchange.model_folder import Whole
    from stoker.train.run_objects import RunObjects

EXPORT_BEGIN_ACT: Final = "run.export.begin"
EXPORT_ACT: Final = "run.export"
PLAINTEXT: Final = "plaintext: whoever reads these files has the model, and what it learnt of the data"


class ExportForm(enum.StrEnum):
    """Whose names and files are written."""

    HUGGINGFACE = "huggingface"
    """What `transformers` loads; decoders have such a form."""

    STOKER = "stoker"
    """Our own, which every family has."""


class WeightType(enum.StrEnum):
    """What the weights are written as; they are sealed as fp32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True, slots=True)
class ModelExport:
    """What left the house. `digest` is SHA-256 over the files, as in the log and in export.json.

    `released_by` is who released a model that is not to be released; None when it was free to go.
    """

    kind: ClassVar[str] = "model-export"
    version: ClassVar[int] = 1

    run: str
    name: str
    step: int
    sequence: int
    checkpoint_digest: str
    folder: str
    form: str
    dtype: str
    parameters: int
    datasets: tuple[str, ...]
    reviews: tuple[str, ...]
    exposures: tuple[str, ...]
    released_by: str | None
    files: tuple[WrittenFile, ...]
    bytes: int
    digest: str
    warning: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class _House:
    ledger: Ledger
    backend: KeyBackend
    store: ObjectStore
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that was judged before a key was asked for."""

    standing: Standing
    spec: RunSpec
    leave: tuple[tuple[DatasetRecord, ReviewRecord], ...]
    release: AuditEntry | None
    form: str
    hugging_face: bool
    dtype: WeightType
    target: Path
    actor: str


def export_model(
    standing: Standing,
    target: Path,
    *,
    form: ExportForm = ExportForm.HUGGINGFACE,
    dtype: WeightType = WeightType.FLOAT32,
    home: Home,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    clock: Clock,
    progress: Progress = SILENT,
    go_on: Callable[[], None] = lambda: None,
    dry_run: bool = False,
) -> ModelExport:
    """Write the newest checkpoint of a run into the new folder `target`, mode 0700.

    A researcher or admin may, while a review of each dataset is in force for the run's purpose, when the
    model is free to go or somebody else released it. `go_on` is called before every tensor and raises to end
    it. Nothing is left of an export that did not end, unless the process was killed; the next export to the
    same place removes that. Raises NotAllowed, ReleaseRefused, FormUnknown, UnusableTarget, DatasetGone, Busy
    while the run goes on, DiskFull, intake's refusals, and what opening the checkpoint raises.
    """
    house = _House(ledger, backend, store, clock)
    require_role(ledger, actor, roles_for(Deed.RUN_EXPORT), "export a model")
    record = standing.record
    with exclusive(supervisor_lock(home, record.id), f"run {record.id}"):
        spec = from_plain(RunSpec, dict(record.spec), f"the ledger's record of run {record.id}")
        plan = _Plan(
            standing,
            spec,
            _leave(house, standing, spec),
            require_releasable(standing, actor, ledger),
            _form(spec, form),
            form is ExportForm.HUGGINGFACE,
            dtype,
            free_target(target, (home.root,)),
            actor,
        )
        if dry_run:
            return _report(plan, 0, (), "", dry_run=True)
        return _export(house, plan, progress, go_on)


def _form(spec: RunSpec, form: ExportForm) -> str:
    """The name of the form. Raises FormUnknown when the model has none there."""
    if form is ExportForm.STOKER:
        return form.value
    if not isinstance(spec.trained, ModelSpec):
        raise FormUnknown(
            "Hugging Face's form is for decoders; the run trained a model of another family.",
            hint="Add --format stoker.",
        )
    return form_of(spec.trained)


def _leave(
    house: _House, standing: Standing, spec: RunSpec
) -> tuple[tuple[DatasetRecord, ReviewRecord], ...]:
    """Every dataset of the run with the review that allows its use now."""
    catalogue = house.ledger.catalogue
    datasets = [catalogue.dataset_of_root(root) for root in catalogue.roots_of_run(standing.record)]
    return require_leave(house.ledger, datasets, spec.purpose, house.clock, run=spec.name)


def _export(house: _House, plan: _Plan, progress: Progress, go_on: Callable[[], None]) -> ModelExport:
    from stoker.train.exchange.model_folder import write_model

    detail = _detail(plan)
    subject = plan.standing.subject
    with house.ledger.act(actor=plan.actor, action=EXPORT_BEGIN_ACT, subject=subject, detail=detail):
        pass
    with naming_full_disk(plan.target), draft_folder(plan.target) as draft:
        with _whole(house, plan) as (whole, parameters):
            written, digest = write_model(draft, whole, progress=progress, go_on=go_on)
        _leave(house, plan.standing, plan.spec)  # a review that was taken back meanwhile ends it
        require_releasable(plan.standing, plan.actor, house.ledger)
        report = _report(plan, parameters, written, digest, dry_run=False)
        go_on()
        publish(draft, plan.target)
    try:
        detail |= {"files": len(written), "bytes": report.bytes, "digest": digest}
        with house.ledger.act(actor=plan.actor, action=EXPORT_ACT, subject=subject, detail=detail):
            pass
    except BaseException:
        shutil.rmtree(plan.target, ignore_errors=True)  # no export without its entry
        raise
    return report


def _detail(plan: _Plan) -> dict[str, JsonValue]:
    return {
        **plan.standing.bound(),
        "form": plan.form,
        "dtype": plan.dtype.value,
        "folder": str(plan.target).encode("utf-8", "backslashreplace").decode(),
        "plaintext": True,
        "datasets": [dataset.root for dataset, _ in plan.leave],
        "reviews": [review.id for _, review in plan.leave],
        "exposures": {figure.dataset: figure.bits for figure in plan.standing.report.exposures},
        "release": None if plan.release is None else plan.release.index,
    }


@contextmanager
def _whole(house: _House, plan: _Plan) -> Iterator[tuple[Whole, int]]:
    """Everything that is to be written, with the checkpoint open, and the number of parameters."""
    from stoker.train.commit_store import read_commit
    from stoker.train.exchange.model_folder import Dtype, Whole
    from stoker.train.exchange.sources import SealedSource

    checkpoint = plan.standing.checkpoint
    with _objects(house, plan) as objects:
        commit = read_commit(objects, CommitRef(checkpoint.sequence, checkpoint.step, checkpoint.digest))
        vocabulary = _vocabulary(commit.extra.get("shape"), plan.spec, objects.record_key(commit.sequence))
        trained, rows = plan.spec.trained, _first_rows(house, plan)
        told = plan.standing.report.parameters or 0
        parameters = trained.parameters(vocabulary) if isinstance(trained, ModelSpec) else told
        classes = rows.artefact(CLASSES_ARTEFACT)
        whole = Whole(
            trained=trained,
            vocabulary=vocabulary,
            sequence_tokens=rows.schema.sample_tokens - 1 if isinstance(rows.schema, SampleSchema) else 0,
            dtype=Dtype(plan.dtype.value),
            source=SealedSource(objects, commit),
            card=_card(house, plan, vocabulary, parameters),
            tokenizer_json=rows.tokenizer_json(),
            classes=() if classes is None else tuple(json.loads(classes)),
            hugging_face=plan.hugging_face,
        )
        yield whole, parameters


def _objects(house: _House, plan: _Plan) -> RunObjects:
    from stoker.train.run_objects import RunObjects

    record = plan.standing.record
    return RunObjects(
        house.store,
        BackendKeySource(house.backend),
        run=record.id,
        kek=KekRef.parse(record.kek),
        review_digest=review_digest(house.ledger.catalogue.review(record.review)),
    )


def _vocabulary(shape: Any, spec: RunSpec, place: str) -> int:
    """How many tokens the model has, from the checkpoint, which must be of the run's model."""
    from stoker.train.families import Sizes, shape_of

    vocabulary = shape.get("vocabulary") if isinstance(shape, Mapping) else None
    if not isinstance(vocabulary, int) or shape != shape_of(spec.trained, Sizes(vocabulary)):
        raise CheckpointUnfit(
            f"{place} is of another model than the run's.", hint="The ledger's record of the run was changed."
        )
    return vocabulary


def _first_rows(house: _House, plan: _Plan) -> DatasetRows:
    """The run's first dataset, for what lies beside its rows."""
    dataset = plan.leave[0][0]
    return DatasetRows.open(dataset, ledger=house.ledger, backend=house.backend, store=house.store)


def _card(house: _House, plan: _Plan, vocabulary: int, parameters: int) -> Card:
    release = plan.release
    return card_of(
        plan.standing,
        plan.leave,
        form=plan.form,
        dtype=plan.dtype.value,
        parameters=parameters,
        vocabulary=vocabulary,
        released="" if release is None else str(release.detail.get("reason", "")),
        ledger=house.ledger,
        exported_s=house.clock.now_s(),
    )


def _report(
    plan: _Plan, parameters: int, written: Sequence[WrittenFile], digest: str, *, dry_run: bool
) -> ModelExport:
    standing = plan.standing
    return ModelExport(
        run=standing.record.id,
        name=standing.record.name,
        step=standing.checkpoint.step,
        sequence=standing.checkpoint.sequence,
        checkpoint_digest=standing.checkpoint.digest,
        folder=str(plan.target),
        form=plan.form,
        dtype=plan.dtype.value,
        parameters=parameters,
        datasets=tuple(dataset.name for dataset, _ in plan.leave),
        reviews=tuple(review.id for _, review in plan.leave),
        exposures=tuple(
            f"{dataset.name}: {exposure_sentence(standing, dataset.name)}" for dataset, _ in plan.leave
        ),
        released_by=None if plan.release is None else plan.release.actor,
        files=tuple(written),
        bytes=sum(each.bytes for each in written),
        digest=digest,
        warning=PLAINTEXT,
        dry_run=dry_run,
    )
