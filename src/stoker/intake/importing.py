"""Import: a folder or a store's prefix becomes a sealed source version in quarantine.

See docs/design/intake.md, "Import".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from stoker.core.atomic import exclusive
from stoker.core.clock import Clock
from stoker.core.errors import ConfigError
from stoker.core.ids import VersionId, check_name, new_version_id
from stoker.core.progress import Progress
from stoker.intake.errors import EmptySource
from stoker.intake.left_out import LeftOut, LeftOutTally
from stoker.intake.leftovers import discard, sweep
from stoker.intake.source_index import INDEX_SCHEMA, SourceFile, encode_index
from stoker.intake.sources.files import CANARY_NAME, SourceFiles
from stoker.intake.sources.form import Intake
from stoker.intake.sources.forms import CONTAINER_ENDINGS, FORMS, choose_form
from stoker.intake.sources.judge import Judge
from stoker.intake.sources.parquet_keys import check_apart
from stoker.intake.sources.remote import is_url, open_remote
from stoker.intake.walk import open_folder
from stoker.keys.backend import KeyBackend
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import SourceRecord
from stoker.spec.source import Form, ImportSpec
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.manifest import ManifestWriter, shard_key
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal
from stoker.store.shards import shard_entry
from stoker.store.superblock import Artefact, Split, Superblock

SHARD_BYTES: Final = 8 * 1024 * 1024
"""A source shard is closed before it would grow past this; a larger file has a shard of its own."""

SOURCE_SCHEMA: Final = 1
"""The schema version in the header of a source shard: files' bytes, one after the other."""

NO_REVIEW: Final = bytes(32)
FILES_SPLIT: Final = "files"
INDEX_ARTEFACT: Final = "index"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took and what it left out, with examples for the person who imports.

    `decided` says in sentences what the settings left open; `remarks` counts what was taken all the same.
    """

    kind: ClassVar[str] = "import"
    version: ClassVar[int] = 1

    record: SourceRecord
    left_out: tuple[LeftOut, ...]
    shards: int
    object_bytes: int
    unfinished_removed: int
    form: Form = Form.FOLDER
    decided: tuple[str, ...] = ()
    remarks: tuple[LeftOut, ...] = ()


def source_prefix(name: str, version: str) -> str:
    """Where the objects of a source version lie in the store."""
    return f"sources/{name}/{version}"


def import_source(
    name: str,
    place: Path | str,
    spec: ImportSpec,
    *,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    progress: Progress,
    clock: Clock,
    locks: Path,
) -> ImportReport:
    """Seal what is in `place`, a folder, a single file or a URL, as a new version of source `name`.

    No byte reaches the store unsealed, and nothing is a version until the ledger has it. Raises BadName,
    ConfigError, Busy, UnusableFolder, EmptySource, UnreadableFile, LinkLeavesSource, SourceChanged,
    SourceUnreachable, MissingExtra, DiskFull, and where the settings refuse what is broken BrokenSource,
    SourceTooMuch, MissingColumn, BadMedia, LabelMismatch, DuplicateName; whatever was written by then has
    been removed.
    """
    check_name(name, "source")
    if wrong := tuple(spec.problems()):
        raise ConfigError("The import settings do not hold: " + " ".join(wrong), hint="Mend what is named.")
    with exclusive(locks / f"source-{name}.lock", f"source {name}"):
        version = new_version_id()
        with ledger.act(
            actor=actor, action="source.import.begin", subject=f"source/{name}", detail={"version": version}
        ):
            pass
        recorded = {record.version for record in ledger.catalogue.sources(name)}
        removed = sweep(f"sources/{name}", f"source/{name}", recorded, store=store, backend=backend)
        judge = Judge(spec, LeftOutTally(), LeftOutTally())
        with open_files(place, judge) as files:
            job = _Import(name, version, actor, ledger, backend, store, clock)
            return job.run(files, _root_of(place), judge, progress, removed)


@contextmanager
def open_files(place: Path | str, judge: Judge) -> Iterator[SourceFiles]:
    """The files of a folder, a single file or a URL. Raises UnusableFolder, SourceUnreachable."""
    if isinstance(place, str) and is_url(place):
        with open_remote(place, judge.spec, judge.left_out) as remote:
            yield remote
        return
    folder, only = Path(place), None
    if folder.name.lower().endswith(CONTAINER_ENDINGS) and folder.is_file():
        folder, only = folder.parent, folder.name
    with open_folder(folder, judge.spec, judge.left_out, only) as walk:
        yield walk


def _root_of(place: Path | str) -> Path | None:
    """The local folder or file that is imported; None for a store."""
    return None if isinstance(place, str) and is_url(place) else Path(place)


class _Import:
    """One import under way, under the name's lock."""

    def __init__(
        self,
        name: str,
        version: VersionId,
        actor: str,
        ledger: Ledger,
        backend: KeyBackend,
        store: ObjectStore,
        clock: Clock,
    ) -> None:
        self._name = name
        self._version = version
        self._actor = actor
        self._ledger = ledger
        self._backend = backend
        self._store = store
        self._clock = clock
        self._prefix = source_prefix(name, version)

    def run(
        self, files: SourceFiles, root: Path | None, judge: Judge, progress: Progress, removed: int
    ) -> ImportReport:
        kek: KekRef | None = None
        try:
            kek = self._backend.create_kek(
                f"source/{self._name}/{self._version}", Purpose.SOURCE, expires_s=None
            )
            with PartitionSeal(BackendKeySource(self._backend), kek, Purpose.SOURCE) as seal:
                writer = _SourceWriter(seal, self._store, self._prefix, f"source/{self._name}", self._version)
                form, said = self._take(files, root, judge, writer, progress)
                if not writer.files:
                    raise _empty(files.place, judge)
                taken = len(writer.files)
                content_bytes = sum(file.size_bytes for file in writer.files)
                canary = self._backend.canary(f"source/{self._name}/{self._version}")
                writer.add(CANARY_NAME, canary.encode() + b"\n")
                manifest_root = writer.finish(kek, self._backend)
            record = SourceRecord(
                name=self._name,
                version=self._version,
                manifest_root=manifest_root,
                kek=str(kek),
                files=taken,
                content_bytes=content_bytes,
                left_out=judge.left_out.counts(),
                imported_by=self._actor,
                imported_s=self._clock.now_s(),
            )
            self._record(record, form)
        except BaseException:
            if self._version not in {known.version for known in self._ledger.catalogue.sources(self._name)}:
                discard(self._prefix, kek, store=self._store, backend=self._backend)
            raise
        return ImportReport(
            record,
            judge.left_out.summary(),
            writer.shards,
            writer.object_bytes,
            removed,
            form,
            tuple(said),
            judge.remarks.summary(),
        )

    def _take(
        self,
        files: SourceFiles,
        root: Path | None,
        judge: Judge,
        writer: _SourceWriter,
        progress: Progress,
    ) -> tuple[Form, list[str]]:
        """Seal every item of the source; its form, and what was decided."""
        check_apart(judge.spec.parquet_key_file, root)
        candidates = files.candidates()
        form, why = choose_form(judge.spec, candidates)
        total = sum(candidate.size_bytes for candidate in candidates)
        with progress.task(f"import {self._name}", total, "bytes") as task:
            intake = Intake(files, candidates, judge, task.advance, root)
            intake.say(f"Form {form}: {why}.")
            with closing(FORMS[form](intake)) as items:
                for item in items:
                    writer.add(item.path, item.data)
        return form, intake.said

    def _record(self, record: SourceRecord, form: Form) -> None:
        with self._ledger.act(
            actor=self._actor,
            action="source.import",
            subject=f"source/{self._name}",
            detail={
                "version": record.version,
                "manifest_root": record.manifest_root,
                "kek": record.kek,
                "files": record.files,
                "content_bytes": record.content_bytes,
                "left_out": dict(record.left_out),
                "form": form.value,
            },
        ) as catalogue:
            catalogue.add_source(record)


class _SourceWriter:
    """Packs files into sealed shards and remembers where each lies."""

    def __init__(
        self, seal: PartitionSeal, store: ObjectStore, prefix: str, subject: str, version: VersionId
    ) -> None:
        self.files: list[SourceFile] = []
        self.object_bytes = 0
        self._seal = seal
        self._store = store
        self._prefix = prefix
        self._subject = subject
        self._version = version
        self._manifest = ManifestWriter()
        self._buffer = bytearray()
        self._buffered_files = 0

    @property
    def shards(self) -> int:
        return self._manifest.shards

    def add(self, path: str, data: bytes) -> None:
        """One more file."""
        if self._buffer and len(self._buffer) + len(data) > SHARD_BYTES:
            self._flush()
        digest = hashlib.sha256(data).digest()
        self.files.append(SourceFile(path, len(data), digest, self.shards, len(self._buffer)))
        self._buffer += data
        self._buffered_files += 1

    def finish(self, kek: KekRef, backend: KeyBackend) -> str:
        """Write the last shard, the index and the manifest; the manifest's root."""
        self._flush()
        files_shards, index = self.shards, self.shards
        self._put(StreamKind.INDEX, INDEX_SCHEMA, encode_index(self.files), samples=0)
        superblock = Superblock(
            subject=self._subject,
            version=self._version,
            kek=str(kek),
            review_digest=NO_REVIEW,
            chunk_log2=20,
            splits=(Split(FILES_SPLIT, 0, files_shards, len(self.files)),),
            artefacts=(Artefact(INDEX_ARTEFACT, index),),
        )
        return self._manifest.finish(superblock, backend.signer("manifest"), self._store, self._prefix)

    def _flush(self) -> None:
        self._put(StreamKind.SOURCE, SOURCE_SCHEMA, self._buffer, samples=self._buffered_files)
        self._buffer[:] = bytes(len(self._buffer))
        self._buffer = bytearray()
        self._buffered_files = 0

    def _put(self, kind: StreamKind, schema: int, plaintext: bytes | bytearray, *, samples: int) -> None:
        shard = self.shards
        label = StreamLabel(kind, self._subject, self._version, shard, schema, NO_REVIEW)
        sealed = self._seal.seal(label, plaintext)
        self._store.create(shard_key(self._prefix, shard), sealed.data)
        self._manifest.add(shard_entry(sealed, samples))
        self.object_bytes += sealed.facts.object_bytes


def _empty(place: str, judge: Judge) -> EmptySource:
    counts = ", ".join(f"{count} {reason}" for reason, count in judge.left_out.counts().items())
    return EmptySource(
        f"Nothing in {place} was taken: {counts or 'it holds no file'}.",
        hint="Check the folder, and the include and exclude patterns and the form of the import settings.",
    )
