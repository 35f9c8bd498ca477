"""A dataset taken out as Parquet, in plain or encrypted, by the one person who was given leave for that.

An export is a use: it takes a review of its own, decided by somebody else, and two entries in the audit log,
one before the first byte and one after the last. See docs/design/intake.md, "Export".
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from stoker.core.atomic import naming_full_disk, write_atomic
from stoker.core.canonical import JsonValue, digest_of
from stoker.core.clock import Clock
from stoker.core.errors import ConfigError
from stoker.core.progress import SILENT, Progress, Task
from stoker.core.result import plain
from stoker.intake.export_folder import draft_folder, free_target, publish
from stoker.intake.export_parquet import ParquetFile, require_pyarrow
from stoker.intake.life import EXPORT_ACT, EXPORT_BEGIN_ACT
from stoker.intake.permission import MAY_EXPORT, require_export, require_role, require_usable
from stoker.intake.reading import DatasetRows
from stoker.intake.sampling import require_tokenizers
from stoker.intake.sources.parquet_keys import read_parquet_keys
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.backend import KeyBackend
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord
from stoker.store.objects import ObjectStore
from stoker.store.record_schema import FieldKind
from stoker.store.superblock import Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EXPORT_FORMAT: Final = "stoker export 1"
MANIFEST_NAME: Final = "export.json"
FILE_BYTES: Final = 256 << 20
"""Plain bytes of rows after which a file ends and the next begins."""


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One Parquet file of an export, by its name in the folder; `sha256` is of the file as written."""

    name: str
    split: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was exported where. `digest` is SHA-256 over the canonical JSON of the files, as in the log."""

    kind: ClassVar[str] = "dataset-export"
    version: ClassVar[int] = 1

    name: str
    dataset_version: str
    root: str
    review: str
    folder: str
    encrypted: bool
    splits: Mapping[str, int]
    samples: int
    files: tuple[ExportedFile, ...]
    digest: str
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What is to be exported, and how. Empty `splits` are all of them; `key` makes the files encrypted."""

    target: Path
    splits: tuple[str, ...] = ()
    text: bool = False
    key: bytes | None = None


def read_key_file(path: Path) -> bytes:
    """The `footer_key` in a key file, the same that `stoker import` takes: docs/design/intake.md, "Parquet".

    Raises ConfigError when it holds none, LooseKeyFile when it is open to others.
    """
    with read_parquet_keys(str(path), None) as keys:
        if keys.footer_key is None:
            raise ConfigError(
                f"The key file {path} holds no footer_key.",
                hint='Write TOML: footer_key = "32 bytes in hexadecimal digits".',
            )
        return keys.footer_key


def export_dataset(
    record: DatasetRecord,
    plan: ExportPlan,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    clock: Clock,
    forbidden: Sequence[Path] = (),
    progress: Progress = SILENT,
    go_on: Callable[[], None] = lambda: None,
    dry_run: bool = False,
) -> ExportReport:
    """Write the dataset's splits as Parquet files into the new folder `plan.target`, mode 0700.

    A researcher or admin may, with a review for the purpose `export` that they asked for and somebody else
    approved. `forbidden` are folders that the target may not lie in; `go_on` is called after every block and
    before the folder gets its name, and raises to end the export. Nothing is left of an export that did
    not end, unless the process was killed; the next export to the same place then removes it. Raises
    NotAllowed, DatasetEnded, NoSuchSplit, UnusableTarget, MissingExtra, DiskFull, intake's refusals, and what
    opening raises.
    """
    require_pyarrow(encrypted=plan.key is not None)
    require_role(ledger, actor, MAY_EXPORT, "export a dataset")
    require_usable(record, clock)
    review = require_export(ledger, record, actor, clock)
    target = free_target(plan.target, forbidden)
    rows = DatasetRows.open(record, ledger=ledger, backend=backend, store=store)
    splits = [rows.split(name) for name in dict.fromkeys(plan.splits)] or list(rows.superblock.splits)
    counts = {split.name: split.samples for split in splits}
    about: dict[str, str] = {
        "dataset": record.name,
        "version": record.version,
        "root": record.root,
        "review": review.id,
        "exported_by": actor,
    }

    def report(files: tuple[ExportedFile, ...]) -> ExportReport:
        return ExportReport(
            record.name,
            record.version,
            record.root,
            review.id,
            str(target),
            plan.key is not None,
            counts,
            sum(counts.values()),
            files,
            digest_of(plain(files)),
            dry_run,
        )

    if dry_run:
        return report(())
    detail: dict[str, JsonValue] = {
        "version": record.version,
        "root": record.root,
        "review": review.id,
        "folder": str(target).encode("utf-8", "backslashreplace").decode(),
        "encrypted": plan.key is not None,
        "splits": dict(counts),
    }
    subject = f"dataset/{record.name}"
    with ledger.act(actor=actor, action=EXPORT_BEGIN_ACT, subject=subject, detail=detail):
        pass
    with naming_full_disk(target), draft_folder(target) as draft:
        tokenizer = _tokenizer(rows) if plan.text else None
        files = tuple(_write_splits(rows, splits, draft, plan, tokenizer, about, progress, go_on))
        require_export(ledger, record, actor, clock)  # a leave that was taken back meanwhile ends it
        require_usable(ledger.catalogue.dataset_of_root(record.root), clock)
        done = report(files)
        _write_manifest(draft, done, about, clock)
        go_on()
        publish(draft, target)
    try:
        detail |= {"samples": done.samples, "files": len(files), "digest": done.digest}
        with ledger.act(actor=actor, action=EXPORT_ACT, subject=subject, detail=detail):
            pass
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # no export without its entry
        raise
    return done


def _write_splits(
    rows: DatasetRows,
    splits: Sequence[Split],
    draft: Path,
    plan: ExportPlan,
    tokenizer: Tokenizer | None,
    about: Mapping[str, str],
    progress: Progress,
    go_on: Callable[[], None],
) -> Iterator[ExportedFile]:
    total = float(sum(split.samples for split in splits))
    with progress.task("export", total, "samples") as task:
        for split in splits:
            yield from _write_split(rows, split, draft, plan, tokenizer, about, task, go_on)


def _write_split(
    rows: DatasetRows,
    split: Split,
    draft: Path,
    plan: ExportPlan,
    tokenizer: Tokenizer | None,
    about: Mapping[str, str],
    task: Task,
    go_on: Callable[[], None],
) -> Iterator[ExportedFile]:
    """The split's files, one after the other; a split without samples is one file without rows."""
    blocks = rows.blocks(split)
    number, ended = 0, False
    while not ended:
        path = draft / f"{split.name}-{number:05d}.parquet"
        taken = 0
        file_about = {**about, "split": split.name}
        with ParquetFile(path, rows.fields, tokenizer=tokenizer, key=plan.key, about=file_about) as file:
            while taken < FILE_BYTES:
                block = next(blocks, None)
                if block is None:
                    ended = True
                    break
                try:
                    file.add(block)
                    taken += block.nbytes
                finally:
                    block.wipe()
                task.advance(block.count)
                go_on()
        if file.rows == 0 and number > 0:
            path.unlink()
            return
        yield _described(path, split.name, file.rows)
        number += 1


def _described(path: Path, split: str, samples: int) -> ExportedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportedFile(path.name, split, samples, path.stat().st_size, digest)


def _tokenizer(rows: DatasetRows) -> Tokenizer | None:
    has_tokens = any(field.kind is FieldKind.TOKENS for field in rows.fields)
    tokenizer_json = rows.tokenizer_json() if has_tokens else None
    if tokenizer_json is None:
        return None
    require_tokenizers("To export text beside tokens")
    return load_tokenizer(tokenizer_json)


def _write_manifest(draft: Path, report: ExportReport, about: Mapping[str, str], clock: Clock) -> None:
    body: dict[str, JsonValue] = {
        "format": EXPORT_FORMAT,
        **about,
        "exported_s": clock.now_s(),
        "encrypted": report.encrypted,
        "files": plain(report.files),
        "digest": report.digest,
    }
    write_atomic(draft / MANIFEST_NAME, json.dumps(body, indent=1).encode() + b"\n")
