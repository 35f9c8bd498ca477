"""Text into a dataset: its phases from judging documents to packing shards, and the commit.

See docs/design/intake.md, "Prepare" and "Tasks and executors".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from stoker.core.canonical import JsonValue
from stoker.core.signing import Signer
from stoker.intake.dataset_writer import DatasetCommit
from stoker.intake.errors import TooLittleText
from stoker.intake.plan import PreparationPlan
from stoker.intake.policy.pages import (
    HOLD,
    TREAT,
    hold_phase,
    open_page,
    redactions_of,
    treat_phase,
)
from stoker.intake.quality.judge import DocumentFacts, Selection
from stoker.intake.quality_facts import decode_facts, encode_facts, reason_number
from stoker.intake.sharding import Sharding, SplitLayout, entries_of, lay_out, sample_schema
from stoker.intake.source_index import SourceFile
from stoker.intake.tasks import BuildResult, Making, Phase
from stoker.intake.text_source import SELECT, TextSource
from stoker.intake.tokenising import (
    EncodedPage,
    EncodingSettings,
    start_encoding,
    start_judging,
    start_selecting,
    start_training,
)
from stoker.intake.tokenizer import vocabulary_size
from stoker.intake.workplace import Workplace
from stoker.spec.recipe import RecipeSpec
from stoker.store.superblock import Superblock

TRAIN_SPLIT: Final = "train"
HELDOUT_SPLIT: Final = "heldout"
TOKENIZER_ARTEFACT: Final = "tokenizer"

JUDGE: Final = "judge"
TOKENIZER: Final = "tokenizer"
ENCODE: Final = "encode"
LAYOUT: Final = "layout"
PACK: Final = "pack"

SPLITS: Final = (TRAIN_SPLIT, HELDOUT_SPLIT)
_COUNTS: Final = ("documents", "source_bytes", "text_bytes")


def text_phases(recipe: RecipeSpec) -> tuple[str, ...]:
    """The phases that a recipe takes, in order."""
    judging = (JUDGE, SELECT) if recipe.quality.judges_documents else ()
    return (*judging, TREAT, HOLD, TOKENIZER, ENCODE, LAYOUT, PACK)


def tokenizer_phase(
    work: Workplace, files: Sequence[SourceFile], read: Callable[[], Sequence[bytes]]
) -> Phase:
    """The one task that trains the recipe's tokenizer on `files`, whose treated texts `read` gives."""
    plan, vocabulary = work.plan, work.plan.recipe.vocabulary

    def store(_: int, tokenizer_json: str) -> None:
        work.put(TOKENIZER, 0, {"files": len(files)}, tokenizer_json.encode())

    return Phase(
        TOKENIZER,
        f"train the tokenizer of {plan.name}",
        "bytes",
        [float(sum(file.size_bytes for file in files))],
        lambda _: read(),
        Making(start_training, lambda: vocabulary),
        store,
    )


class TextForm:
    """A text preparation at one workplace."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._plan: PreparationPlan = work.plan
        self._recipe = work.plan.recipe
        self._source = TextSource(work)

    def phase(self, name: str) -> Phase:
        """The phase of this name; those before it have been done. Raises TooLittleText."""
        makers = {
            JUDGE: self._judge,
            SELECT: self._select,
            TREAT: self._treat,
            HOLD: self._hold,
            TOKENIZER: self._tokenizer,
            ENCODE: self._encode,
            LAYOUT: self._layout,
            PACK: self._pack,
        }
        return makers[name]()

    def _pages(self) -> list[float]:
        return [float(self._source.page_bytes(page)) for page in range(self._plan.pages)]

    def _judge(self) -> Phase:
        def store(page: int, facts: list[DocumentFacts]) -> None:
            self._work.put(JUDGE, page, {"documents": len(facts)}, encode_facts(facts))

        making = Making(start_judging, lambda: self._recipe.quality)
        label = f"judge the documents of {self._plan.name}"
        return Phase(JUDGE, label, "bytes", self._pages(), self._source.all_of, making, store)

    def _select(self) -> Phase:
        def load(_: int) -> list[DocumentFacts]:
            pages = range(self._plan.pages)
            return [each for page in pages for each in decode_facts(self._work.get(JUDGE, page).read_all())]

        def store(_: int, selection: Selection) -> None:
            facts: dict[str, JsonValue] = {
                "dropped": {str(reason): count for reason, count in selection.counts.items()},
                "languages": dict(selection.languages),
            }
            self._work.put(SELECT, 0, facts, bytes(reason_number(each) for each in selection.dropped))

        making = Making(start_selecting, lambda: self._recipe.quality)
        return Phase(
            SELECT, f"compare the documents of {self._plan.name}", "steps", [1.0], load, making, store
        )

    def _treat(self) -> Phase:
        return treat_phase(self._work, self._pages(), self._source.to_treat)

    def _hold(self) -> Phase:
        return hold_phase(self._work, self._source.treatable, len(self._source.files))

    def _tokenizer(self) -> Phase:
        files = self._source.tokenizer_files()

        return tokenizer_phase(self._work, files, lambda: self._source.treated(files))

    def _tokenizer_json(self) -> str:
        return self._work.get(TOKENIZER, 0).read_all().decode()

    def _encode(self) -> Phase:
        def settings() -> EncodingSettings:
            return EncodingSettings(self._tokenizer_json(), self._recipe.token_bytes)

        def store(page: int, encoded: EncodedPage) -> None:
            train = encoded.train.tokens + encoded.canary
            facts: dict[str, JsonValue] = {}
            for name, part, tokens in (
                (TRAIN_SPLIT, encoded.train, train),
                (HELDOUT_SPLIT, encoded.heldout, encoded.heldout.tokens),
            ):
                counts = {count: getattr(part, count) for count in _COUNTS}
                facts[name] = {**counts, "tokens": len(tokens) // self._recipe.token_bytes}
            self._work.put(ENCODE, page, facts, train + encoded.heldout.tokens)

        label = f"prepare {self._plan.name}"
        making = Making(start_encoding, settings)
        return Phase(ENCODE, label, "bytes", self._pages(), self._source.kept_of, making, store)

    def _layout(self) -> Phase:
        """One task: what all pages hold, side by side, so that nobody else has to open them all."""

        def load(_: int) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
            pages = range(self._plan.pages)
            treated = redactions_of(open_page(self._work, page) for page in pages)
            return [self._work.get(ENCODE, page).facts for page in pages], treated

        def store(_: int, found: tuple[list[Mapping[str, Any]], dict[str, int]]) -> None:
            pages, treated = found
            facts: dict[str, JsonValue] = {"redactions": treated}
            for name in SPLITS:
                totals = {count: sum(page[name][count] for page in pages) for count in _COUNTS}
                facts[name] = {**totals, "tokens": [page[name]["tokens"] for page in pages]}
            for layout in self._layouts(facts):
                self._require_samples(layout)
            self._work.put(LAYOUT, 0, facts)

        return Phase(LAYOUT, f"lay out {self._plan.name}", "steps", [1.0], load, None, store, here=True)

    def _layouts(self, facts: Mapping[str, Any]) -> tuple[SplitLayout, ...]:
        return lay_out({name: facts[name]["tokens"] for name in SPLITS}, TRAIN_SPLIT, self._recipe)

    def _require_samples(self, layout: SplitLayout) -> None:
        if layout.packed.samples == 0:
            raise TooLittleText(
                f"The {layout.name} split has {layout.packed.tokens} tokens; one sample takes "
                f"{self._recipe.sequence_tokens + 1}.",
                hint="Import more text, lower sequence_tokens, or raise heldout_fraction.",
            )

    def _pack(self) -> Phase:
        sharding = Sharding(self._work, ENCODE, self._layouts(self._work.get(LAYOUT, 0).facts))
        tasks = sharding.tasks()
        return Phase(
            PACK,
            f"pack {self._plan.name}",
            "samples",
            [float(sharding.samples_of(shards)) for shards in tasks],
            lambda task: tasks[task],
            None,
            lambda task, shards: self._work.put(PACK, task, sharding.seal(shards)),
        )

    def commit(self, signer: Signer) -> BuildResult:
        """The tokenizer as artefact, then the manifest."""
        facts: Mapping[str, Any] = self._work.get(LAYOUT, 0).facts
        layouts = self._layouts(facts)
        tasks = Sharding(self._work, ENCODE, layouts).tasks()
        entries = [
            entry for task in range(len(tasks)) for entry in entries_of(self._work.get(PACK, task).facts)
        ]
        tokenizer_json = self._tokenizer_json()
        place = self._plan.place
        commit = DatasetCommit(place, self._work.shard_seal, self._work.store, entries)
        commit.add_artefact(TOKENIZER_ARTEFACT, tokenizer_json.encode())
        schema = sample_schema(self._recipe)
        superblock = Superblock(
            subject=f"dataset/{place.name}",
            version=place.version,
            kek=str(place.kek),
            review_digest=place.review_digest,
            chunk_log2=schema.chunk_log2,
            schema=schema,
            splits=tuple(layout.split for layout in layouts),
            artefacts=commit.artefacts,
            source_root=self._plan.source.manifest_root,
            recipe_digest=self._plan.recipe_digest,
        )
        root = commit.finish(superblock, signer)
        return BuildResult(root, self._figures(facts, layouts, vocabulary_size(tokenizer_json)))

    def _figures(
        self, facts: Mapping[str, Any], layouts: tuple[SplitLayout, ...], vocabulary: int
    ) -> dict[str, JsonValue]:
        figures: dict[str, JsonValue] = {
            "vocabulary": vocabulary,
            "sequence_tokens": self._recipe.sequence_tokens,
            "token_bytes": self._recipe.token_bytes,
            "redactions": facts["redactions"],
        }
        if held := self._work.get(HOLD, 0).facts["held"]:
            figures["quarantined"] = held
        if others := len(self._work.source.files) - len(self._source.files):
            figures["not_documents"] = others
        if SELECT in self._plan.phases:
            figures["quality"] = dict(self._work.get(SELECT, 0).facts)
        for layout in layouts:
            counted = facts[layout.name]
            figures[layout.name] = {
                "files": counted["documents"],
                **{count: counted[count] for count in _COUNTS},
                "tokens": layout.packed.tokens,
                "samples": layout.packed.samples,
                "dropped_tokens": layout.packed.dropped_tokens,
                "padding_tokens": layout.packed.padding_tokens,
            }
        return figures
