"""Building a dataset's bytes: tokenizer, tokens, samples, shards. See docs/design/intake.md, "Prepare".

The parent opens the source and seals the shards; workers see documents and tokens, and no key passes to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from stoker.core.canonical import JsonValue
from stoker.core.clock import Clock
from stoker.core.progress import Progress, Task
from stoker.core.signing import Signer
from stoker.intake.dataset_writer import DatasetPlace, DatasetWriter
from stoker.intake.errors import BrokenRecord, TooLittleText
from stoker.intake.packing import Packer, Tokens, split_files, tokenizer_sample
from stoker.intake.source_index import SourceFile
from stoker.intake.source_reader import SourceReader
from stoker.intake.tokenising import (
    TASK_BYTES,
    Encoded,
    EncodingSettings,
    TrainingSettings,
    start_encoding,
    start_training,
)
from stoker.intake.tokenizer import vocabulary_size
from stoker.intake.workers import Workers, batches
from stoker.spec.recipe import Kind, RecipeSpec
from stoker.store.objects import ObjectStore
from stoker.store.sealed import PartitionSeal
from stoker.store.superblock import SampleSchema

TRAIN_SPLIT: Final = "train"
HELDOUT_SPLIT: Final = "heldout"
TOKENIZER_ARTEFACT: Final = "tokenizer"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The manifest root, what is in the dataset, and what the time went on."""

    root: str
    figures: Mapping[str, JsonValue]
    seconds: Mapping[str, float]


class _SplitTally:
    """What went into one split."""

    def __init__(self) -> None:
        self.documents = 0
        self.source_bytes = 0
        self.text_bytes = 0

    def add(self, encoded: Encoded) -> None:
        self.documents += encoded.documents
        self.source_bytes += encoded.source_bytes
        self.text_bytes += encoded.text_bytes

    def figures(self, files: int, packer: Packer, samples: int) -> dict[str, JsonValue]:
        return {
            "files": files,
            "documents": self.documents,
            "source_bytes": self.source_bytes,
            "text_bytes": self.text_bytes,
            "tokens": packer.tokens,
            "samples": samples,
            "dropped_tokens": packer.dropped_tokens,
            "padding_tokens": packer.padding_tokens,
        }


class Build:
    """One building of a dataset from an open source."""

    def __init__(
        self,
        place: DatasetPlace,
        recipe: RecipeSpec,
        reader: SourceReader,
        seal: PartitionSeal,
        store: ObjectStore,
        clock: Clock,
    ) -> None:
        self._recipe = recipe
        self._reader = reader
        self._clock = clock
        self._name = place.name
        self._kinds = frozenset(recipe.policy.redact)
        self._dtype = np.dtype(f"<u{recipe.token_bytes}")
        self._redactions: dict[Kind, int] = {}
        self._schema = SampleSchema.fit(
            vocabulary=recipe.vocabulary,
            sample_tokens=recipe.sequence_tokens + 1,
            chunk_log2=recipe.chunk_log2,
            samples_per_shard=recipe.samples_per_shard,
        )
        self._writer = DatasetWriter(place, self._schema, seal, store)

    def run(self, recipe_digest: str, signer: Signer, progress: Progress, processes: int) -> BuildResult:
        """Do all of it. Raises TooLittleText, WorkerLost, DiskFull and what reading the source raises."""
        started_s = self._clock.monotonic_s()
        train, heldout = split_files(self._reader.files, self._recipe.heldout_fraction, self._recipe.seed)
        if not heldout:
            raise TooLittleText(
                f"Source {self._reader.record.name} has too few different files for a held-out split.",
                hint="Import at least two files that differ.",
            )
        tokenizer_json = self._train_tokenizer(train, progress)
        trained_s = self._clock.monotonic_s()
        settings = EncodingSettings(self._kinds, tokenizer_json, self._recipe.token_bytes)
        total = sum(file.size_bytes for file in (*train, *heldout))
        with (
            Workers(processes, start_encoding, settings) as workers,
            progress.task(f"prepare {self._name}", total, "bytes") as task,
        ):
            figures = {
                TRAIN_SPLIT: self._write_train(train, workers, task),
                HELDOUT_SPLIT: self._write_heldout(heldout, workers, task),
            }
        self._writer.add_artefact(TOKENIZER_ARTEFACT, tokenizer_json.encode())
        root = self._writer.finish(self._reader.record.manifest_root, recipe_digest, signer)
        seconds = {
            "tokenizer": trained_s - started_s,
            "tokens_and_shards": self._clock.monotonic_s() - trained_s,
        }
        return BuildResult(root, self._figures(figures, tokenizer_json), seconds)

    def _figures(self, splits: dict[str, dict[str, JsonValue]], tokenizer_json: str) -> dict[str, JsonValue]:
        return {
            "vocabulary": vocabulary_size(tokenizer_json),
            "sequence_tokens": self._recipe.sequence_tokens,
            "token_bytes": self._recipe.token_bytes,
            "redactions": {kind.value: self._redactions.get(kind, 0) for kind in Kind},
            **splits,
        }

    def _train_tokenizer(self, train: list[SourceFile], progress: Progress) -> str:
        """In a process of its own: it can be interrupted, and its threads are gone before others start."""
        sample = tokenizer_sample(train, self._recipe.tokenizer_sample_bytes, self._recipe.seed)
        settings = TrainingSettings(self._kinds, self._recipe.vocabulary)
        with (
            Workers(1, start_training, settings) as workers,
            progress.task(f"train the tokenizer of {self._name}", None, "bytes") as task,
        ):
            documents = [bytes(self._reader.read(file)) for file in sample]
            tokenizer_json: str = next(workers.map([documents]))
            task.advance(sum(file.size_bytes for file in sample))
        return tokenizer_json

    def _write_train(
        self, files: list[SourceFile], workers: Workers[list[bytes], Encoded], task: Task
    ) -> dict[str, JsonValue]:
        """All training documents, then the source's canary, then end of text up to a whole sample."""
        packer, tally = Packer(self._recipe.sequence_tokens, self._dtype), _SplitTally()
        self._write(files, workers, task, packer.add, tally)
        canary = self._reader.canary
        if canary is None:
            raise BrokenRecord("The source holds no canary.", hint="Import the source again.")
        encoded = next(workers.map([[bytes(self._reader.read(canary))]]))
        self._writer.add(packer.finish_padded(self._tokens(encoded)))
        samples = self._end_split(TRAIN_SPLIT, packer)
        return tally.figures(len(files), packer, samples)

    def _write_heldout(
        self, files: list[SourceFile], workers: Workers[list[bytes], Encoded], task: Task
    ) -> dict[str, JsonValue]:
        """Held-out documents only: the end that fills no sample is dropped and counted."""
        packer, tally = Packer(self._recipe.sequence_tokens, self._dtype), _SplitTally()
        self._write(files, workers, task, packer.add, tally)
        packer.finish()
        samples = self._end_split(HELDOUT_SPLIT, packer)
        return tally.figures(len(files), packer, samples)

    def _write(
        self,
        files: list[SourceFile],
        workers: Workers[list[bytes], Encoded],
        task: Task,
        pack: Callable[[Tokens], Tokens],
        tally: _SplitTally,
    ) -> None:
        for encoded in workers.map(self._documents(files)):
            self._writer.add(pack(self._tokens(encoded)))
            tally.add(encoded)
            for kind, count in encoded.redactions.items():
                self._redactions[kind] = self._redactions.get(kind, 0) + count
            task.advance(encoded.source_bytes)

    def _documents(self, files: list[SourceFile]) -> Iterator[list[bytes]]:
        for batch in batches(files, lambda file: file.size_bytes, TASK_BYTES):
            yield [bytes(self._reader.read(file)) for file in batch]

    def _tokens(self, encoded: Encoded) -> Tokens:
        return np.frombuffer(encoded.tokens, dtype=self._dtype)

    def _end_split(self, name: str, packer: Packer) -> int:
        samples = self._writer.end_split(name)
        if samples == 0:
            raise TooLittleText(
                f"The {name} split has {packer.tokens} tokens; one sample takes "
                f"{self._recipe.sequence_tokens + 1}.",
                hint="Import more text, lower sequence_tokens, or raise heldout_fraction.",
            )
        return samples
