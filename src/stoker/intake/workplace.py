"""Where the tasks of a preparation work: its plan, the open source, and the sealed intermediates.

An intermediate is one sealed object, `work/PHASE/TASK.stk`: the length of its facts in 4 bytes, the facts as
canonical JSON, then its body. That it is there is all that says its task is done.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from stoker.core.canonical import JsonValue, canonical_json
from stoker.intake.dataset_writer import DatasetPlace
from stoker.intake.plan import START_ANEW, WORK_SCHEMA, PreparationPlan, read_plan, work_prefix
from stoker.intake.source_reader import SourceReader
from stoker.intake.task_errors import BrokenPlan
from stoker.keys.partition import KeySource
from stoker.keys.refs import Purpose
from stoker.keys.secret import SecretKey
from stoker.store.errors import ObjectDiffers
from stoker.store.header import StreamKind, StreamLabel
from stoker.store.objects import ObjectStore, StoredObject
from stoker.store.opened import OpenedKeys
from stoker.store.ranges import BytesLike
from stoker.store.reader import StreamReader
from stoker.store.repeatable import RepeatableSeal, create_same

MAX_FACTS_BYTES: Final = 1 << 28
_LENGTH: Final = struct.Struct(">I")
_CHUNK_LOG2: Final = 18
_PHASE_SHIFT: Final = 40
"""Intermediates of phase i are numbered from (i + 1) * 2^40, so that no two labels of a version are equal."""


@dataclass(frozen=True, slots=True)
class Intermediate:
    """An open intermediate: its facts, and its body read where it is needed."""

    facts: Mapping[str, JsonValue]
    body_bytes: int
    _reader: StreamReader
    _start: int

    def read(self, start: int, length: int) -> bytearray:
        """`length` bytes of the body from `start`. Raises OutOfRange and CorruptStream, naming the object."""
        return self._reader.read(self._start + start, length)

    def read_all(self) -> bytearray:
        """The whole body."""
        return self.read(0, self.body_bytes)


class Workplace:
    """One preparation as a process sees it that may open its keys. Close it to wipe them."""

    def __init__(self, plan: PreparationPlan, store: ObjectStore, keys: KeySource, public_key: bytes) -> None:
        """`public_key` is the one that manifests of this house are signed with."""
        self.plan = plan
        self.store = store
        self._keys = OpenedKeys(keys)
        self._public_key = public_key
        self._reader: SourceReader | None = None
        self._seals: dict[str, RepeatableSeal] = {}

    @classmethod
    def open(cls, place: DatasetPlace, store: ObjectStore, keys: KeySource, public_key: bytes) -> Workplace:
        """The workplace of the preparation at `place`. Raises what `read_plan` raises."""
        return cls(read_plan(place, store, keys), store, keys, public_key)

    @property
    def source(self) -> SourceReader:
        """The source, opened and verified at first use."""
        if self._reader is None:
            self._reader = SourceReader.open(self.plan.source, self.store, self._keys, self._public_key)
        return self._reader

    @property
    def shard_seal(self) -> RepeatableSeal:
        """Seals the dataset's shards and artefacts by number."""
        return self._seal("", self.plan.shard_keys, 0)

    def put(
        self,
        phase: str,
        task: int,
        facts: Mapping[str, JsonValue],
        body: BytesLike = b"",
        *,
        first_stands: bool = False,
    ) -> None:
        """Seal and store a task's intermediate; finds it when the same was stored before.

        `first_stands`: a task whose result hangs on time or memory keeps what was stored first. Otherwise
        raises ObjectDiffers; also DiskFull, and what the key source raises.
        """
        encoded = canonical_json(facts)
        label = self._label(phase, task)
        first = self._label(phase, 0).shard
        seal = self._seal(phase, self.plan.work_keys[self.plan.phases.index(phase)], first)
        content = b"".join((_LENGTH.pack(len(encoded)), encoded, body))
        sealed = seal.seal(label, content, chunk_log2=_CHUNK_LOG2)
        try:
            create_same(self.store, self.key(phase, task), sealed.data)
        except ObjectDiffers:
            if not first_stands:
                raise
            self.get(phase, task)  # what stands there must be a result of this very task

    def get(self, phase: str, task: int) -> Intermediate:
        """A task's intermediate. Raises ObjectMissing, BrokenPlan and what opening a sealed stream raises."""
        key = self.key(phase, task)
        reader = StreamReader.open(
            StoredObject(self.store, key),
            self._keys,
            self._label(phase, task),
            kek=self.plan.place.kek,
            place=key,
        )
        try:
            (length,) = _LENGTH.unpack(reader.read(0, _LENGTH.size)) if reader.plaintext_bytes >= 4 else (-1,)
            start = _LENGTH.size + length
            if not 0 <= length <= min(MAX_FACTS_BYTES, reader.plaintext_bytes - _LENGTH.size):
                raise ValueError("no room for the facts")
            facts = json.loads(reader.read(_LENGTH.size, length))
            if not isinstance(facts, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise BrokenPlan(f"{key} is no intermediate of a preparation.", hint=START_ANEW) from error
        return Intermediate(facts, reader.plaintext_bytes - start, reader, start)

    def done(self, phase: str) -> frozenset[int]:
        """The tasks of a phase whose intermediates are stored."""
        keys = self.store.list(self._folder(phase))
        names = (key.rpartition("/")[2].removesuffix(".stk") for key in keys)
        return frozenset(int(name) for name in names if name.isdecimal())

    def is_done(self, phase: str, task: int) -> bool:
        """Whether a task's intermediate is stored."""
        return self.store.exists(self.key(phase, task))

    def key(self, phase: str, task: int) -> str:
        """The object name of a task's intermediate."""
        return f"{self._folder(phase)}/{task:08d}.stk"

    def _folder(self, phase: str) -> str:
        return f"{work_prefix(self.plan.place.prefix)}/{phase}"

    def _label(self, phase: str, task: int) -> StreamLabel:
        number = (self.plan.phases.index(phase) + 1 << _PHASE_SHIFT) + task
        return self.plan.place.label(StreamKind.WORK, number, WORK_SCHEMA)

    def pseudonym_key(self) -> SecretKey | None:
        """The key that pseudonyms are made under, where the recipe makes any. The caller wipes it."""
        if not self.plan.pseudonym_key:
            return None
        wrapped = bytes.fromhex(self.plan.pseudonym_key)
        return self._keys.open_partition_key(self.plan.place.kek, wrapped, Purpose.DATASET)

    def _seal(self, name: str, wrapped: tuple[str, ...], first: int) -> RepeatableSeal:
        if name not in self._seals:
            keys = tuple(bytes.fromhex(each) for each in wrapped)
            self._seals[name] = RepeatableSeal(
                self._keys, self.plan.place.kek, Purpose.DATASET, keys, first=first
            )
        return self._seals[name]

    def close(self) -> None:
        """Wipe every key that is held."""
        for seal in self._seals.values():
            seal.close()
        self._seals.clear()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._keys.close()

    def __enter__(self) -> Workplace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
