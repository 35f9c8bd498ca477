"""Making the plan of a preparation, and finding the one that an interrupted preparation left."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from stoker.core.ids import VersionId
from stoker.intake import names_model
from stoker.intake.dataset_writer import DatasetPlace, dataset_prefix
from stoker.intake.forms import phases_of, units_of
from stoker.intake.plan import (
    PLAN_FORMAT,
    PreparationPlan,
    page_bytes_for,
    page_starts,
    plan_key,
    read_plan,
    wrapped_keys,
)
from stoker.intake.sharding import sample_schema
from stoker.intake.source_reader import SourceReader
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import KeyUnknown
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef
from stoker.keys.states import KekState
from stoker.ledger.records import ReviewRecord, SourceRecord
from stoker.spec.quality import Normalisation
from stoker.spec.recipe import RecipeSpec
from stoker.store.errors import ObjectMissing, SwappedStream
from stoker.store.objects import ObjectStore

_GROWTH: Final = 16
"""How many times longer a text may become by its policy: a pseudonym of 23 bytes replaces a name of two."""

_COMPATIBILITY_GROWTH: Final = 12
"""And by NFKC: U+FDFA becomes 33 bytes of 3."""

_SPARE_SHARDS: Final = 16
"""For the ends of splits and artefacts."""


def make_plan(
    place: DatasetPlace,
    source: SourceRecord,
    review: ReviewRecord,
    recipe: RecipeSpec,
    recipe_digest: str,
    expires_s: float,
    *,
    purpose: str,
    store: ObjectStore,
    backend: KeyBackend,
    page_bytes: int | None,
) -> PreparationPlan:
    """A new plan: pages by the source's index, keys for as many shards as there can be.

    Raises what opening the source and wrapping keys raises.
    """
    keys = BackendKeySource(backend)
    with SourceReader.open(source, store, keys, backend.signer("manifest").public_key) as reader:
        units = units_of(recipe, reader)
    content_bytes = sum(unit.size_bytes for unit in units)
    size = page_bytes or page_bytes_for(content_bytes)
    starts = page_starts(units, size)
    shards = _most_shards(content_bytes, len(units), recipe)
    per_task = 1 if recipe.records.parts else max(1, size // _shard_bytes(recipe))
    phases = phases_of(recipe)
    streams = max(len(starts), shards // per_task + 1)
    return PreparationPlan(
        format=PLAN_FORMAT,
        name=place.name,
        version=place.version,
        kek=str(place.kek),
        review=review.id,
        review_digest=place.review_digest.hex(),
        purpose=purpose,
        source=source,
        recipe=recipe,
        recipe_digest=recipe_digest,
        expires_s=expires_s,
        phases=phases,
        page_starts=starts,
        shards_per_task=per_task,
        shard_keys=wrapped_keys(keys, place.kek, shards),
        work_keys=tuple(wrapped_keys(keys, place.kek, streams) for _ in phases),
        pseudonym_key=wrapped_keys(keys, place.kek, 1)[0] if recipe.policy.makes_pseudonyms else "",
        name_model=name_model_of(recipe),
    )


def name_model_of(recipe: RecipeSpec) -> str:
    """The name model as it is installed here, where the recipe asks for it. Raises MissingExtra."""
    return names_model.installed() if recipe.policy.name_model else ""


def _shard_bytes(recipe: RecipeSpec) -> int:
    schema = sample_schema(recipe)
    return schema.chunks_per_shard << schema.chunk_log2


def _most_shards(content_bytes: int, documents: int, recipe: RecipeSpec) -> int:
    """How many shards and artefacts there can be at the most: a token is a byte at least."""
    if recipe.records.parts:
        return documents // recipe.records.records_per_shard + _SPARE_SHARDS
    growth = _GROWTH * (_COMPATIBILITY_GROWTH if recipe.quality.normalise is not Normalisation.NONE else 1)
    tokens = growth * content_bytes + documents
    return tokens // (recipe.sequence_tokens * sample_schema(recipe).samples_per_shard) + _SPARE_SHARDS


def find_unfinished(
    name: str,
    recorded: Collection[str],
    source: SourceRecord,
    review: ReviewRecord,
    review_digest: bytes,
    recipe_digest: str,
    name_model: str,
    *,
    now_s: float,
    store: ObjectStore,
    backend: KeyBackend,
) -> PreparationPlan | None:
    """The newest plan of an unfinished preparation of `name` with this source, recipe and review, if any.

    One begun with another `name_model`, or with other libraries for it, is not gone on with. A plan counts
    while its KEK is active and its dataset would not have expired. Raises BrokenPlan and what opening a
    changed plan raises.
    """
    versions = sorted({key.split("/")[2] for key in store.list(f"datasets/{name}")} - set(recorded))
    for version in reversed(versions):
        if not store.exists(plan_key(dataset_prefix(name, version))):
            continue
        kek = KekRef(f"dataset/{name}/{version}", 1)
        try:
            info = backend.info(kek)
            if info.state is not KekState.ACTIVE or info.expired(now_s):
                continue
            place = DatasetPlace(name, VersionId(version), kek, review_digest)
            plan = read_plan(place, store, BackendKeySource(backend))
        except (KeyUnknown, ObjectMissing, SwappedStream):
            continue
        same = (plan.source.manifest_root, plan.recipe_digest, plan.review, plan.name_model) == (
            source.manifest_root,
            recipe_digest,
            review.id,
            name_model,
        )
        if same and now_s < plan.expires_s:
            return plan
    return None
